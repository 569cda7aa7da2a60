"""Learning rates that fall from block to block, from the head down (--layer_decay).

As in BEiT (arXiv:2106.08254, appendix): the head and what stands after the last block train at
the full rate, each block at `layer_decay` times that of the one after it, and what stands before
the first block (stem, embeddings, patches) at the least. A backbone of another package is one
block. Keras' `MultiOptimizer` shares the variables out.
"""

import dataclasses
import re
from collections.abc import Callable

import keras

from examples.core.cli import UsageError
from keras_gamma.decay import shrinkage

_BLOCK = re.compile(r"(?:stage\d+_block|block_|encoder_|decoder_)\d+")


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that train at one rate.

    Attributes:
        layers: their names.
        factor: of the learning rate.
    """

    layers: tuple[str, ...]
    factor: float

    @property
    def pattern(self) -> str:
        """What Keras' `OptimizerMap` finds their variables by."""
        return f"(?:{'|'.join(map(re.escape, self.layers))})/.*"

    def __str__(self) -> str:
        return f"{self.factor:.3g} for {self.layers[0]}" + ", ..." * (len(self.layers) > 1)


def groups(model: keras.Model, factor: float) -> list[Group]:
    """Returns the layers that train, from the first to the head, with the factor of each rate."""
    blocks: list[tuple[str | None, list[str]]] = [(None, [])]
    for layer in model.layers:
        if not layer.trainable_weights:
            continue
        found = _BLOCK.match(layer.name)
        name = layer.name if isinstance(layer, keras.Model) else found and found[0]
        if name is not None and name != blocks[-1][0]:
            blocks.append((name, []))
        blocks[-1][1].append(layer.name)
    last, after = blocks[-1]
    head = [name for name in after if last is not None and not name.startswith(last)]
    layers = [*(names for _, names in blocks[:-1]), [n for n in after if n not in head], head]
    kept = [tuple(names) for names in layers if names]
    return [Group(names, factor ** (len(kept) - 1 - number)) for number, names in enumerate(kept)]


def make_layerwise(
    found: list[Group], make: Callable[[float], keras.optimizers.Optimizer]
) -> keras.optimizers.Optimizer:
    """Returns an optimizer that trains each group at a rate of its own.

    Args:
        found: the groups, of one model.
        make: from the factor of a group's rate to its optimizer.

    Raises:
        UsageError: this version of Keras cannot.
    """
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        raise UsageError(
            f"--layer_decay needs keras.optimizers.MultiOptimizer; Keras {keras.__version__} has "
            "none"
        )
    optimizers = {group.pattern: make(group.factor) for group in found}
    default = optimizers[found[-1].pattern]
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(default, optimizers))


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the learning rate, the largest of several."""
    parts = getattr(optimizer, "optimizers", None) or [optimizer]
    return max(shrinkage.learning_rate(part) for part in parts)
