"""Callbacks for `fit`."""

from keras_gamma.checks.guard import DecayGuard as DecayGuard
from keras_gamma.dynamics.monitor import GammaMonitor as GammaMonitor

__all__ = ["DecayGuard", "GammaMonitor"]
