"""What a trace writes down beside the graph: calls of normalizations, and steps to run again."""

import dataclasses
from typing import Any, NamedTuple

import keras
from keras import tree

from keras_gamma.network.normalizations import Normalization


@dataclasses.dataclass(frozen=True)
class NormCall:
    """One call of a normalization: the layer, its registry entry, and its node's number."""

    layer: keras.Layer
    entry: Normalization
    node: int


@dataclasses.dataclass(frozen=True)
class GainCall:
    """One product of data with a learned gain that is no normalization's (LayerScale's γ, say).

    Args:
        layer: the layer that holds the gain.
        name: string, the attribute that holds it.
        variable: the `keras.Variable`: one number, or one per channel.
        neutral: float, the stored value that leaves the data unscaled: 1.0, or 0.0 where 1 is
            added to it.
        node: the number of the product's node.
        kind: string: `"gain"`, or `"kernel_gain"` if it scales a kernel before that meets data.
    """

    layer: keras.Layer
    name: str
    variable: keras.Variable
    neutral: float
    node: int
    kind: str = "gain"


class Step(NamedTuple):
    """One call that was not opened any further, as it can be made again with numbers.

    Args:
        operation: a `keras.Operation`, or a function for a view on a tensor.
        args: its positional arguments, with `KerasTensor`s in them.
        kwargs: its keyword arguments.
        outputs: structure of `KerasTensor`s.
        numbers: tuple, the node number of each output, `None` where it is no node.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    numbers: tuple[int | None, ...]

    @property
    def is_weighted(self) -> bool:
        """Whether a weight of the model takes part in it."""
        return takes_weights(self.operation, self.args, self.kwargs)


def takes_weights(operation: Any, args: Any, kwargs: Any) -> bool:
    """Whether a weight of the model takes part in a call."""
    if isinstance(operation, keras.Layer) and operation.weights:
        return True
    if getattr(operation, "is_weighted", False):  # of a backend's graph
        return True
    return any(isinstance(leaf, keras.Variable) for leaf in tree.flatten((args, kwargs)))
