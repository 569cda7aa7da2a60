"""Imports Keras without TensorFlow's noise; import this before anything that imports Keras."""

from keras_gamma import quiet

quiet.import_keras(open_devices=False)
