"""A training step that never asks for the model's losses trains without penalties: that is said."""

import warnings

import keras
import numpy as np
import pytest

import keras_gamma
from keras_gamma.callbacks import DecayGuard
from keras_gamma.decay import DecisionNotKept
from tests.decay import storage_roads as roads

BACKEND = keras.backend.backend()
X, Y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")


def step(model, x, y, forward, losses):
    """One update, as Keras' guide to a `train_step` of one's own writes it for each backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean((forward(x) - y) ** 2) + losses()
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    else:
        model.zero_grad()
        loss = keras.ops.mean((forward(x) - y) ** 2) + losses()
        loss.backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        model.optimizer.apply(gradients, model.trainable_variables)
    return {"loss": loss}


class Own(keras.Model):
    """With a step of its own, which adds the losses or does not."""

    adds = False

    def losses_to_add(self):
        return sum(self.losses) if self.adds else 0.0

    if BACKEND == "jax":

        def train_step(self, state, data):
            import jax

            trained, others, optimizer, metrics = state
            x, y = data

            def compute(trained, others):
                found = self.stateless_call(trained, others, x, return_losses=self.adds)
                loss = keras.ops.mean((found[0] - y) ** 2)
                return loss + sum(found[2]) if self.adds else loss

            loss, gradients = jax.value_and_grad(compute)(trained, others)
            trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
            return {"loss": loss}, (trained, others, optimizer, metrics)

    else:

        def train_step(self, *args):
            x, y = args[-1]
            return step(self, x, y, lambda x: self(x, training=True), self.losses_to_add)


class Adding(Own):
    adds = True


def compiled(cls, eager, apply=True):
    inner = roads.with_head(roads.base())
    model = cls(inner.input, inner.output)
    if apply:
        keras_gamma.apply_guidelines(model, l2=0.125)
    model.compile(keras.optimizers.SGD(0.1), roads.loss(), run_eagerly=eager)
    return model


def told(use):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.simplefilter("always", DecisionNotKept)
        use()
    return [str(w.message) for w in caught if issubclass(w.category, DecisionNotKept)]


def fit(model, *callbacks, **kwargs):
    model.fit(X, Y, verbose=0, callbacks=list(callbacks), **kwargs)


MODES = [True, pytest.param(False, marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore:DecayGuard could not tell")
@pytest.mark.parametrize("eager", MODES)
def test_the_guard_and_the_audit_say_no(eager):
    model = compiled(Own, eager)
    assert keras_gamma.audit(model).answer == "could not tell"  # It has not run.
    guard = DecayGuard()
    with pytest.raises(RuntimeError, match=r"after the first step.*\n.*never asked.*sum\(self"):
        fit(model, guard)
    assert guard.audit.answer == "no"
    assert keras_gamma.audit(model).answer == "no"
    assert int(model.optimizer.iterations) == 1
    with pytest.raises(RuntimeError, match="before the first step"):
        fit(model, DecayGuard())
    with pytest.warns(UserWarning, match="never asked"):
        fit(model, DecayGuard(on_disagreement="warn"))
    model.compile(keras.optimizers.SGD(0.1), roads.loss())  # What comes now was not seen.
    assert keras_gamma.audit(model).answer == "could not tell"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("eager", MODES)
@pytest.mark.parametrize("cls", [Own, Adding])
def test_it_is_told_without_a_guard(cls, eager, tmp_path):
    """By whoever asks the layers next: the next step, if it is not compiled; a forward pass."""
    model = compiled(cls, eager)
    fit(model)
    found = told(lambda: model.evaluate(X, Y, verbose=0))
    found += told(lambda: (model.predict(X, verbose=0), fit(model), fit(model)))
    assert len(found) == (cls is Own)
    assert all("never asked for its losses" in one and "sum(self.losses)" in one for one in found)
    assert keras_gamma.audit(model).answer == ("no" if cls is Own else "could not tell")


@pytest.mark.skipif(BACKEND == "jax", reason="JAX runs no steps but compiled ones")
def test_the_next_step_tells_it():
    model = compiled(Own, True)
    found = told(lambda: fit(model, batch_size=1))
    assert len(found) == 1 and "never asked" in found[0]


def test_the_next_epoch_tells_it():
    model = compiled(Own, False)
    found = told(lambda: fit(model, epochs=3))
    assert len(found) == 1 and "never asked" in found[0]


def test_saving_tells_it(tmp_path):
    model = compiled(Own, True)
    fit(model)
    found = told(lambda: model.save_weights(tmp_path / "m.weights.h5"))
    assert len([one for one in found if "never asked" in one]) == 1


@pytest.mark.filterwarnings("ignore:DecayGuard could not tell")
@pytest.mark.skipif(BACKEND == "jax", reason="Keras itself asks for the losses there")
def test_a_compute_loss_of_the_models_own():
    class OwnLoss(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean((y_pred - y) ** 2)

    with pytest.raises(RuntimeError, match="never asked"):
        fit(compiled(OwnLoss, True), DecayGuard())


class InTwoParts(Own):
    """One forward pass after another, and the losses at the very end."""

    def train_step(self, *args):
        x, y = args[-1]
        for _ in range(2):
            self.first_train_step(x, y)
        return step(self, x, y, lambda x: self(x, training=True), lambda: sum(self.losses))

    def first_train_step(self, x, y):
        return step(self, x, y, lambda x: self(x, training=True), lambda: 0.0)


class ByTheInnerModel(Own):
    """A trainer that adds the losses of the model that it holds."""

    def losses_to_add(self):
        return sum(loss for layer in self.layers for loss in layer.losses)


class OnlyLooking(Own):
    """A step that is no training of the model at hand."""

    def train_step(self, *args):
        return {"loss": keras.ops.mean(args[-1][0])}


@pytest.mark.one_in(2)
@pytest.mark.skipif(BACKEND == "jax", reason="its steps are written otherwise")
@pytest.mark.parametrize("cls", [InTwoParts, ByTheInnerModel, OnlyLooking])
def test_there_is_no_false_alarm(cls):
    model = compiled(cls, True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DecayGuard could not tell")
        fit(model, DecayGuard(), batch_size=1)
    assert not told(lambda: model.evaluate(X, Y, verbose=0))
    assert keras_gamma.audit(model).answer == "could not tell"


def test_a_model_without_penalties_need_not_ask():
    model = compiled(Own, True, apply=False)
    model.optimizer.weight_decay = 0.1
    keras_gamma.exclude_from_weight_decay(model.optimizer, model)
    fit(model, batch_size=1)
    assert not told(lambda: model.evaluate(X, Y, verbose=0))
