"""How strong branches are beside their skips, measured at every residual join."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_gamma.network.inputs import trace
from keras_gamma.network.network import Network
from keras_gamma.network.replay import run_once
from keras_gamma.roles.joins import find_joins


@dataclasses.dataclass(frozen=True)
class BranchRatio:
    """One residual join.

    Args:
        label: string, the name of the sum.
        branch: float, the variance of what the branches add.
        skip: float, the variance of what the skip carries.
    """

    label: str
    branch: float
    skip: float

    @property
    def ratio(self) -> float:
        """Variance of the branch over that of the skip; infinite if the skip is constant."""
        return self.branch / self.skip if self.skip else np.inf


class BranchMeter:
    """Measures the branches of one model, again and again, on one batch.

    Args:
        model: a built `keras.Model`, or its network, traced on `batch`.
        batch: array, or a structure of arrays, as `model(batch)` takes it.

    Raises:
        TypeError, ValueError: as `find_roles`.
    """

    def __init__(self, model: keras.Model | Network, batch: Any) -> None:
        arrays = tree.map_structure(np.asarray, batch)
        self._arrays = tree.flatten(arrays)
        self._network = network = trace(model, None if isinstance(model, Network) else arrays)
        traced = [tuple(tensor.shape) for tensor in network.inputs]
        if traced != [array.shape for array in self._arrays]:
            raise ValueError(
                f"The network was traced on inputs of shapes {traced}. Received: a batch of shapes "
                f"{[array.shape for array in self._arrays]}. Trace it on the batch: "
                "keras_gamma.network.trace(model, batch)."
            )
        # From the node of each residual join to its skip and its branches.
        self._joins = {
            index: (join.skip, join.branches)
            for index, join in network.derive(find_joins).items()
            if join.skip is not None and join.merged_into is None
        }
        # The names of sums that Keras did not name may be the same.
        labels: dict[str, int] = {}
        self._labels = {}
        for index in self._joins:
            label = network.graph.nodes[index].label
            labels[label] = labels.get(label, 0) + 1
            self._labels[index] = label if labels[label] == 1 else f"{label}#{labels[label]}"

    def measure(self) -> list[BranchRatio]:
        """Runs the model once; returns a list of `BranchRatio`, in data-flow order.

        Variances are those over all elements of a tensor. Batch normalizations use the statistics
        of the batch, and there is no dropout.
        """
        watch: dict[int, Callable[[Any], Any]] = {}
        for skip, branches in self._joins.values():
            for operand in (skip, *branches):
                watch[operand] = _as_float
        tensors = run_once(self._network, self._arrays, watch)
        found = []
        for index, (skip, branches) in self._joins.items():
            if not branches:  # x + x
                continue
            added = _variance(sum(tensors[branch] for branch in branches))
            found.append(BranchRatio(self._labels[index], added, _variance(tensors[skip])))
        return found


def branch_ratios(model: keras.Model | Network, batch: Any) -> list[BranchRatio]:
    """The variance of every branch beside that of its skip, at each residual join.

    The ratio decides how much a block adds to the stream: at the start of training, batch
    normalization keeps it near 1 over the number of blocks before (De & Smith,
    arXiv:2002.10444), and the γ whose role is `residual_last` set it from then on.

    Args:
        model: a built `keras.Model`, or its network, traced on `batch`. It stays as it is.
        batch: array, or a structure of arrays, as `model(batch)` takes it, with the batch first.

    Returns:
        A list of `BranchRatio(label, branch, skip)`, with `.ratio`, in data-flow order.

    Raises:
        TypeError, ValueError: as `find_roles`.

    Example:

    >>> import keras, keras_gamma, numpy as np
    >>> x = keras.Input((8,))
    >>> y = keras.layers.LayerNormalization(gamma_initializer=keras.initializers.Constant(2.0))(x)
    >>> model = keras.Model(x, keras.layers.Add(name="join")([x, y]))
    >>> batch = np.random.default_rng(0).normal(size=(512, 8))
    >>> [(r.label, round(r.branch, 1)) for r in keras_gamma.dynamics.branch_ratios(model, batch)]
    [('join', 4.0)]

    Reference:

    - [De & Smith, 2020](https://arxiv.org/abs/2002.10444)
    """
    return BranchMeter(model, batch).measure()


def _as_float(tensor: Any) -> Any:
    return keras.ops.cast(tensor, "float32")


def _variance(tensor: Any) -> float:
    return float(keras.ops.convert_to_numpy(keras.ops.var(tensor)))
