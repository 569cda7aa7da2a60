"""Runnable examples for keras_gamma; see the docstring of each `train_*.py` script."""

import os

# For paths in object stores, epath asks fsspec, which has a package for each of them; TensorFlow,
# which it would ask first, knows gs:// alone. epath looks once, when it is first used.
os.environ.setdefault("EPATH_USE_TF", "false")
