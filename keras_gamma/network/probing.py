"""Whether a layer of a class that nobody registered is a normalization: found by running it.

It is run on numbers, and is one only if it does what a normalization does.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np

from keras_gamma.network.likeness import likeness
from keras_gamma.network.noise import noise
from keras_gamma.network.normalizations import (
    Normalization,
    kind_from_name,
    scale_candidates,
    takes_training,
    variables_by_name,
)


def probe(layer: keras.Layer, shape: Sequence[int]) -> Normalization | None:
    """Finds out by running `layer` whether it normalizes, and how its scale enters.

    A normalization follows its input, but does not change its output when its input is
    multiplied by a constant (one that is fused with an activation: when a large input, or a small
    one, is). With its scale set to 0 the output depends no longer on the
    input (`γ · x̂`); if that is so at −1 instead, the layer multiplies by `1 + γ`.

    Args:
        layer: a built layer that takes one tensor.
        shape: tuple of integers, the shape of its input, batch first.

    Returns:
        A `Normalization`, or `None` if the layer does not behave as one.
    """
    variables = variables_by_name(layer)
    keep = {d for v in variables.values() for d in v.shape}
    shrunk = tuple(
        d if i == len(shape) - 1 or d in keep else min(d, 4) for i, d in enumerate(shape)
    )
    for candidate in dict.fromkeys((shrunk, tuple(shape))):
        try:
            return _probe_at(layer, candidate)
        except Exception:  # Foreign code may raise anything: try the real shape.
            continue
    return None


def _probe_at(layer: keras.Layer, shape: tuple[int, ...]) -> Normalization | None:
    rng = np.random.default_rng(0)
    x, other = (0.5 + 8.0 * noise(shape, rng) for _ in range(2))

    def run(inputs: Any, values: Sequence[tuple[keras.Variable, float]] = ()) -> Any:
        mapping = [(v, np.full(v.shape, value, "float32")) for v, value in values]
        with keras.StatelessScope(state_mapping=mapping):
            tensor = keras.ops.cast(keras.ops.convert_to_tensor(inputs), layer.compute_dtype)
            # Through `__call__`, so that Keras fills in `training` and the autocast scope. A
            # norm with running statistics normalizes by the batch only in training mode.
            outputs = layer(tensor, training=True) if takes_training(layer) else layer(tensor)
            return keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))

    candidates = scale_candidates(layer)
    likeliest = [(getattr(layer, name), 1.0) for name in candidates[:1]]
    reference = run(x, likeliest)
    spread = float(np.std(reference))

    def same(a: Any, b: Any) -> bool:
        return bool(np.all(np.abs(a - b) <= 0.05 * spread))

    if reference.shape != tuple(shape) or not np.isfinite(spread) or spread == 0.0:
        return None
    # It must follow its input, but not its input's scale. Most layers fail at the first end.
    far = run(64.0 * x, likeliest)
    # Large inputs alone tell nothing: which code of a quantizer is nearest does not follow them.
    if not (same(reference, far) and same(reference, run(x / 32, likeliest))):
        # Fused with an activation that saturates (EvoNorm), it does so at both ends. What only
        # saturates (tanh) follows the scale of small inputs.
        def near(a: Any, b: Any) -> bool:
            return float(np.sqrt(np.mean((a - b) ** 2))) <= 0.1 * float(np.std(a))

        if not near(far, run(4096.0 * x, likeliest)):
            return None
        small = [run(x * scale, likeliest) for scale in (1 / 64, 1 / 128)]
        if not near(*small) or near(small[0], run(other / 64, likeliest)):
            return None
    if same(reference, run(other, likeliest)):
        return None
    # The nearest of a few codes stays the same for most small changes; what is normalized does not.
    moved = np.abs(run(x + 0.05 * other, likeliest) - reference) > 1e-3 * spread
    if np.mean(moved) < 0.5:
        return None
    kind = kind_from_name(type(layer))
    for name in candidates:
        for value, neutral in ((0.0, 1.0), (-1.0, 0.0)):
            values = [(getattr(layer, name), value)]
            if same(run(x, values), run(other, values)):
                return Normalization(kind, name, neutral)
    # A single number that is no scale may be a learned ε.
    has_scale = any(getattr(layer, name).shape for name in candidates)
    return None if has_scale else Normalization(kind, scale=None)


def like_for_probes(layer: keras.Layer) -> Hashable:
    """What layers have in common for which `probe` finds the same on inputs of the same shape."""
    candidates = scale_candidates(layer)
    # One that may be the scale alone is given its numbers in each run.
    scale = variables_by_name(layer)[candidates[0]] if len(candidates) == 1 else None
    return likeness(layer, whatever=scale)
