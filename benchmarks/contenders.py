"""Ways to train, by what decays: each sets a model up, and returns the optimizer for it."""

import keras

import keras_gamma


def sgd(model: keras.Model) -> keras.optimizers.Optimizer:
    """No decay."""
    del model
    return keras.optimizers.SGD(1e-3, momentum=0.9)


def adamw(model: keras.Model) -> keras.optimizers.Optimizer:
    """Decay of everything."""
    del model
    return keras.optimizers.AdamW(1e-3, weight_decay=0.05)


def with_keras(model: keras.Model) -> keras.optimizers.Optimizer:
    """L2 on every γ, as one does it by hand."""
    for gamma in keras_gamma.find_roles(model):
        gamma.variable.regularizer = keras.regularizers.L2(5e-5)
    return sgd(model)


def with_guidelines(model: keras.Model, guidelines: str = "paper") -> keras.optimizers.Optimizer:
    """L2 on the γ that the guidelines select."""
    keras_gamma.apply_guidelines(model, l2=5e-5, guidelines=guidelines)
    return sgd(model)


def decoupled(model: keras.Model) -> keras.optimizers.Optimizer:
    """Decoupled decay where the guidelines put it."""
    plan = keras_gamma.plan_weight_decay(model)
    return keras_gamma.optimizers.AdamW(1e-3, weight_decay=0.05, decay=plan)
