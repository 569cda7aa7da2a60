"""Optimizers: their exclude lists, their decay, and how gradients are added over replicas.

Private names used here, and why there is no public way:

* `Optimizer._apply_weight_decay`, `_use_weight_decay`, `_exclude_from_weight_decay`,
  `_exclude_from_weight_decay_pattern`, `_trainable_variables`: Keras' exclude list can be
  replaced, but neither read nor extended, and knows no strength per variable. From Keras 3.16 on
  (`_is_excluded_from_weight_decay`) the list is looked at when the optimizer is built.
* `Optimizer._get_current_learning_rate`: what Keras itself asks, past `Optimizer.learning_rate`.
* `tf.__internal__.distribute.interim.maybe_merge_call`: where Keras' own weight decay changes
  variables of several replicas.
* `Variable._path`, `Optimizer._var_key`: to try an optimizer on small stand-ins for variables.
* `Optimizer._all_reduce_sum_gradients`: under `tf.distribute`, Keras adds the replicas' gradients
  up only after each replica has clipped its own, and has looked for overflow in its own.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import exclusions


def is_decayed(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """What `optimizer` itself says: whether its weight decay acts on `variable`."""
    if exclusions.is_undecided(optimizer, variable):
        return not optimizer._is_excluded_from_weight_decay(variable)
    return bool(optimizer._use_weight_decay(_as_in_a_step(variable)))


def _as_in_a_step(variable: Any) -> Any:
    """What an optimizer's step matches its name patterns against: on TensorFlow, the raw variable.

    Keras' is called `gamma`, TensorFlow's `bn/gamma:0`.
    """
    raw = keras.backend.backend() == "tensorflow" and isinstance(variable, keras.Variable)
    return variable.value if raw else variable


def exclude(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> None:
    """Adds `variables` to an optimizer's exclude list, and keeps what is on it.

    `Optimizer.exclude_from_weight_decay` replaces the list, and refuses (in vain: it asks for a
    name that is never set; from Keras 3.16 on in earnest) once the optimizer is built.
    """
    before: set[str] = getattr(optimizer, "_exclude_from_weight_decay", set())
    if exclusions.DECIDES_WHEN_BUILT:
        keys = {optimizer._var_key(variable) for variable in variables}
        exclusions.set_list(optimizer, before | keys)
        return
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    names = None if pattern is None else [pattern.pattern]
    optimizer.exclude_from_weight_decay(var_list=list(variables), var_names=names)
    optimizer._exclude_from_weight_decay = before | optimizer._exclude_from_weight_decay


def listed(optimizer: keras.optimizers.Optimizer) -> Hashable:
    """What is on an optimizer's exclude list now: something to compare with later."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    variables = frozenset(getattr(optimizer, "_exclude_from_weight_decay", ()))
    return variables, None if pattern is None else pattern.pattern


def variables_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that a built optimizer updates."""
    return list(optimizer._trainable_variables)


def path_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> str:
    """The path of a Keras variable, or of the one behind a backend's own."""
    if isinstance(variable, keras.Variable):
        return str(variable.path)
    return next(str(v.path) for v in optimizer._trainable_variables if v.value is variable)


def stand_in(
    variable: keras.Variable, shape: tuple[int, ...], value: Any, dtype: str = "float32"
) -> keras.Variable:
    """A new variable of another shape that has the name and path of `variable`."""
    # Not a view: torch refuses to write to one in place. And NumPy's, which JAX need not compile.
    content = np.array(np.broadcast_to(value, shape), "float32")
    new = keras.Variable(content, trainable=True, dtype=dtype, name=variable.name)
    new._path = variable.path
    return new


def copy_exclusions(
    source: keras.optimizers.Optimizer,
    target: keras.optimizers.Optimizer,
    pairs: Iterable[tuple[keras.Variable, keras.Variable]],
) -> None:
    """Excludes on `target` what `source` excludes; `pairs` are of their variables."""
    pairs = list(pairs)
    cache = getattr(source, "_exclude_from_weight_decay_cache", None)
    before = None if cache is None else dict(cache)
    spared = [new for old, new in pairs if not is_decayed(source, old)]
    if before is None:
        vars(source).pop("_exclude_from_weight_decay_cache", None)
    else:
        source._exclude_from_weight_decay_cache = before
    if spared:
        exclude(target, spared)


