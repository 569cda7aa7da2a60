"""Weight decay of the examples: what is decayed, and how strongly.

Decay here is coupled, an L2 penalty in the loss, in torch's units: `weight_decay` λ adds λw to the
gradient of w, that is `λ/2 * sum(w**2)` to the loss. Kernels are all decayed; keras_gamma decides
about γ; biases and β are left alone.
"""

from functools import partial

import keras

import keras_gamma

# Where a layer keeps a kernel, and where it may keep the regularizer of that kernel.
_KERNELS = {
    "kernel": ("kernel_regularizer", "depthwise_regularizer"),  # DepthwiseConv2D has the second
    "depthwise_kernel": ("depthwise_regularizer",),
    "pointwise_kernel": ("pointwise_regularizer",),
}


def decay_kernels(model: keras.Model, weight_decay: float) -> int:
    """Puts L2 on every convolution and dense kernel of a built model, in place.

    Both the variable and the layer are told: Keras takes the penalty from the variable, and
    `get_config` takes what it saves from the layer.

    Returns:
        The number of kernels.
    """
    kernels = 0
    for layer in model._flatten_layers(include_self=False):
        for attribute, places in _KERNELS.items():
            variable = getattr(layer, attribute, None)
            if not isinstance(variable, keras.Variable):
                continue
            regularizer = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
            variable.regularizer = regularizer
            setattr(layer, next(filter(partial(hasattr, layer), places)), regularizer)
            kernels += 1
    return kernels


def decay_gammas(
    model: keras.Model, weight_decay: float, guidelines: keras_gamma.Guidelines
) -> keras_gamma.GammaPlan:
    """Puts L2 of the same strength on the γ that the guidelines select; returns the plan."""
    return keras_gamma.apply_guidelines(model, weight_decay=weight_decay, guidelines=guidelines)
