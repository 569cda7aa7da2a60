"""The engine of the factorial experiment with AdamW, for transformers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from examples.experiments.factorial_engine import Engine, without_standardization
from examples.models.blocks import Size
from examples.models.transformer import vision_transformer

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7  # Keras' own.


def network(depth: int, width: int, norm_position: str) -> keras.Model:
    """A vision transformer of digits, for images of -1..1: patches of 2x2 pixels, no dropout."""
    size = Size(depth, width, mlp_ratio=2, dropout=0.0, norm_position=norm_position)
    model = vision_transformer(size, image_shape=(8, 8, 1), num_classes=10, patch_size=2)
    return without_standardization(model)


class AdamWEngine(Engine):
    """Trains one transformer again and again, as `keras.optimizers.AdamW` does.

    Decay is decoupled, w ← w − η·λ·w before the step, of kernels, too; embeddings, biases and β
    are left alone. One thing differs from Keras on TensorFlow: where several examples use one
    embedding, Keras squares their gradients one by one, and this squares their sum.

    Args:
        depth: blocks.
        width: of the residual stream.
        norm_position: `"pre"` or `"post"`.
    """

    def __init__(self, depth: int, width: int, norm_position: str):
        self._made_of = (depth, width, norm_position)
        super().__init__(network(*self._made_of))
        self._squares = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables]

    def initial_weights(self, seed: int) -> list[np.ndarray]:
        """Draws weights, of which those of a seed are always the same."""
        keras.utils.set_random_seed(seed)
        weights: list[np.ndarray] = network(*self._made_of).get_weights()
        return weights

    def _slots(self) -> list[tf.Variable]:
        return [*self._momenta, *self._squares]

    def _update(
        self, gradients: list[Any], step: Any, rate: Any, strengths: Sequence[Any], pace: Any
    ) -> None:
        for number in self._decayed:
            variable = self._variables[number]
            variable.assign_sub(rate * strengths[number] * variable)
        count = tf.cast(step + 1, tf.float32)
        for variable, mean, square, gradient in zip(
            self._variables, self._momenta, self._squares, gradients, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=_BETA_1**count,
                beta2_power=_BETA_2**count,
                lr=rate,
                beta1=_BETA_1,
                beta2=_BETA_2,
                epsilon=_EPSILON,
                grad=gradient,
            )
