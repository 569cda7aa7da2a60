"""Strengths of weight decay in the units of Keras, torch, timm and the papers."""

from keras_gamma.decay.units import *  # noqa: F403
