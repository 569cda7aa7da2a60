"""Learned gains: trainable variables, one number or one per channel, that data are multiplied by.

Behind a normalization that is written out, such a variable is its γ. Anywhere else it is a learned
scale of another kind: LayerScale's γ, ReZero's and SkipInit's α, a channel-wise affine.

`x * self.gain` shows its variable. `x * (1 + self.gain)`, or `x * ops.cast(self.gain, x.dtype)`,
multiplies by numbers that do not tell where they come from. Then the trace is made once more, with
numbers of their own in each variable, as fingerprints, only to look at the products. (In raw code
the backend's graph is asked for the numbers there would be, at once. And where no variable has as
many numbers there is nothing to ask.)

A kernel that is computed from weights may have a gain, too: weight normalization's g, or the gain
of scaled weight standardization. There the length of each channel's kernel follows the gain's
numbers.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gamma._keras import layers as _layers
from keras_gamma.network import einsums, operations
from keras_gamma.network.calls import GainCall, NormCall
from keras_gamma.network.graph import Kind, Node
from keras_gamma.network.kernels import computed_kernel
from keras_gamma.network.normalizations import (
    Normalization,
    holders,
    is_layer_scale,
    kind_from_name,
    variables_by_name,
)
from keras_gamma.network.recording import Recording

_KERNELS = frozenset(
    ("Conv", "ConvTranspose", "DepthwiseConv", "Dot", "Einsum", "Matmul", "Tensordot")
)
_FEWEST = 3  # channels whose lengths tell a gain from chance
_TOLERANCE = 5e-3  # of those lengths
_REACH = 6  # nodes between a gain and the normalization that it belongs to


# The layer that holds a variable, under which name.
_Held = tuple[keras.Layer, str, keras.Variable]


class Gain(NamedTuple):
    """A variable found in an operand: `neutral` is 0.0 where 1 is added to it."""

    layer: keras.Layer
    name: str
    variable: keras.Variable
    neutral: float


class Gains:
    """Looks for gains while a trace is written.

    Args:
        recording: the `Recording`.
        scope: the `keras.StatelessScope` of the trace.
        fingerprints: whether to put fingerprints in it, or to leave every variable as it is. Then
            the recording counts the products that may have a gain for all that is known.
    """

    def __init__(
        self, recording: Recording, scope: keras.StatelessScope, fingerprints: bool = False
    ) -> None:
        self._recording = recording
        self._trace = scope
        self._scope = scope if fingerprints else None
        self._prints: dict[int, np.ndarray[Any, Any]] = {}
        self._random = np.random.default_rng(0)
        self._holders: dict[int, list[keras.Layer]] = {}

    def watch(self, layer: keras.Layer) -> None:
        """Gives the variables of a layer that is about to be opened their fingerprints."""
        if self._scope is None or not _may_hold(layer):
            return
        for variable in [v for one in holders(layer) for v in variables_by_name(one).values()]:
            if _may_scale(variable) and id(variable) not in self._prints:
                numbers = self._fingerprint(variable)
                value = keras.ops.convert_to_tensor(numbers, dtype=variable.dtype)
                self._scope.add_update((variable, value))

    def _fingerprint(self, variable: keras.Variable) -> np.ndarray[Any, Any]:
        """Numbers of its own for a variable."""
        if id(variable) not in self._prints:
            numbers = self._random.uniform(0.5, 1.5, variable.shape).astype("float32")
            self._prints[id(variable)] = numbers
        return self._prints[id(variable)]

    def look(
        self, operation: Any, args: Sequence[Any], node: int, scope: Sequence[keras.Layer]
    ) -> None:
        """Notes the gain in a product of data, written as `node`."""
        self._look_at_kernel(operation, args, node, scope)
        name = operations.name_of(operation) if len(args) == 2 else None
        if name not in ("Multiply", "Einsum"):
            return
        fixed = [i for i, arg in enumerate(args) if self._recording.number_of(arg) is None]
        if fixed and (name == "Multiply" or einsums.scales_elements(operation, 1 - fixed[0])):
            self.look_at(args[fixed[0]], node, scope)

    def look_at(self, operand: Any, node: int, scope: Sequence[keras.Layer]) -> None:
        """Notes a gain that data are multiplied by, written as `node`, if `operand` is one."""
        written = self._recording.nodes[node]
        if written.kind is Kind.LINEAR and len(written.inputs) == 1:
            gain = self.of(operand, scope)
            if gain is not None:
                self._note(gain, written.inputs[0], node)

    def _look_at_kernel(
        self, operation: Any, args: Sequence[Any], node: int, scope: Sequence[keras.Layer]
    ) -> None:
        """Notes the gain of a kernel that is computed from weights."""
        written = self._recording.nodes[node]
        if written.kind is not Kind.LINEAR or len(written.inputs) != 1:
            return
        operands = [arg for arg in args if self._recording.number_of(arg) is None]
        if isinstance(operation, keras.Layer):
            operands = self._computed(operation, scope)
        elif operations.name_of(operation) not in _KERNELS:
            return
        for operand in operands:
            for gain in self._of_kernel(operand, scope):
                call = GainCall(
                    gain.layer, gain.name, gain.variable, gain.neutral, node, "kernel_gain"
                )
                self._recording.gains.append(call)

    def _computed(self, layer: keras.Layer, scope: Sequence[keras.Layer]) -> list[Any]:
        """The kernel of one of Keras' layers that a layer around it has computed, if one has."""
        around = [outer for outer in scope[:-1] if not isinstance(outer, keras.Model)]
        kernel = computed_kernel(layer, around[-1], self._trace) if around else None
        if kernel is None:
            return []
        self._recording.computed[id(layer)] = kernel
        return [kernel.value]

    def _of_kernel(self, operand: Any, scope: Sequence[keras.Layer]) -> Iterator[Gain]:
        shape = tuple(getattr(operand, "shape", None) or ())
        if len(shape) < 2 or isinstance(operand, (keras.Variable, keras.KerasTensor)):
            return
        held = [
            h
            for h in self._held(scope)
            if max(h[2].shape, default=0) in {d for d in shape if d > 1}
        ]
        values = self._numbers(operand, held)
        if values is None:
            return
        for layer, name, variable in held:
            print_ = self._prints.get(id(variable))
            if print_ is None:
                continue
            for neutral in (1.0, 0.0):
                if _scales_kernel(values, print_.ravel() + (1.0 - neutral)):
                    yield Gain(layer, name, variable, neutral)

    def of(self, operand: Any, scope: Sequence[keras.Layer]) -> Gain | None:
        """The variable of a layer being run that `operand` is, or is computed from."""
        if operand is None or isinstance(operand, (int, float, keras.KerasTensor)):
            return None
        if isinstance(operand, keras.Variable):
            for layer, name, variable in self._held(scope, of_any_shape=True):
                if variable is operand:
                    return Gain(layer, name, variable, 1.0)
            return None
        shape = getattr(operand, "shape", None)
        if shape is None or sum(d != 1 for d in shape) > 1:
            return None
        size = None if None in shape else math.prod(shape)
        held = [h for h in self._held(scope) if size in (None, math.prod(h[2].shape))]
        numbers = self._numbers(operand, held)
        return None if numbers is None else self._with_fingerprint(numbers.ravel(), held)

    def _numbers(self, operand: Any, held: Sequence[_Held]) -> np.ndarray[Any, Any] | None:
        """What an operand is where variables have their fingerprints.

        Returns:
            An array; or `None` if no variable among `held` takes part, or if that is not known in
            this trace, which is then written down.
        """
        if not held:
            return None
        if self._scope is not None:
            number = operand.number() if hasattr(operand, "number") else operand
        else:
            try:
                number = operand.number_with([(v, self._fingerprint(v)) for _, _, v in held])
            except Exception:  # No tensor of raw code; or whatever its operations raise.
                self._recording.unresolved += 1
                return None
        if number is None:
            return None
        return np.asarray(keras.ops.convert_to_numpy(number)).astype("float32")

    def _with_fingerprint(self, values: Any, held: Sequence[_Held]) -> Gain | None:
        for layer, name, variable in held:
            print_ = self._prints.get(id(variable))
            if print_ is None or print_.size != values.size:
                continue
            for neutral in (1.0, 0.0):
                numbers = print_.ravel() + (1.0 - neutral)
                # Numbers of half precision have three digits.
                if np.allclose(values, numbers, atol=0.02) or _is_multiple(values, numbers):
                    return Gain(layer, name, variable, neutral)
        return None

    def _held(self, scope: Sequence[keras.Layer], of_any_shape: bool = False) -> Iterator[_Held]:
        """The variables of the layers being run, innermost first, that may be gains.

        One of any shape may be the γ of a normalization that it stands behind, for each head, say.
        """
        for layer in reversed(scope):
            if not _may_hold(layer):
                continue
            if id(layer) not in self._holders:
                self._holders[id(layer)] = holders(layer)
            for holder in self._holders[id(layer)]:
                for name, variable in variables_by_name(holder).items():
                    if _may_scale(variable) or (of_any_shape and variable.trainable):
                        yield holder, name, variable

    def _note(self, gain: Gain, source: int, node: int) -> None:
        recording = self._recording
        while _only_scales(recording.nodes[source]):
            (source,) = recording.nodes[source].inputs
        if recording.nodes[source].kind is Kind.NORM and not self._has_scale(source):
            recording.calls.append(NormCall(gain.layer, _entry(gain), source))
        elif _may_scale(gain.variable):
            call = GainCall(gain.layer, gain.name, gain.variable, gain.neutral, node)
            recording.gains.append(call)

    def _has_scale(self, norm: int) -> bool:
        calls = (call for call in self._recording.calls if call.node == norm)
        return any(call.entry.variable(call.layer) is not None for call in calls)

    def absorb(self, norm: int, operands: Sequence[int]) -> None:
        """A gain on the way into a normalization that is written out is its γ.

        `x * (rsqrt(var(x)) * gain)`, say.
        """
        recording = self._recording
        (source,) = recording.nodes[norm].inputs
        near, stack = set(operands), [(operand, _REACH) for operand in operands]
        while stack:
            number, steps = stack.pop()
            if steps and number > source:
                near.update(recording.nodes[number].inputs)
                stack.extend((i, steps - 1) for i in recording.nodes[number].inputs)
        for call in [c for c in recording.gains if c.node in near and c.node > source]:
            recording.gains.remove(call)
            gain = Gain(call.layer, call.name, call.variable, call.neutral)
            recording.calls.append(NormCall(call.layer, _entry(gain), norm))
        for index, found in enumerate(recording.calls):
            if found.node in near and found.node > source:  # A part of what is one.
                recording.calls[index] = dataclasses.replace(found, node=norm)


