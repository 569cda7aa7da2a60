"""Imports TensorFlow without its start-up noise. Import this before Keras."""

from keras_gamma._keras import quiet

quiet.import_keras(open_devices=False)  # `distribution` opens them
