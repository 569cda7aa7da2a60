"""Shapes and dtypes of what a call yields, by Keras' own means."""

import functools
import inspect
from typing import Any

import keras
from keras import tree

from keras_gamma._keras import layers as _layers
from keras_gamma.network.symbols import symbol

_MERGING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


class Shapes:
    """Infers the outputs of calls, and tells the layers that need no care around their `call`."""

    def __init__(self) -> None:
        self._simple: dict[type, bool] = {}

    def is_simple(self, operation: Any) -> bool:
        """Whether it is one of Keras' own layers, whose `__call__` and masks are the usual ones."""
        kind = type(operation)
        simple = self._simple.get(kind)
        if simple is None:
            simple = self._simple[kind] = (
                isinstance(operation, keras.Layer)
                and _layers.is_layer_of_keras(operation)
                and not isinstance(operation, keras.Model)
                and kind.__call__ is keras.Layer.__call__
                # Where no mask comes in, these make none.
                and (kind.compute_mask is keras.Layer.compute_mask or kind in _MERGING)
            )
        return simple

    def infer(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of `operation`, a structure of symbolic tensors.

        Raises:
            Exception: whatever the operation's own inference raises.
        """
        shape = self._shape_after(operation, args)
        if shape is not None:
            return symbol(shape, operation.compute_dtype)
        if "training" in kwargs and not _takes(operation.compute_output_spec, "training"):
            kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        try:
            return operation.compute_output_spec(*args, **kwargs)
        except Exception:
            if isinstance(operation, keras.Layer):
                raise
            # Some operations infer less than they can run: `Einsum` with capital letters.
            return _Run(operation, args, kwargs).infer()

    def _shape_after(self, operation: Any, args: tuple[Any, ...]) -> Any:
        """The output's shape, where the layer has a plain function for it, else `None`."""
        kind = type(operation)
        if (
            not self.is_simple(operation)
            or kind.compute_output_spec is not keras.Layer.compute_output_spec
            or kind.compute_output_shape is keras.Layer.compute_output_shape
            or len(args) != 1
            or not isinstance(args[0], keras.KerasTensor)
        ):
            return None
        shape = args[0].shape
        return _recorded_shape(operation, shape) or operation.compute_output_shape(shape)


def _recorded_shape(layer: keras.Layer, shape: Any) -> tuple[int, ...] | None:
    """What a Functional model knows of it: for convolutions that saves Keras a while.

    The record leaves the batch dimension open, which layers of Keras hand on.
    """
    try:
        taken, made = layer.input.shape, layer.output.shape
    except (AttributeError, ValueError):  # It was never called so, or has several outputs.
        return None
    if taken[1:] != shape[1:] or taken[:1] != (None,) or made[:1] != (None,) or None in made[1:]:
        return None
    return (shape[0], *made[1:])


def fits(spec: Any, tensors: Any) -> bool:
    """Whether tensors are what a layer was built for."""
    if not isinstance(spec, keras.InputSpec) or len(tensors) != 1:
        return False
    shape = tensors[0].shape
    if spec.shape is not None or (spec.ndim is not None and len(shape) != spec.ndim):
        return False
    if spec.min_ndim is not None and len(shape) < spec.min_ndim:
        return False
    if spec.max_ndim is not None and len(shape) > spec.max_ndim:
        return False
    return all(
        value is None or (-len(shape) <= axis < len(shape) and shape[axis] in (value, None))
        for axis, value in (spec.axes or {}).items()
    )


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class _Run(keras.Layer):  # type: ignore[misc]
    """Runs one operation, so that Keras infers its outputs from what the backend does.

    Only the tensors among the arguments are passed: JAX takes no weight as an argument.
    """

    def __init__(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self._operation = operation
        self._leaves = tree.flatten((args, kwargs))
        self._pack = functools.partial(tree.pack_sequence_as, (args, kwargs))
        self._places = [
            i for i, leaf in enumerate(self._leaves) if isinstance(leaf, keras.KerasTensor)
        ]

    def infer(self) -> Any:
        return self.compute_output_spec(*(self._leaves[i] for i in self._places))

    def call(self, *tensors: Any) -> Any:
        given = dict(zip(self._places, tensors, strict=True))
        args, kwargs = self._pack([given.get(i, leaf) for i, leaf in enumerate(self._leaves)])
        return self._operation(*args, **kwargs)
