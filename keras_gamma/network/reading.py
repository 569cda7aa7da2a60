"""What a call is, as a node: its kind, the nodes it reads, and how it depends on their scale."""

from typing import Any, NamedTuple

import keras

from keras_gamma.network import algebra, operations, traits
from keras_gamma.network.calls import takes_weights
from keras_gamma.network.graph import Kind
from keras_gamma.network.recording import Recording
from keras_gamma.network.symbols import known, symbols_in


class Read(NamedTuple):
    """A call as it is written: its kind, the nodes it reads, how it depends on their scale.

    `parts` are the operands of a normalization that is written out.
    """

    kind: Kind
    inputs: list[int]
    power: float | str | None
    homogeneous: bool
    parts: list[int]


def read(
    recording: Recording, operation: Any, kind: Kind, args: tuple[Any, ...], data: list[Any]
) -> Read:
    """What a call is, given its operands that are data."""
    nodes, powers = recording.nodes, recording.powers
    numbers = known(recording.number_of(t) for t in data)
    if kind is Kind.ATTENTION:
        kind, numbers = _split_attention(recording, operation, args, numbers)
    power = operations.power_of(operation, args)
    inverts = operations.inverts(operation, args, data)
    if isinstance(power, str) and len(numbers) < 2:  # The other operand is a mask, say.
        power = -1.0 if inverts else 1.0
    if len(numbers) == 2:
        source = None
        if kind is Kind.PRODUCT:
            sign = 1.0 if operations.divides(operation) else -1.0
            source = algebra.normalized(nodes, powers, numbers, sign)
        elif kind is Kind.SUM:
            source = algebra.shifted(nodes, powers, numbers)
        if source is not None:
            return Read(Kind.NORM, [source], None, True, numbers)
    # What is computed from weights alone is a weight, not data; unless there is nothing else.
    own = [t for t in data if recording.varies(t)] or data
    kind = algebra.refine(
        kind,
        known(map(recording.number_of, own)),
        inverts=operations.inverts(operation, args, own),
    )
    # What joins several tensors (a concatenation) scales with all of them, not with one.
    homogeneous = len(set(numbers)) < 2
    if kind is Kind.NONLINEAR:
        homogeneous = homogeneous and operations.is_homogeneous(operation)
    return Read(kind, numbers, power, homogeneous, [])


def traits_of(
    recording: Recording,
    operation: Any,
    kind: Kind,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: Any,
) -> dict[str, Any]:
    """The fields of a node beyond its kind."""
    tensors = symbols_in((args, kwargs))
    data = [t for t in tensors if recording.number_of(t) is not None]
    own = [t for t in data if recording.varies(t)] or data
    fixed = not all(map(recording.varies, tensors))
    return {
        "weighted": fixed or takes_weights(operation, args, kwargs),
        "factor": kind is Kind.LINEAR and traits.is_factor(operation, own, outputs),
        "bounded": kind is Kind.NONLINEAR and traits.is_bounded(operation),
        "spread": _spread(recording, own) if kind is Kind.SUM else (),
    }


def _spread(recording: Recording, tensors: list[keras.KerasTensor]) -> tuple[int, ...]:
    """The numbers of those tensors that are spread over a larger one."""
    smaller = zip(tensors, traits.spread_among(tensors), strict=True)
    return tuple(known(recording.number_of(t) for t, small in smaller if small))


def _split_attention(
    recording: Recording, operation: Any, args: tuple[Any, ...], numbers: list[int]
) -> tuple[Kind, list[int]]:
    """Puts the value last; all other operands only decide how values are weighed."""
    # `AdditiveAttention([query, value, key])`, but `dot_product_attention(query, key, value)`.
    operands, place = (args[0], 1) if isinstance(operation, keras.Layer) else (args, 2)
    value = recording.number_of(operands[place]) if len(operands) > place else None
    if value is None:
        return Kind.OPAQUE, numbers
    others = list(numbers)
    others.remove(value)
    return Kind.ATTENTION, [*others, value]
