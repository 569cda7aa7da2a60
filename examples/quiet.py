"""Imports TensorFlow without its start-up noise. Import this before Keras."""

from keras_gamma import _quiet

_quiet.import_keras(open_devices=False)  # `distribution` opens them
