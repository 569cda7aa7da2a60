"""Devices and strategies of the backend."""

import keras


def inside_a_strategy() -> bool:
    """Whether this is run within the scope of a `tf.distribute.Strategy`."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow

    return bool(tensorflow.distribute.has_strategy())
