"""Reaching the optimizer that does the decay, inside those that hold others."""

from __future__ import annotations

from typing import Any

import keras


def unwrap(optimizer: Any) -> keras.optimizers.Optimizer:
    """The optimizer that does the decay: the inner one of a `LossScaleOptimizer`.

    Raises:
        TypeError: if it is no Keras optimizer.
        ValueError: if it holds several.
    """
    inner = parts(optimizer)
    if len(inner) == 1 and not holds_several(optimizer):
        return inner[0]
    raise ValueError(
        f"{type(optimizer).__name__} holds several optimizers, each with a weight decay of "
        "its own: call exclude_from_weight_decay before they are put together, or use one "
        "optimizer of keras_gamma.optimizers, which takes a strength per variable."
    )


def parts(optimizer: Any) -> list[keras.optimizers.Optimizer]:
    """All optimizers that do the decay: the inner ones of a `MultiOptimizer`, too.

    Raises:
        TypeError: if it is no Keras optimizer.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return parts(optimizer.inner_optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "Expected a Keras optimizer such as keras.optimizers.AdamW(...). "
            f"Received: {optimizer!r} (of type {type(optimizer).__name__})"
        )
    if holds_several(optimizer):
        return [part for inner in optimizer.optimizers for part in parts(inner)]
    return [optimizer]


def has_factors(optimizer: Any) -> bool:
    """Whether it is one of `keras_gamma.optimizers`, which know a strength for each variable."""
    return hasattr(optimizer, "set_decay")


def holds_several(optimizer: Any) -> bool:
    """Whether each of its variables has one of several optimizers (`MultiOptimizer`)."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return holds_several(optimizer.inner_optimizer)
    return hasattr(optimizer, "optimizers")
