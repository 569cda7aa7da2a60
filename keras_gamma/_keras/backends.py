"""What the backend of this process offers to a trace."""

from typing import Any

import keras


def scratch_graph() -> Any:
    """A graph to run raw backend code in, or `None` where the backend has none that we can read."""
    if keras.backend.backend() != "tensorflow":
        return None
    from keras_gamma._keras.tensorflow_graph import ScratchGraph

    return ScratchGraph()
