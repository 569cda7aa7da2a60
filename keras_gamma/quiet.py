"""Keras without TensorFlow's start-up noise, for scripts and command lines."""

from keras_gamma._keras.quiet import import_keras as import_keras
