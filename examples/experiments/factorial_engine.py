"""One compiled training run for all arms of a factorial experiment on γ.

Whoever compares 16 ways to decay γ with hundreds of seeds spends most of the time on building
models and tracing steps, which are the same in all arms. Here strengths of decay are an input: one
model, traced once, is given its weights again for each run, and a whole run is one call.

A run is what `model.fit` does with `keras.optimizers.SGD`, a cosine schedule, and L2 on the
variables that `decay` names, in the same order of examples: `tests/integration/test_factorial.py`
compares the two. Which γ has which role is `keras_gamma.find_roles`' decision.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_gamma
from keras_gamma import Role

ROLES = (Role.RESIDUAL_LAST, Role.SHORTCUT, Role.INTERIOR, Role.TRUNK)


class FusedBatchNormalization(layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """The same function in one operation for the way forth, and one for the way back.

    Keras writes it out, which is more than half of the time of a small network on a CPU.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """As `keras.layers.BatchNormalization`, for images with channels last."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        found = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # TensorFlow's variance is that of a sample (n − 1), Keras' moving one is not.
        shape = inputs.shape if None not in inputs.shape else tf.shape(inputs)
        count = shape[0] * shape[1] * shape[2]
        variance = found.batch_variance * ((count - 1) / count)
        rest = 1 - self.momentum
        for moving, seen in (
            (self.moving_mean, found.batch_mean),
            (self.moving_variance, variance),
        ):
            moving.value.assign_sub((moving.value - seen) * rest)
        return found.y


def without_standardization(model: keras.Model) -> keras.Model:
    """The same network for images of -1..1: what comes after its layer "standardize"."""
    return keras.Model(model.get_layer("standardize").output, model.outputs[0])


def accelerate(model: keras.Model) -> keras.Model:
    """Returns a copy of a functional model whose batch normalizations are fused."""

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        # A fused scale and offset must be there, and the batch a whole image.
        plain = type(layer) is layers.BatchNormalization and layer.scale and layer.center
        if plain and len(layer.input.shape) == 4 and layer.axis in (-1, 3):
            return FusedBatchNormalization.from_config(config)
        return type(layer).from_config(config)

    fast = keras.models.clone_model(model, clone_function=copy)
    fast.set_weights(model.get_weights())
    return fast


def cosine(rate: float, steps: int) -> np.ndarray:
    """Learning rates of `keras.optimizers.schedules.CosineDecay(rate, steps)`: shape `(steps,)`."""
    return rate * 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Args:
        losses: of the data, without penalties, by step: shape `(steps,)`.
        weights: the trained weights, as `model.get_weights` orders them.
        interior: Σγ² of the interior γ by step, shape `(steps,)`; empty unless the engine is paced.
    """

    losses: np.ndarray
    weights: list[np.ndarray]
    interior: np.ndarray


