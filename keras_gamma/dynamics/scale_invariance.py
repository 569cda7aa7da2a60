"""Kernels in front of a normalization: their norm does not matter, so it can be held at 1."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_gamma.network.graph import Graph, Kind
from keras_gamma.network.inputs import trace
from keras_gamma.network.network import Network
from keras_gamma.network.statistics import may_keep_some
from keras_gamma.report.base import Report
from keras_gamma.report.columns import Column

# The normalizations that absorb a call, whether filter by filter, and why it is none.
Absorbed = tuple[tuple[keras.Layer, ...], bool, str | None]


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleInvariant:
    """One scale-invariant kernel.

    Args:
        path: string, the variable's path.
        layer: the layer that holds it.
        variable: the `keras.Variable`.
        per_filter: bool. Whether each filter may be scaled by a factor of its own (a batch
            normalization follows), or only the whole kernel by one.
        norms: tuple of the normalization layers that absorb it, or of the larger layers that
            normalize by code of their own.
        reason: string, one plain sentence.
    """

    path: str
    layer: keras.Layer
    variable: keras.Variable
    per_filter: bool
    norms: tuple[keras.Layer, ...]
    reason: str

    @property
    def axes(self) -> list[int]:
        """The axes of the kernel over which its norm is taken: a list of integers."""
        rank = len(self.variable.shape)
        if not self.per_filter:
            return list(range(rank))
        return list(range(rank - _filter_axes(self.layer)))


@dataclasses.dataclass(frozen=True)
class OtherKernel:
    """A kernel whose norm does matter, and why."""

    path: str
    reason: str


def _per(row: ScaleInvariant | OtherKernel) -> str:
    """What may be scaled by a factor of its own."""
    if isinstance(row, OtherKernel):
        return "no"
    return "per filter" if row.per_filter else "per kernel"


class ScaleInvariantReport(Report[ScaleInvariant]):
    """What `find_scale_invariant` found: a sequence of `ScaleInvariant`. Printed, it is a table.

    Args:
        entries: iterable of `ScaleInvariant`.
        others: dict from the paths of the other kernels to why they are none.
    """

    format = "keras_gamma.scale_invariant"
    columns = (
        Column("path", "kernel"),
        Column("per", "scale-invariant", of=_per),
        Column("reason", prose=True),
    )

    def __init__(self, entries: Iterable[ScaleInvariant], others: Mapping[str, str]) -> None:
        super().__init__(entries)
        self.others = dict(others)

    def rows(self) -> Sequence[ScaleInvariant | OtherKernel]:
        return (*self, *(OtherKernel(path, reason) for path, reason in self.others.items()))

    def summary(self) -> str:
        return f"{len(self)} of {len(self) + len(self.others)} kernels are scale-invariant."


def find_scale_invariant(model: keras.Model | Network, inputs: Any = None) -> ScaleInvariantReport:
    """Finds the kernels whose norm does not matter: those in front of a normalization.

    Multiplying such a kernel by c > 0 leaves the function as it is (up to the normalization's ε),
    so L2 on it does not regularize: it sets the effective learning rate η/‖w‖² (van Laarhoven,
    arXiv:1706.05350). Counted is what holds exactly: nothing with weights of its own, no
    sum and no activation that is not positively homogeneous lies in between, in any call of the
    layer; and no bias, unless a batch normalization takes it out with the mean.

    Args:
        model: a `keras.Model`.
        inputs: see `find_roles`.

    Returns:
        A `ScaleInvariantReport`: one `ScaleInvariant` for each such kernel; `report.others` says of
        all other kernels why they are none.

    Raises:
        TypeError, ValueError: as `find_roles`.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(4, 3, name="conv")(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Conv2D(2, 1, name="head")(y))
    >>> report = keras_gamma.dynamics.find_scale_invariant(model)
    >>> [(e.path, e.per_filter) for e in report]
    [('conv/kernel', True)]
    >>> report.others
    {'head/kernel': "It reaches an output of the model, that of 'head'."}

    Reference:

    - [van Laarhoven, 2017](https://arxiv.org/abs/1706.05350)
    """
    network = trace(model, inputs)
    graph = network.graph
    weighted: set[int] = set()
    made_by: dict[int, Any] = {}
    for step in network.steps:
        for number in step.numbers:
            if number is not None:
                made_by[number] = step.operation
                if step.is_weighted:
                    weighted.add(number)
    # One that is written out inside a larger layer goes by that layer's name. Running statistics
    # that are normalized by in training, too, follow a kernel in the long run only.
    normalizers = {c.node: c.layer for c in network.calls if c.entry.kind != "running"}
    calls: dict[int, tuple[Any, keras.Variable, list[Absorbed]]] = {}
    for number, operation in made_by.items():
        if isinstance(operation, keras.Layer) and graph.nodes[number].kind is not Kind.NORM:
            kernel = _kernel(operation)
            if kernel is not None:
                found = _absorbers(graph, number, weighted, made_by, normalizers, operation)
                calls.setdefault(id(kernel), (operation, kernel, []))[2].append(found)
    entries: list[ScaleInvariant] = []
    others: dict[str, str] = {}
    for layer, kernel, fates in calls.values():
        refusal = next((why for norms, _, why in fates if not norms), None)
        if refusal:
            others[kernel.path] = refusal
            continue
        norms = tuple(dict.fromkeys(norm for absorbing, _, _ in fates for norm in absorbing))
        per_filter = all(direct for _, direct, _ in fates)
        names = ", ".join(repr(norm.name) for norm in norms)
        entries.append(
            ScaleInvariant(
                kernel.path, layer, kernel, per_filter, norms, f"It is absorbed by {names}."
            )
        )
    return ScaleInvariantReport(entries, others)


def project_scale_invariant(model: keras.Model, inputs: Any = None) -> ScaleInvariantReport:
    """Holds ‖w‖ = 1 on every scale-invariant kernel, so that its decay is no hyperparameter.

    The kernels are normalized at once, and the statistics of the batch normalizations behind
    them are rescaled to match, so that the function stays as it is; then a constraint
    (`keras.constraints.UnitNorm`, per filter in front of a batch normalization, else per kernel)
    normalizes them after each step. It is set on layer and variable, so it survives saving. With
    ‖w‖ = 1 the effective learning rate is η itself (van Laarhoven, arXiv:1706.05350, section 5).

    Left as they are: kernels in front of a batch normalization that is not Keras' own, whose
    running statistics nobody could rescale.

    An optimizer that keeps a state for these kernels goes on with it: project before training.

    Args:
        model: a built `keras.Model`.
        inputs: see `find_roles`.

    Returns:
        The `ScaleInvariantReport` of the kernels that are held.

    Raises:
        ValueError: if a kernel has a constraint already, or a filter is 0. Nothing is changed.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(4, 3, name="conv")(x)
    >>> model = keras.Model(x, keras.layers.BatchNormalization()(y))
    >>> report = keras_gamma.dynamics.project_scale_invariant(model)
    >>> model.get_layer("conv").kernel_constraint.axis
    [0, 1, 2]

    Reference:

    - [van Laarhoven, 2017](https://arxiv.org/abs/1706.05350)
    """
    found = _that_can_be_held(find_scale_invariant(model, inputs))
    for entry in found:
        constraint = entry.variable.constraint
        if constraint is not None and not _is_unit_norm(constraint, entry.axes):
            raise ValueError(
                f"{entry.path} has a constraint already, {type(constraint).__name__}: set it to "
                "None, or leave this kernel's model as it is. Nothing was changed."
            )
    shared = collections.Counter(id(norm) for entry in found for norm in entry.norms)
    for entry in found:
        for norm in entry.norms:
            if shared[id(norm)] > 1 and isinstance(norm, keras.layers.BatchNormalization):
                raise ValueError(
                    f"{norm.name!r} normalizes the outputs of several kernels, {entry.path} among "
                    "them, and has one set of statistics for all. Nothing was changed."
                )
    norms = {entry.path: _norms(entry) for entry in found}
    for entry in found:
        if not float(keras.ops.convert_to_numpy(norms[entry.path]).min()) > 0:
            raise ValueError(
                f"A filter of {entry.path} is 0 and has no direction. Nothing changed."
            )
    for entry in found:
        _project(entry, norms[entry.path])
    return found


def _that_can_be_held(found: ScaleInvariantReport) -> ScaleInvariantReport:
    """Without kernels in front of running statistics that nobody knows how to rescale."""
    left = {
        entry.path: f"{norm.name!r} has running statistics of its own, that would not follow."
        for entry in found
        for norm in entry.norms
        if may_keep_some(norm)
    }
    kept = [entry for entry in found if entry.path not in left]
    return ScaleInvariantReport(kept, {**found.others, **left})


def _project(entry: ScaleInvariant, norm: Any) -> None:
    entry.variable.assign(entry.variable / norm)
    for layer in entry.norms:
        if isinstance(layer, keras.layers.BatchNormalization):
            scale = keras.ops.reshape(norm, (-1,)) if entry.per_filter else keras.ops.sum(norm)
            # The bias is not scaled, and the mean contains it.
            bias = getattr(entry.layer, "bias", None)
            bias = 0.0 if bias is None else bias
            layer.moving_mean.assign((layer.moving_mean - bias) / scale + bias)
            layer.moving_variance.assign(layer.moving_variance / scale**2)
    constraint = keras.constraints.UnitNorm(axis=entry.axes)
    entry.variable.constraint = constraint
    attribute = _constraint_attribute(entry.layer)
    if attribute:
        setattr(entry.layer, attribute, constraint)


def _norms(entry: ScaleInvariant) -> Any:
    squares = keras.ops.sum(keras.ops.square(entry.variable), axis=entry.axes, keepdims=True)
    return keras.ops.sqrt(squares)


def _is_unit_norm(constraint: Any, axes: list[int]) -> bool:
    return isinstance(constraint, keras.constraints.UnitNorm) and constraint.axis == axes


_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# `Conv2DTranspose` is no `Conv2D`; its filters are on another axis, so it counts per kernel only.
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_LAYERS = (*_CONVOLUTIONS, *_TRANSPOSED, keras.layers.Dense, keras.layers.EinsumDense)


def _kernel(layer: keras.Layer) -> keras.Variable | None:
    """The kernel of a layer that is linear in it, or `None`."""
    if not isinstance(layer, _LAYERS):
        return None
    return layer.kernel


def _filter_axes(layer: keras.Layer) -> int:
    return 2 if isinstance(layer, _DEPTHWISE) else 1


def _constraint_attribute(layer: keras.Layer) -> str | None:
    names = ("depthwise_constraint", "kernel_constraint")
    return next((name for name in names if hasattr(layer, name)), None)


def _absorbers(
    graph: Graph,
    start: int,
    weighted: set[int],
    made_by: Mapping[int, Any],
    normalizers: Mapping[int, keras.Layer],
    layer: keras.Layer,
) -> Absorbed:
    """The normalizations that absorb one call: `(layers, whether filter by filter, refusal)`."""
    # A fused activation is part of the call itself.
    activation = getattr(layer, "activation", None)
    plain = activation in (None, keras.activations.linear)
    if not plain and activation is not keras.activations.relu:
        return (), False, f"Its activation {getattr(activation, '__name__', activation)} follows."
    norms: list[keras.Layer] = []
    direct, stack, seen = True, [start], {start}
    while stack:
        current = stack.pop()
        label = graph.nodes[current].label
        if current in graph.outputs:
            return (), False, f"It reaches an output of the model, that of {label!r}."
        for index in graph.consumers[current]:
            node = graph.nodes[index]
            if node.kind is Kind.NORM and index in normalizers:
                norms.append(normalizers[index])
                continue
            if node.kind is Kind.NORM:
                return (), False, f"{node.label!r} normalizes it, but how is not looked into."
            simple = node.kind in (Kind.IDENTITY, Kind.LINEAR, Kind.NONLINEAR)
            if not simple or not node.homogeneous or len(node.inputs) > 1 or index in weighted:
                return (), False, f"{node.label!r} follows before a normalization does."
            direct = direct and type(made_by[index]).__name__ in _KEEP_FILTERS
            if index not in seen:
                seen.add(index)
                stack.append(index)
    if not norms:
        return (), False, "No output of the model is computed from it."
    batch = all(isinstance(norm, keras.layers.BatchNormalization) for norm in norms)
    if getattr(layer, "use_bias", getattr(layer, "bias", None) is not None) and (
        not batch or not direct or not plain
    ):
        return (), False, "Its bias does not scale with it."
    on_filters = batch and all(_normalizes_filters(norm, layer) for norm in norms)
    return tuple(norms), direct and on_filters, None


# Layers and operations after which a channel is still the same filter's.
_KEEP_FILTERS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Identity",
                 "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Cast", "ReLU",
                 "Relu", "LeakyReLU", "LeakyRelu", "Activation", "ConvertToTensor")  # fmt: skip


def _normalizes_filters(norm: keras.Layer, layer: keras.Layer) -> bool:
    """Whether the axis that a batch normalization leaves apart is that of the layer's filters."""
    last = norm.axis in (-1, norm.input_spec.ndim - 1)
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return last and channels_last and isinstance(layer, (*_CONVOLUTIONS, keras.layers.Dense))
