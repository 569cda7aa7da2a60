"""Whether a training step asks for its model's losses: without them penalties do not act.

Keras' own step does. One of a model's own, or a `compute_loss` of its own, may not, and nothing
in the model shows it. Layers are called in every forward pass, and are asked for their losses
by whoever asks for the model's: one without the other, all through a step, is the answer.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import Any

import keras

from keras_gamma._keras import names as _keras


class LossWatch:
    """What is known of the training steps of one model whose layers have penalties.

    Args:
        model: the `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = weakref.ref(model)
        self._run: Hashable | None = None
        self._thread: weakref.ref[threading.Thread] | None = None
        self._function: weakref.ref[Any] | None = None
        self.was_asked = False
        self.told = False

    @property
    def model(self) -> keras.Model | None:
        """The model, as long as there is one."""
        return self._model()

    @property
    def is_open(self) -> bool:
        """Whether a step may yet turn out to leave the losses out, or to ask for them."""
        return not self.was_asked and self._model() is not None

    @property
    def is_waiting(self) -> bool:
        """Whether no step was seen yet."""
        return self._run is None and not self.was_asked

    def called(self) -> None:
        """Notes that a layer with a penalty is called."""
        if self.is_waiting:
            self._run = self._running()
            self._thread = weakref.ref(threading.current_thread())
            function = self._train_function()
            self._function = None if function is None else weakref.ref(function)

    def asked(self) -> None:
        """Notes that a layer with a penalty is asked for its losses."""
        if not self.was_asked and self._running() is not None:
            self.was_asked = True

    def leaves_out(self) -> bool:
        """Whether a step has run, or was traced, to its end, and never asked for losses."""
        if self.was_asked or self._run is None or self._thread is None:
            return False
        thread = self._thread()
        if thread is not threading.current_thread():  # That of a replica, say.
            return thread is None or not thread.is_alive()
        return self._running() != self._run

    def is_current(self) -> bool:
        """Whether the model has not been compiled anew since: what was seen is what will run."""
        return self._train_function() is (None if self._function is None else self._function())

    def _train_function(self) -> Any:
        return getattr(self._model(), "train_function", None)

    def _running(self) -> Hashable | None:
        model = self._model()
        return None if model is None else _keras.running_step(model)
