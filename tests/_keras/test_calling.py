"""If Keras moves what `_keras.calling` leans on, this fails."""

import keras
import pytest
from keras import layers

from keras_gamma._keras import names as _keras

written: list[tuple[object, bool]] = []  # No attribute of the layer, for Keras would track it.


class Spy(layers.Dense):
    """Notes what is being written when its weights are."""

    def save_own_variables(self, store):
        super().save_own_variables(store)
        written.append((_keras.model_being_saved(), _keras.only_weights_are_saved()))


class Saving(keras.callbacks.BackupAndRestore):
    """A backup at a moment of one's own."""

    def now(self, path):
        self.model.save_weights(path)


@pytest.fixture
def model():
    written.clear()
    x = keras.Input((3,))
    return keras.Model(x, Spy(1)(x))


def test_an_archive_is_not_a_file_of_weights(model, tmp_path):
    model.save(tmp_path / "model.keras")
    assert written == [(model, False)]
    written.clear()
    keras.saving.save_model(model, tmp_path / "again.keras")
    assert written == [(model, False)]


def test_a_file_of_weights(model, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    assert written == [(None, True)]


def test_a_backup_of_the_run_is_no_file_of_weights(model, tmp_path):
    callback = Saving(tmp_path / "backup")
    callback.set_model(model)
    callback.now(tmp_path / "model.weights.h5")
    assert written == [(None, False)]


def test_whose_methods_are_running():
    class Asking(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append([_keras.is_running(kind) for kind in (Asking, keras.callbacks.Callback)])

    seen = []
    assert not _keras.is_running(Asking)
    Asking().on_epoch_end(0)
    assert seen == [[True, True]]
    assert not _keras.is_running(Asking)
