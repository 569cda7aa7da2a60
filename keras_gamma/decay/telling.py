"""Saying at the moment of loss that a decision is lost, once each time, and what to do instead."""

from __future__ import annotations

import contextlib
import contextvars
import warnings
from collections.abc import Hashable, Iterator

import keras

from keras_gamma._keras import names as _keras

_quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("keras_gamma_quiet", default=False)


class DecisionNotKept(UserWarning):
    """What is being written or rebuilt does not hold a decision that is in force now."""


class Teller:
    """Warns once in each round; a round ends when something happens for a second time in it.

    Keras asks every layer by itself for its config, its variables, its assets. A model of a hundred
    γ that is saved once is to be told of once, and when it is saved again, once again.
    """

    def __init__(self) -> None:
        self._round: set[Hashable] = set()
        self._told = False

    def step(self, *event: Hashable) -> None:
        """Notes that something happens: `("config", id(layer))`, say."""
        if event in self._round:
            self._round.clear()
            self._told = False
        self._round.add(event)

    def lost(self, message: str) -> None:
        """Warns, unless it was done in this round, or somebody sees to it (`quiet`)."""
        if self._told or _quiet.get() or _keras.is_running(keras.callbacks.TensorBoard):
            return  # (TensorBoard shows configs, and rebuilds nothing from them.)
        self._told = True
        warnings.warn(message, DecisionNotKept, stacklevel=4)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While it is active nothing is told: keras_gamma itself carries the decisions over."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether somebody sees to it that nothing is lost."""
    return _quiet.get()
