"""Callbacks for `fit`."""

from keras_gamma.dynamics.monitor import GammaMonitor as GammaMonitor

__all__ = ["GammaMonitor"]
