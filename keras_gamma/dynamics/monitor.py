"""`GammaMonitor`: the mechanism of weight decay, watched while training."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_gamma._keras import older
from keras_gamma.dynamics import monitor_log, monitor_picture
from keras_gamma.dynamics.branches import BranchMeter
from keras_gamma.dynamics.instability import Detector, Event
from keras_gamma.dynamics.measuring import KernelMeter, LossMeter, by_role, measure_gammas
from keras_gamma.dynamics.scale_invariance import ScaleInvariant, find_scale_invariant
from keras_gamma.dynamics.setting import Setting, setting_of, steps_per_call, steps_taken
from keras_gamma.dynamics.starving import Starved, Watch
from keras_gamma.network.inputs import trace
from keras_gamma.roles.finding import GammaRole, find_roles


class GammaMonitor(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
    """Measures, every so many steps, what weight decay and normalization do to each other.

    At a measured step, for each γ: its norm, quantiles, and effective learning rate. For each
    scale-invariant kernel (see `find_scale_invariant`): its norm, its effective learning rate, the
    angle by which the step turned it, the RMS of that angle over the last measurements, and the
    angle and norm at which decay and gradients balance, from the variable's own decay as the
    optimizer and its penalty really apply it (`keras_gamma.dynamics.equilibrium`). Where a batch
    normalization makes each filter scale-invariant by itself, these are per filter: RMS of norms
    and angles, median of effective learning rates. With a `probe`, also the variance of each branch
    beside that of its skip, at each residual join (see `branch_ratios`).

    The effective learning rate is η/‖w‖² under SGD, and η/‖w‖ under Adam and its kin, whose steps
    do not depend on the scale of the gradient (van Laarhoven, arXiv:1706.05350); momentum is not
    counted.

    It warns once, with layer and step, if it sees the periodic instability of normalization with
    weight decay (arXiv:2106.15739), and once if branches starve: if what they add beside their
    skips falls below what cost accuracy in small ResNets (docs/evidence.md). For the latter it
    needs a `probe`.

    Args:
        every: integer, steps from one measurement to the next. An instability shows in several
            measurements: up to 100 is safe for long runs, 10 for short ones.
        probe: array or structure of arrays, one batch of inputs as `model(probe)` takes it, for the
            branches, or `None`. A batch of 16 to 32 will do.
        jsonl: path of a file to write to: a header, then one JSON object per measurement. A resumed
            run goes on with it.
        log_dir: folder for TensorBoard, or `None`.
        picture: path of a PNG or SVG to draw at the end, or `None`. Needs matplotlib.
        inputs: see `find_roles`.

    Attributes:
        header: dict: the rule, and for each γ and kernel role, size and decay; `None` before
            training.
        history: list of dicts, one per measurement, each with `step`, `learning_rate`, `loss` (mean
            since the last measurement, penalties included), `gammas`, `roles`, `kernels`,
            `branches`.
        events: list of `Event`: the instabilities seen.
        starved: `Starved`, where and when branches were first seen to starve, or `None`.

    Raises:
        ValueError: if `every` is no integer ≥ 1, or the picture's suffix is unknown.

    Example:

    >>> import keras, keras_gamma, numpy as np
    >>> from keras_gamma.dynamics.monitor import GammaMonitor
    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(8, name="dense")(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Dense(1, name="out")(y))
    >>> model.compile(keras.optimizers.SGD(0.1, weight_decay=0.01), "mse")
    >>> monitor = GammaMonitor(every=5)
    >>> batches = np.ones((64, 4)) * np.arange(64)[:, None], np.ones((64, 1))
    >>> _ = model.fit(*batches, batch_size=8, epochs=2, callbacks=[monitor], verbose=0)
    >>> [row["step"] for row in monitor.history]
    [0, 5, 10, 15]
    >>> kernel = monitor.history[-1]["kernels"]["dense/kernel"]
    >>> sorted(kernel)[:4]
    ['angle', 'effective_learning_rate', 'norm', 'predicted_angle']
    >>> round(kernel["predicted_angle"], 4)  # √(2ηλ)
    0.0447

    References:

    - [van Laarhoven, 2017](https://arxiv.org/abs/1706.05350)
    - [De & Smith, 2020](https://arxiv.org/abs/2002.10444)
    - [Lobacheva et al., 2021](https://arxiv.org/abs/2106.15739)
    - [Kosson et al., 2023](https://arxiv.org/abs/2305.17212)
    """

    def __init__(
        self,
        every: int = 100,
        probe: Any = None,
        *,
        jsonl: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        picture: str | os.PathLike[str] | None = None,
        inputs: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer ≥ 1. Received: {every!r}")
        if picture is not None:
            monitor_picture.check(picture)
        self.every = every
        self.probe = probe
        self.picture = picture
        self.inputs = inputs
        self.header: dict[str, Any] | None = None
        self.history: list[dict[str, Any]] = []
        self.events: list[Event] = []
        self.starved: Starved | None = None
        self._sinks: list[monitor_log.JsonLines | monitor_log.TensorBoard] = []
        if jsonl is not None:
            self._sinks.append(monitor_log.JsonLines(jsonl))
        if log_dir is not None:
            self._sinks.append(monitor_log.TensorBoard(log_dir))

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        model = self.model
        network = trace(model, self.inputs if self.probe is None else self.probe)
        self._gammas = [g for g in find_roles(network) if g.variable.trainable]
        kernels = [e for e in find_scale_invariant(network) if e.variable.trainable]
        self._setting = setting_of(model, kernels)
        self._kernel_meter = KernelMeter(kernels, self._setting)
        self._branch_meter = None if self.probe is None else BranchMeter(network, self.probe)
        self._loss_meter = LossMeter()
        self._detector, self._watch = Detector(), Watch()
        self._before: tuple[float | None, list[Any]] | None = None
        self._batches = self._begun = 0
        self._step = steps_taken(model.optimizer)
        self.history, self.events, self.starved = [], [], None
        self.header = _describe(self.every, self._gammas, kernels, self._setting)
        for sink in self._sinks:
            if isinstance(sink, monitor_log.JsonLines):
                sink.open(self.header, self._step)
                # A resumed run's picture shows all of it.
                self.history += monitor_log.read(sink.path)[1]
        if self._setting.notes:
            warnings.warn(f"GammaMonitor: {'; '.join(self._setting.notes)}.", stacklevel=2)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._batches = 0
        self._loss_meter.start_epoch()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._before, self._begun = None, batch
        if self._is_due():
            self._bring_weights_back()
            self._before = self._setting.learning_rate(), self._kernel_meter.copies()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        last = older.last_batch(self._begun, batch, steps_per_call(self._model))
        step, taken = self._step, last + 1 - self._batches
        self._step += taken
        self._batches = last + 1
        if self._before is None:
            return
        self._bring_weights_back()
        rate, before = self._before
        row = self._measure(step, rate, before, taken, logs)
        self.history.append(row)
        for sink in self._sinks:
            sink.write(row)
        norms = {path: numbers["norm"] for path, numbers in row["kernels"].items()}
        event = self._detector.update(step, row["loss"], norms)
        if event is not None:
            if not self.events:
                warnings.warn(f"GammaMonitor: {event}", stacklevel=2)
            self.events.append(event)
        ratios = {label: numbers["ratio"] for label, numbers in row["branches"].items()}
        starved = self._watch.update(step, ratios)
        if starved is not None:
            warnings.warn(f"GammaMonitor: {starved}", stacklevel=2)
            self.starved = starved

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        for sink in self._sinks:
            sink.close()
        if self.picture is not None and self.header is not None and self.history:
            monitor_picture.draw(self.header, self.history, self.picture)

    def _measure(
        self,
        step: int,
        rate: float | None,
        before: list[Any],
        taken: int,
        logs: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """One row of the history."""
        gammas = measure_gammas(self._gammas, self._setting, rate)
        branches = [] if self._branch_meter is None else self._branch_meter.measure()
        return {
            "step": step,
            "learning_rate": rate,
            "loss": self._loss_meter.measure(logs, self._batches),
            "gammas": gammas,
            "roles": by_role(self._gammas, gammas),
            "kernels": self._kernel_meter.measure(rate, before, taken),
            "branches": {
                one.label: {"branch": one.branch, "skip": one.skip, "ratio": one.ratio}
                for one in branches
            },
        }

    def _bring_weights_back(self) -> Any:
        """On JAX, `self.model` brings the weights back from the training step that holds them."""
        return self.model

    def _is_due(self) -> bool:
        """Whether a multiple of `every` lies within the steps of the next call."""
        ahead = max(1, steps_per_call(self._model))
        return self._step % self.every == 0 or self._step % self.every + ahead > self.every


def _describe(
    every: int, gammas: list[GammaRole], kernels: list[ScaleInvariant], setting: Setting
) -> dict[str, Any]:
    """The header of the history: what does not change."""
    known = {}
    for entry, decay in zip(kernels, setting.decays, strict=True):
        coupled, decoupled = decay or (None, None)
        known[entry.path] = {
            "per_filter": entry.per_filter,
            "constrained": entry.variable.constraint is not None,
            "coupled": coupled,
            "decoupled": decoupled,
        }
    return {
        "format": "keras_gamma.monitor",
        "version": 1,
        "every": every,
        "optimizer": setting.rule.name,
        "effective_learning_rate": _form(setting.rule.power),
        "gammas": {g.path: {"role": g.role.value} for g in gammas},
        "kernels": known,
        "notes": list(setting.notes),
    }


def _form(power: int | None) -> str:
    return {None: "not known", 0: "η", 1: "η/‖w‖", 2: "η/‖w‖²"}[power]
