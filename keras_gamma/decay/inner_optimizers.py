"""Reaching the optimizer that does the decay, inside those that hold others."""

from __future__ import annotations

from typing import Any

import keras

from keras_gamma._keras import names as _keras

_ALONE = ("keras.", "keras_gamma.")  # Whose optimizers hold others only as `optimizers`.


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
        f"{type(optimizer).__name__} holds other optimizers "
        f"({', '.join(type(part).__name__ for part in inner)}), each with a weight decay of "
        "its own: call exclude_from_weight_decay before they are put together, or use one "
        "optimizer of keras_gamma.optimizers, which takes a strength per variable."
    )


def parts(optimizer: Any) -> list[keras.optimizers.Optimizer]:
    """All optimizers that may do the decay: those within others, too.

    The inner ones of a `MultiOptimizer`, or of an optimizer of somebody's own (Lookahead, say),
    which is one of them if it has a weight decay itself.

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
    inner = [part for one in _held(optimizer) for part in parts(one)]
    has_own = getattr(optimizer, "weight_decay", None) is not None
    return [*inner, optimizer] if has_own or not inner else inner


def has_factors(optimizer: Any) -> bool:
    """Whether it is one of `keras_gamma.optimizers`, which know a strength for each variable."""
    return hasattr(optimizer, "set_decay")


def holds_several(optimizer: Any) -> bool:
    """Whether it leaves its variables to others: a `MultiOptimizer`, a wrapper of one's own."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return holds_several(optimizer.inner_optimizer)
    return bool(_held(optimizer))


def _held(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """The optimizers within another; a `LossScaleOptimizer` is not asked."""
    if hasattr(optimizer, "optimizers"):
        return list(optimizer.optimizers)
    if type(optimizer).__module__.startswith(_ALONE):
        return []
    return [one for one in _keras.optimizers_of(optimizer) if one is not optimizer]


def is_known(optimizer: Any) -> bool:
    """Whether it is known what it makes of the optimizers within it, if there are any."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return is_known(optimizer.inner_optimizer)
    return not holds_several(optimizer) or type(optimizer).__module__.startswith("keras.")


def models_trained_by(optimizer: keras.optimizers.Optimizer) -> list[keras.Model]:
    """The living models with a training step that `optimizer` takes, or has a part in."""
    return [
        model
        for model in _keras.living_models()
        if any(part is optimizer for one in _keras.optimizers_of(model) for part in parts(one))
    ]