class Engine:
    """Trains one model again and again.

    Args:
        model: a built functional classifier with logits as its output.
        momentum: of SGD.
        decoupled: whether the decay of γ is decoupled, as `keras.optimizers.SGD(weight_decay=λ)`
            does it: w ← w − η·λ·w before the step. That of kernels is L2 in the loss either way.
        paced: whether `train` takes a pace of the interior γ, and reports their sizes.
    """

    def __init__(
        self,
        model: keras.Model,
        momentum: float = 0.9,
        *,
        decoupled: bool = False,
        paced: bool = False,
    ):
        self.momentum = momentum
        self._decoupled, self._paced = decoupled, paced
        self.model = accelerate(model)
        places = {id(v): number for number, v in enumerate(model.trainable_variables)}
        self.gammas: dict[str, list[int]] = {str(role): [] for role in ROLES}
        for entry in keras_gamma.find_roles(model):
            if entry.role in ROLES:
                self.gammas[str(entry.role)].append(places[id(entry.variable)])
        self.kernels = [
            number
            for number, variable in enumerate(model.trainable_variables)
            if variable.name == "kernel"
        ]
        decayed = {*self.kernels, *(n for numbers in self.gammas.values() for n in numbers)}
        self._decayed = sorted(decayed)
        self._variables = [variable.value for variable in self.model.trainable_variables]
        self._momenta = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables]
        self._run = tf.function(self._steps)
        self._logits = tf.function(lambda x: self.model(x, training=False))
        self._streams = _Streams(self.model)

    def initial_weights(self, seed: int) -> list[np.ndarray]:
        """Draws weights as the layers' initializers do, from seeds that depend on `seed` alone."""
        found: dict[int, np.ndarray] = {}
        for number, layer in enumerate(self.model.layers):
            for variable in layer.weights:
                initializer = getattr(layer, f"{variable.name}_initializer")
                config = initializer.get_config()
                if "seed" in config:
                    config["seed"] = seed * 1000 + number
                drawn = type(initializer).from_config(config)(variable.shape)
                found[id(variable)] = keras.ops.convert_to_numpy(drawn)
        return [found[id(variable)] for variable in self.model.weights]

    def zeroed(self, start: Sequence[np.ndarray], role: str) -> list[np.ndarray]:
        """The same weights, but the γ of a role are 0."""
        trained = self.model.trainable_variables
        zero = {id(trained[number]) for number in self.gammas[role]}
        weights = zip(self.model.weights, start, strict=True)
        return [value * 0 if id(variable) in zero else value for variable, value in weights]

    def decay(self, kernels: float, gammas: dict[str, float]) -> np.ndarray:
        """Returns λ of each trainable variable, in torch's units.

        Args:
            kernels: λ of every kernel.
            gammas: λ of the γ of a role; 0 for those not named.
        """
        strengths = np.zeros(len(self._variables), np.float32)
        strengths[self.kernels] = kernels
        for role, strength in gammas.items():
            strengths[self.gammas[role]] = strength
        return strengths

    def train(
        self,
        start: Sequence[np.ndarray],
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        rates: np.ndarray,
        decay: np.ndarray,
        pace: float = 1.0,
    ) -> Outcome:
        """Trains once.

        Args:
            start: weights to start from.
            images: shape `(examples, height, width, channels)`.
            labels: shape `(examples,)`.
            order: indices of the examples of each step, shape `(steps, batch)`.
            rates: learning rate of each step, shape `(steps,)`.
            decay: as `decay` gives it.
            pace: factor of the learning rate of the interior γ; the engine must be paced.
        """
        if pace != 1.0 and not self._paced:
            raise ValueError(f"This engine was not built for a pace. Received: pace={pace!r}")
        self.model.set_weights(start)
        for slot in self._slots():
            slot.assign(tf.zeros_like(slot))
        losses, interior = self._run(
            tf.constant(images, tf.float32),
            tf.constant(labels, tf.int32),
            tf.constant(order, tf.int32),
            tf.constant(rates, tf.float32),
            tf.constant(decay, tf.float32),
            tf.constant(pace, tf.float32),
        )
        return Outcome(losses.numpy(), self.model.get_weights(), interior.numpy())

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits of the model as it is."""
        found: np.ndarray = self._logits(tf.constant(images, tf.float32)).numpy()
        return found

    def branch_ratios(self, images: np.ndarray) -> list[float]:
        """Variance of each branch over that of its skip, with the statistics of the batch."""
        before = self.model.get_weights()
        streams = self._streams(tf.constant(images, tf.float32))
        found: list[float] = streams.numpy().tolist()
        self.model.set_weights(before)  # The moving averages have moved.
        return found

    def gamma_sizes(self) -> dict[str, float]:
        """Root mean square of the γ of each role."""
        found = {}
        for role, numbers in self.gammas.items():
            if numbers:
                values = np.concatenate([self._variables[n].numpy().ravel() for n in numbers])
                found[role] = float(np.sqrt(np.mean(values**2)))
        return found

    def _steps(
        self, images: Any, labels: Any, order: Any, rates: Any, decay: Any, pace: Any
    ) -> Any:
        steps = tf.shape(order)[0]
        losses = tf.TensorArray(tf.float32, steps)
        sizes = tf.TensorArray(tf.float32, steps if self._paced else 0)
        strengths = tf.unstack(decay)
        interior = self.gammas[str(Role.INTERIOR)] if self._paced else []
        for step in tf.range(steps):
            batch = order[step]
            with tf.GradientTape() as tape:
                logits = self.model(tf.gather(images, batch), training=True)
                each = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    tf.gather(labels, batch), logits
                )
                loss = tf.reduce_mean(each)
            gradients = tape.gradient(loss, self._variables)
            self._update(gradients, step, rates[step], strengths, pace)
            losses = losses.write(step, loss)
            if self._paced:
                total = tf.add_n([tf.reduce_sum(self._variables[n] ** 2) for n in interior])
                sizes = sizes.write(step, total)
        return losses.stack(), sizes.stack() if self._paced else tf.zeros([0])

    def _slots(self) -> list[tf.Variable]:
        """What the optimizer remembers."""
        return self._momenta

    def _update(
        self, gradients: list[Any], step: Any, rate: Any, strengths: Sequence[Any], pace: Any
    ) -> None:
        """One step of the optimizer."""
        gammas = {n for numbers in self.gammas.values() for n in numbers}
        interior = self.gammas[str(Role.INTERIOR)] if self._paced else []
        for number in self._decayed:
            variable = self._variables[number]
            if self._decoupled and number in gammas:
                variable.assign_sub(rate * strengths[number] * variable)
            else:
                gradients[number] += strengths[number] * variable
        for number, (variable, momentum, gradient) in enumerate(
            zip(self._variables, self._momenta, gradients, strict=True)
        ):
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=momentum.handle,
                lr=rate * pace if number in interior else rate,
                grad=gradient,
                momentum=self.momentum,
            )


class _Streams:
    """Variances at the joins `Add([skip, branch])` of `examples.models.resnet`."""

    def __init__(self, model: keras.Model):
        joins = [layer for layer in model.layers if isinstance(layer, layers.Add)]
        self._model = keras.Model(model.inputs, [layer.input for layer in joins]) if joins else None
        self._call = tf.function(self._ratios)

    def __call__(self, images: Any) -> Any:
        return self._call(images)

    def _ratios(self, images: Any) -> Any:
        if self._model is None:
            return tf.zeros([0])
        pairs = self._model(images, training=True)
        return tf.stack([_variance(branch) / _variance(skip) for skip, branch in pairs])


def _variance(tensor: Any) -> Any:
    return tf.math.reduce_variance(tensor)
