"""Small sums outside of a training step: worked out as one program, where each would be one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras

_Result = TypeVar("_Result")

# Of variables: beyond, one large program takes longer to compile than its few kinds of operations.
MOST = 128


def at_once(function: Callable[[], _Result]) -> _Result:
    """Calls `function`; on JAX, compiled as a whole.

    There each kind of operation, on each shape, is compiled when it is first run by hand: a few
    hundredths of a second, where the result takes none. What is made of constants alone XLA works
    out while it compiles. What cannot be compiled (it decides in Python) is run by hand after all.

    Args:
        function: without arguments and without side effects; best of NumPy's arrays, which are
            constants to JAX.

    Example:

    >>> import keras, numpy as np
    >>> from keras_gamma._keras.at_once import at_once
    >>> float(at_once(lambda: keras.ops.sum(np.ones(3, "float32"))))
    3.0
    """
    if keras.backend.backend() != "jax":
        return function()
    import jax

    try:
        result: _Result = jax.jit(function)()
    except Exception:
        return function()
    return result


def step_of(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    compiled: bool = True,
) -> list[Any]:
    """What a step of a built optimizer makes of the variables that it was built for.

    The variables may have changed afterwards, or not: on JAX a step is a function.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.
        gradients: NumPy arrays.
        variables: list of `keras.Variable`.
        compiled: bool, whether JAX may compile it: of Keras' own code alone, for what another does
            beside its step, it may do twice.

    Returns:
        A list of NumPy arrays.
    """

    def step() -> list[Any]:
        state, before = (
            [keras.ops.convert_to_numpy(v) for v in some]
            for some in (optimizer.variables, variables)
        )
        return list(optimizer.stateless_apply(state, list(gradients), before)[0])

    after: Sequence[Any] = variables
    if compiled and keras.backend.backend() == "jax" and len(variables) <= MOST:
        after = at_once(step)
    else:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], list(variables))
    return [keras.ops.convert_to_numpy(value) for value in after]
