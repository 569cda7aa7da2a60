"""Kernels of built-in layers that a layer around them computes: weight and spectral normalization.

In its `call`, or in training alone, such a wrapper assigns the kernel of the layer inside, or puts
a tensor in its place. Then the kernel's length is not what decay acts on.
"""

from typing import Any, NamedTuple

import keras

from keras_gamma._keras import layers as _layers

_NAMES = ("kernel", "embeddings")


class Computed(NamedTuple):
    """A kernel that a layer around computed.

    Args:
        around: string, the path of the layer that did.
        name: string, the attribute that holds the kernel.
        value: the tensor.
        is_put: bool, whether it stands in the variable's place, or was assigned to that.
    """

    around: str
    name: str
    value: Any
    is_put: bool


def computed_kernel(
    layer: keras.Layer, around: keras.Layer, scope: keras.StatelessScope
) -> Computed | None:
    """The kernel of one of Keras' own layers where it was computed since a trace began.

    Args:
        layer: the layer, about to be called.
        around: the layer that is being run.
        scope: the scope of the trace, which holds what was assigned.
    """
    path = around.path or around.name
    if not _layers.is_layer_of_keras(layer):
        return None
    for name, value in vars(layer).items():
        if not name.endswith(_NAMES):
            continue
        if isinstance(value, keras.Variable):
            assigned = scope.get_current_value(value)
            if assigned is not None:
                return Computed(path, name, assigned, False)
        elif keras.ops.is_tensor(value):
            return Computed(path, name, value, True)
    return None


def computes_kernels(layer: keras.Layer) -> bool:
    """Whether `layer` sets the kernels of layers inside, by what its code refers to.

    It may do so in training alone, which a trace does not see.
    """
    if isinstance(layer, keras.layers.SpectralNormalization):
        return True
    if not _layers.has_sublayers(layer) or isinstance(layer, keras.Model):
        return False
    inner = {id(weight) for below in _layers.sublayers(layer) for weight in below.weights}
    # A larger layer may hold a kernel itself, and assign something else: running statistics.
    held = {
        name
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable) and id(value) not in inner
    }
    for cls in type(layer).__mro__:
        if cls is keras.Layer or cls.__module__.partition(".")[0] == "keras":
            break
        for member in vars(cls).values():
            names = getattr(getattr(member, "__code__", None), "co_names", ())
            if "assign" in names and any(n.endswith(_NAMES) and n not in held for n in names):
                return True
    return False
