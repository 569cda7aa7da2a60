"""Strengths of weight decay in the units of Keras, torch, timm and the papers."""

from keras_gamma.decay.units import coupled_from_decoupled as coupled_from_decoupled
from keras_gamma.decay.units import decoupled_from_coupled as decoupled_from_coupled
from keras_gamma.decay.units import dose as dose
from keras_gamma.decay.units import from_learning_rate_free as from_learning_rate_free
from keras_gamma.decay.units import l2_from as l2_from
from keras_gamma.decay.units import left_by as left_by
from keras_gamma.decay.units import to_learning_rate_free as to_learning_rate_free
from keras_gamma.decay.units import weight_decay_from_l2 as weight_decay_from_l2

__all__ = [
    "coupled_from_decoupled",
    "decoupled_from_coupled",
    "dose",
    "from_learning_rate_free",
    "l2_from",
    "left_by",
    "to_learning_rate_free",
    "weight_decay_from_l2",
]
