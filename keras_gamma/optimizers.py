"""Keras' optimizers with a weight decay per variable, kept through saving."""

from keras_gamma.decay.optimizers import *  # noqa: F403
from keras_gamma.decay.optimizers import __all__ as __all__