def add_to_each(pairs: Iterable[tuple[Any, keras.Variable]], sign: float) -> None:
    """Adds `sign` times the second variable of each pair to the first, within a step.

    Args:
        pairs: pairs of a Keras variable, or the one behind it in TensorFlow, and a Keras variable.
        sign: 1 or −1.
    """
    pairs = list(pairs)
    if keras.backend.backend() != "tensorflow":
        for variable, other in pairs:
            variable.assign(variable + sign * other)
        return
    import tensorflow as tf

    def add(variable: Any, other: Any) -> None:
        variable.assign_add(sign * other)

    def add_all(strategy: Any) -> None:
        for variable, other in pairs:
            raw = variable.value if isinstance(variable, keras.Variable) else variable
            strategy.extended.update(raw, add, args=(other.value,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(add_all, tf.distribute.get_strategy())


def as_made(cls: type[keras.optimizers.Optimizer]) -> type:
    """The class that Keras makes an optimizer of where `cls` is called.

    With torch that is one which updates all variables at once; a class derived from `cls` itself
    would go through them one by one.
    """
    make: Any = cls.__new__
    return type(make(cls)) if keras.backend.backend() == "torch" else cls


class WeightDecayHook:
    """Mixin for the front of a Keras optimizer: `decay_variables` in place of its weight decay.

    Keras asks for the learning rate once for each variable that decays, and once for the step:
    with a schedule each answer is computed, and a part of the compiled step. All of a step goes by
    one answer here.
    """

    weight_decay: float | None
    gradient_accumulation_steps: int | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rate = _Rate()

    def _get_current_learning_rate(self) -> Any:
        return self._rate.ask(super()._get_current_learning_rate)  # type: ignore[misc]

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return config

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        # Where gradients are accumulated, the step is one branch of a condition.
        kept = contextlib.nullcontext() if self.gradient_accumulation_steps else self._rate.kept()
        with kept:
            super().apply(grads, trainable_variables)  # type: ignore[misc]

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        if self.weight_decay is None and getattr(self, "adam_weight_decay", None) is None:
            return
        with self._rate.kept():
            self.decay_variables(variables, super()._apply_weight_decay)  # type: ignore[misc]

    def decay_variables(
        self,
        variables: list[keras.Variable],
        keras_decay: Callable[[list[keras.Variable]], None],
    ) -> None:
        """Decays `variables`; `keras_decay` does it in Keras' own way, all alike."""
        keras_decay(variables)


class _Rate:
    """A learning rate, while it is kept."""

    def __init__(self) -> None:
        self._keepers = 0  # Replicas take turns in a step.
        self._value: Any = None

    def ask(self, rate: Callable[[], Any]) -> Any:
        """What `rate` says, or has said since the rate is kept."""
        if not self._keepers:
            return rate()
        if self._value is None:
            self._value = rate()
        return self._value

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the first answer is kept."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            if not self._keepers:
                self._value = None


@contextlib.contextmanager
def gradients_added_first(
    optimizer: keras.optimizers.Optimizer, add: Callable[[list[Any]], Iterable[Any]]
) -> Iterator[None]:
    """Lets a TensorFlow optimizer add up the gradients of all replicas before it does anything.

    Keras clips the gradient of each replica by itself, so that the effect of `global_clipnorm`
    depends on the number of replicas, and a `LossScaleOptimizer` asks the first replica alone
    whether there was an overflow. An optimizer that holds several others is left as it is.

    Args:
        optimizer: an optimizer; as it was afterwards.
        add: function that takes a list of gradients, and returns their sums over the replicas.
    """
    inner = optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = optimizer.inner_optimizer
    parts = keras.tree.flatten(list(vars(inner).values()))
    if any(isinstance(part, keras.optimizers.Optimizer) for part in parts):
        yield
        return
    apply = optimizer.apply

    def apply_sum(grads: Iterable[Any], trainable_variables: Any = None) -> Any:
        sums = iter(add([grad for grad in grads if grad is not None]))
        return apply([grad if grad is None else next(sums) for grad in grads], trainable_variables)

    optimizer.apply = apply_sum
    inner._all_reduce_sum_gradients = list  # They are sums already.
    try:
        yield
    finally:
        del optimizer.apply, inner._all_reduce_sum_gradients
