"""If Keras moves what `_keras.structure` and `_keras.exclusions` lean on, this fails."""

import keras
import numpy as np
from keras import layers

from keras_gamma._keras import exclusions, structure


class Holder(keras.Model):
    """Layers in every kind of container that Keras' archives reach."""

    def __init__(self):
        super().__init__(name="holder")
        self.blocks = [layers.Dense(2), [layers.Dense(2), layers.Dense(2)]]
        self.by_name = {"b": layers.LayerNormalization(), "a": layers.Dense(2)}
        self.again = self.blocks[0]
        x = keras.Input((2,))
        self.inner = keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.Dense(2)])
        self.functional = keras.Model(x, layers.Dense(2)(layers.BatchNormalization()(x)))

    def call(self, x):
        for layer in (self.blocks[0], *self.blocks[1], *self.by_name.values(), self.inner):
            x = layer(x)
        return self.functional(x)


def test_saveables_are_where_keras_archives_put_them(tmp_path):
    model = Holder()
    model(np.ones((1, 2), "float32"))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    expected = {}

    def note(target):
        return lambda folder: expected.__setitem__(
            folder.replace("\\", "/").rpartition("/assets")[2].strip("/"), target
        )

    targets = [*model._flatten_layers(), model.optimizer, model.optimizer.inner_optimizer]
    for target in targets:
        target.save_assets = note(target)
    model.save(tmp_path / "m.keras")
    found = dict(structure.saveables(model))
    layers_with_weights = [layer for layer in model._flatten_layers() if layer.weights]
    reached = set(map(id, expected.values()))
    assert all(id(layer) in reached for layer in layers_with_weights), expected
    for place, target in expected.items():
        assert found[place] is target, place


def test_archives_of_other_versions_are_found_at_their_places():
    """Older versions of Keras do not look into lists within lists, but come by another way."""
    model = Holder()
    model(np.ones((1, 2), "float32"))
    here = structure.places(model)
    new, old = (dict(structure._Walk(nested).saveables(model, "")) for nested in (True, False))
    assert here["blocks/container/dense"] is here["layers/dense_1"] is model.blocks[1][0]
    assert "layers/dense_1" in old and "layers/dense_1" not in new
    assert all(here[place] is found for scheme in (new, old) for place, found in scheme.items())


def test_own_variables():
    norm = layers.BatchNormalization()
    norm.build((None, 4))
    norm.trainable = False
    own = [(variable.name, trained) for variable, trained in structure.own_variables(norm)]
    assert own == [("gamma", True), ("beta", True), ("moving_mean", False),
                   ("moving_variance", False)]  # fmt: skip


def test_children_leave_inputs_out():
    model = Holder()
    assert [type(c).__name__ for c in structure.children(model.functional)] == [
        "BatchNormalization",
        "Dense",
    ]
    assert len(structure.children(model.inner)) == 2


def test_exclusions_are_taken_back():
    one, other = (keras.Variable(np.ones(2, "float32")) for _ in range(2))
    optimizer = keras.optimizers.AdamW(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[one, other])
    assert exclusions.excluded(optimizer, [one, other]) == [one, other]
    exclusions.readmit(optimizer, [other])
    optimizer.apply([keras.ops.zeros(2)] * 2, [one, other])
    left = [float(keras.ops.convert_to_numpy(v)[0]) for v in (one, other)]
    assert left == [1.0, 0.75]
