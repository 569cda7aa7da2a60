"""If Keras moves what `_keras.stepping` and `_keras.calling` lean on, this fails."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_gamma._keras import names as _keras

SEEN = []  # No attribute of the layer, for Keras would track it.


class Spy(layers.Dense):
    """Notes what it is asked for, and who is training."""

    def _get_call_context(self):
        SEEN.append(("call", _keras.asked_by().trainer))
        return super()._get_call_context()

    def _get_own_losses(self):
        SEEN.append(("losses", _keras.asked_by().trainer))
        return super()._get_own_losses()


class Inner(layers.Dense):
    """Notes whose call it is a part of."""

    def _get_call_context(self):
        context = super()._get_call_context()
        SEEN.append(_keras.outermost(context))
        return context


def test_the_outermost_layer_is_known_to_those_inside():
    x = keras.Input((3,))
    inner = keras.Sequential([Inner(1)])
    model = keras.Model(x, inner(x))
    SEEN.clear()
    model(np.ones((2, 3), "float32"))
    assert SEEN and all(seen is model for seen in SEEN)
    SEEN.clear()
    inner(np.ones((2, 3), "float32"))
    assert SEEN and all(seen is inner for seen in SEEN)


def test_every_layer_is_asked_in_a_training_step():
    assert _keras.ASKED_IN_A_STEP == ("_get_call_context", "_get_own_losses")
    x = keras.Input((3,))
    inner = keras.Model(x, Spy(1)(x))
    y = keras.Input((3,))
    model = keras.Model(y, inner(y))
    model.compile("sgd", "mse")
    SEEN.clear()
    model(np.ones((2, 3), "float32"))
    assert _keras.asked_by().trainer is None and {who for _, who in SEEN} == {None}
    for train in (model.train_on_batch, lambda x, y: model.fit(x, y, verbose=0)):
        SEEN.clear()
        model.compile("sgd", "mse")
        train(np.ones((2, 3)), np.ones((2, 1)))
        assert {("call", model), ("losses", model)} <= {*SEEN}
    SEEN.clear()
    model.evaluate(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    assert {who for _, who in SEEN} == {None}


@pytest.mark.parametrize("content", ["direct", "list", "dict"])
def test_optimizers_of_a_model(content):
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(1)(x))
    own, side = keras.optimizers.SGD(), keras.optimizers.Adam()
    model.compile(own)
    model.side = {"direct": side, "list": [side, own], "dict": {"a": side}}[content]
    assert {id(one) for one in _keras.optimizers_of(model)} == {id(own), id(side)}


def test_living_models_around_a_layer():
    x = keras.Input((3,))
    dense = layers.Dense(1)
    models = [keras.Model(x, dense(x)) for _ in range(2)]
    for model in models:
        model.compile("sgd", "mse")
    models[0].make_train_function()
    other = keras.Model(x, layers.Dense(1)(x))
    other.compile("sgd", "mse")
    other.make_train_function()
    assert _keras.models_around([dense]) == [models[0]]