def _scales_kernel(values: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any]) -> bool:
    """Whether the lengths of a kernel's channels, along some axis, go with `numbers`."""
    if numbers.size < _FEWEST:
        return False
    for axis in (axis for axis, size in enumerate(values.shape) if size == numbers.size):
        others = tuple(i for i in range(values.ndim) if i != axis)
        ratios = np.sqrt(np.sum(np.square(values), axis=others)) / numbers
        if ratios.min() > 0 and ratios.max() - ratios.min() <= _TOLERANCE * ratios.max():
            return True
    return False


def _is_multiple(values: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any]) -> bool:
    """Whether `values` are `numbers` times one factor, as in `x * (self.gain * √channels)`."""
    if numbers.size < _FEWEST:
        return False
    ratios = values / numbers
    return bool(ratios.min() > 0 and ratios.max() - ratios.min() <= _TOLERANCE * ratios.max())


def _only_scales(node: Node) -> bool:
    """Whether a call leaves its input as it is, but for its form and a fixed factor."""
    is_fixed = node.kind is Kind.LINEAR and node.factor and not node.weighted
    return (node.kind is Kind.IDENTITY or is_fixed) and len(node.inputs) == 1


def _entry(gain: Gain) -> Normalization:
    return Normalization(kind_from_name(type(gain.layer)), gain.name, gain.neutral)


def _may_hold(layer: keras.Layer) -> bool:
    """Keras' own layers document their variables, but for LayerScale of its applications."""
    return not _layers.is_layer_of_keras(layer) or is_layer_scale(layer)


def _may_scale(variable: keras.Variable) -> bool:
    return bool(variable.trainable) and sum(d != 1 for d in variable.shape) < 2
