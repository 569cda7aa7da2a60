"""`Network`: what one trace of a model saw, as a value that is handed on."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import keras

from keras_gamma.network.calls import GainCall, NormCall, Step
from keras_gamma.network.graph import Graph
from keras_gamma.network.kernels import Computed

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model as a graph of calls, traced once.

    Whatever takes a model also takes its network, and does not trace it again.

    Attributes:
        model: the `keras.Model` that was traced.
        graph: a `Graph`.
        calls: tuple of `NormCall`, in the order of computation.
        gains: tuple of `GainCall`: products with learned gains that are no normalization's.
        opaque: dict from the id of each layer in a part that could not be opened to the cause.
        computed: dict from the id of each layer of Keras whose kernel a layer around it computes
            on each call to a `Computed`.
        measured: dict from the id of a γ that acts through closed code to the name of the role that
            running shows, and a sentence; see `keras_gamma.checks.measure`.
        written_out: dict from the node of each normalization that is written out to the layer whose
            `call` does so.
        rejected: ids of layers that look like normalizations but do not behave as one.
        inputs: tuple of the `KerasTensor`s it was traced on.
        steps: tuple of `Step`, in the order of computation.
        outputs: tuple of `KerasTensor`s.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8,))
    >>> model = keras.Model(x, keras.layers.LayerNormalization(name="norm")(x), name="net")
    >>> network = keras_gamma.network.trace(model)
    >>> network
    <Network of 'net': 3 nodes, 1 normalization call, 0 closed layers>
    >>> len(keras_gamma.find_roles(network))
    1
    """

    model: keras.Model
    graph: Graph
    calls: tuple[NormCall, ...]
    gains: tuple[GainCall, ...]
    opaque: dict[int, str]
    rejected: frozenset[int]
    inputs: tuple[keras.KerasTensor, ...]
    steps: tuple[Step, ...]
    outputs: tuple[keras.KerasTensor, ...]
    computed: dict[int, Computed] = dataclasses.field(default_factory=dict)
    measured: dict[int, tuple[str, str]] = dataclasses.field(default_factory=dict)
    written_out: dict[int, keras.Layer] = dataclasses.field(default_factory=dict)
    _derived: dict[Callable[[Graph], Any], Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def derive(self, function: Callable[[Graph], _T]) -> _T:
        """What a pure `function` of the graph returns: computed when it is first asked for.

        Args:
            function: takes a `Graph`. Its result is shared, and must not be changed.
        """
        if function not in self._derived:
            self._derived[function] = function(self.graph)
        found: _T = self._derived[function]
        return found

    def __repr__(self) -> str:
        calls = f"{len(self.calls)} normalization call" + "s" * (len(self.calls) != 1)
        closed = f"{len(self.opaque)} closed layer" + "s" * (len(self.opaque) != 1)
        return f"<Network of {self.model.name!r}: {len(self.graph.nodes)} nodes, {calls}, {closed}>"
