"""Runnable examples for keras_gamma; see the docstring of each `train_*.py` script."""
