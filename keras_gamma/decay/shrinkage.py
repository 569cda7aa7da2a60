"""What an optimizer's weight decay really does to a variable: asked of the optimizer itself."""

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay.inner_optimizers import has_factors
from keras_gamma.decay.inner_optimizers import unwrap as unwrap


def is_measurable(optimizer):
    """Whether a step without gradients shows the decay: Ftrl computes each weight anew."""
    return not isinstance(optimizer, keras.optimizers.Ftrl)


def decays_at_all(optimizer):
    """Whether an optimizer has a weight decay; Muon has a second one, for what is no matrix."""
    return bool(optimizer.weight_decay or getattr(optimizer, "adam_weight_decay", None))


def acts_on(optimizer, variable):
    """Whether `optimizer`, unwrapped, says that its weight decay acts on `variable`."""
    if not decays_at_all(optimizer) or not _keras.is_decayed(optimizer, variable):
        return False
    return not has_factors(optimizer) or optimizer.factor(variable) > 0


def small(variable):
    """A shape of the same rank; optimizers treat matrices and vectors differently."""
    return (2,) * len(variable.shape)


def decays(optimizer, variables, bare=False):
    """The share of each variable that a step with gradients of zero takes off, by η.

    Args:
        optimizer: a Keras optimizer, unwrapped.
        variables: list of `keras.Variable`.
        bare: bool, whether to leave out exclusions and factors: the strength that they act on.
            (Muon has two, for matrices and for the rest.)

    Returns:
        A list of floats, in the units of `weight_decay`.
    """
    config = dict(type(optimizer).get_config(optimizer))
    # So large a learning rate that half of w goes: in float32, little would be lost in the 1.
    eta = 0.5 / optimizer.weight_decay if optimizer.weight_decay else 0.125
    config["learning_rate"] = eta
    for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps",
                 "loss_scale_factor"):  # fmt: skip
        if name in config:
            config[name] = None
    if "use_ema" in config:
        config["use_ema"] = False
    if bare and has_factors(optimizer):
        config["decay"] = None
    copy = type(optimizer).from_config(config)
    stand_ins = [_keras.stand_in(variable, small(variable), 1.0) for variable in variables]
    copy.build(stand_ins)
    if not bare:
        _keras.copy_exclusions(optimizer, copy, zip(variables, stand_ins, strict=True))
    copy.apply([keras.ops.zeros(s.shape) for s in stand_ins], stand_ins)
    shares = [(1.0 - mean(stand_in)) / eta for stand_in in stand_ins]
    return [0.0 if abs(share * eta) < 1e-6 else share for share in shares]


def mean(variable):
    return float(keras.ops.convert_to_numpy(variable).astype("float64").mean())
