"""`GammaMonitor`: the mechanism of weight decay, watched while training."""

import math
import warnings

import keras
import numpy as np

from keras_gamma._keras import names as _keras
from keras_gamma.checks import effects
from keras_gamma.decay.shrinkage import decays, is_measurable, unwrap
from keras_gamma.dynamics import monitor_log, monitor_picture
from keras_gamma.dynamics.branches import BranchMeter
from keras_gamma.dynamics.instability import Detector
from keras_gamma.dynamics.scale_invariance import find_scale_invariant
from keras_gamma.dynamics.update_rules import UpdateRule, rule_of
from keras_gamma.network.inputs import trace
from keras_gamma.roles.finding import find_roles

_MEMORY = 0.9  # Of the running means of squares: they reach back about ten measurements.


class GammaMonitor(keras.callbacks.Callback):
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
    weight decay (arXiv:2106.15739).

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
        self, every=100, probe=None, *, jsonl=None, log_dir=None, picture=None, inputs=None
    ):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer ≥ 1. Received: {every!r}")
        if picture is not None:
            monitor_picture.check(picture)
        self.every = every
        self.probe = probe
        self.picture = picture
        self.inputs = inputs
        self.header = None
        self.history: list[dict] = []
        self.events: list = []
        self._sinks: list = []
        if jsonl is not None:
            self._sinks.append(monitor_log.JsonLines(jsonl))
        if log_dir is not None:
            self._sinks.append(monitor_log.TensorBoard(log_dir))

    # What Keras calls ------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        model = self.model
        network = trace(model, self.inputs if self.probe is None else self.probe)
        self._gammas = [g for g in find_roles(network) if g.variable.trainable]
        kernels = find_scale_invariant(network)
        self._kernels = [e for e in kernels if e.variable.trainable]
        self._meter = None if self.probe is None else BranchMeter(network, self.probe)
        self._optimizer, self._rule, notes = _rule(model)
        self._decays, more = _decays(self._optimizer, [e.variable for e in self._kernels])
        self._squares: dict = {}
        self._detector = Detector()
        self._before = None
        self._batches = self._last_batches = 0
        self._last_mean = 0.0
        self._step = _steps_taken(model.optimizer)
        self.history, self.events = [], []
        # Where the norm is held, there is nothing to settle.
        held = [entry.variable.constraint is not None for entry in self._kernels]
        self._decays = [None if h else d for h, d in zip(held, self._decays, strict=True)]
        more += _limits(model, self._rule, self._decays)
        self.header = self._describe(notes + more)
        for sink in self._sinks:
            if isinstance(sink, monitor_log.JsonLines):
                sink.open(self.header, self._step)
                # A resumed run's picture shows all of it.
                self.history += monitor_log.read(sink.path)[1]
        if self.header["notes"]:
            warnings.warn(f"GammaMonitor: {'; '.join(self.header['notes'])}.", stacklevel=2)

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = self._last_batches = 0
        self._last_mean = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self._before = None
        if self._is_due():
            self._bring_weights_back()
            rate = None if self._optimizer is None else _float(self._optimizer.learning_rate)
            self._before = rate, [_copy(entry.variable) for entry in self._kernels]

    def on_train_batch_end(self, batch, logs=None):
        step, taken = self._step, batch + 1 - self._batches
        self._step += taken
        self._batches = batch + 1
        if self._before is None:
            return
        self._bring_weights_back()
        rate, before = self._before
        row = {"step": step, "learning_rate": rate, "loss": self._loss(logs)}
        row["gammas"] = self._measure_gammas(rate)
        row["roles"] = self._by_role(row["gammas"])
        row["kernels"] = self._measure_kernels(rate, before, taken)
        row["branches"] = self._measure_branches()
        self.history.append(row)
        for sink in self._sinks:
            sink.write(row)
        norms = {path: numbers["norm"] for path, numbers in row["kernels"].items()}
        event = self._detector.update(step, row["loss"], norms)
        if event is not None:
            if not self.events:
                warnings.warn(f"GammaMonitor: {event}", stacklevel=2)
            self.events.append(event)

    def on_train_end(self, logs=None):
        for sink in self._sinks:
            sink.close()
        if self.picture is not None and self.history:
            monitor_picture.draw(self.header, self.history, self.picture)

    # Measuring -------------------------------------------------------------------------------

    def _bring_weights_back(self):
        """On JAX, `self.model` brings the weights back from the training step that holds them."""
        return self.model

    def _is_due(self):
        """Whether a multiple of `every` lies within the steps of the next call."""
        ahead = max(1, _whole(getattr(self._model, "steps_per_execution", 1)))
        return self._step % self.every == 0 or self._step % self.every + ahead > self.every

    def _loss(self, logs):
        """The mean loss since the last measurement, from Keras' mean since the epoch began."""
        mean = None if logs is None else logs.get("loss")
        if mean is None:
            return None
        mean, count = _float(mean), self._batches
        since = (count * mean - self._last_batches * self._last_mean) / (count - self._last_batches)
        self._last_batches, self._last_mean = count, mean
        return since

    def _measure_gammas(self, rate):
        found = {}
        for gamma in self._gammas:
            # A scale stored as the difference from 1 acts as 1 + variable.
            scale = _copy(gamma.variable) + (1.0 if gamma.neutral == 0.0 else 0.0)
            norm = float(np.linalg.norm(scale))
            found[gamma.path] = {
                "norm": norm,
                "quantiles": [float(q) for q in np.quantile(scale, (0, 0.25, 0.5, 0.75, 1))],
                "effective_learning_rate": self._effective(rate, norm),
            }
        return found

    def _by_role(self, gammas):
        """Medians over the γ of each role."""
        groups: dict = {}
        for gamma in self._gammas:
            groups.setdefault(str(gamma.role), []).append(gammas[gamma.path])
        return {
            role: {
                "norm": _median(g["norm"] for g in group),
                "median": _median(g["quantiles"][2] for g in group),
                "effective_learning_rate": _median(g["effective_learning_rate"] for g in group),
            }
            for role, group in groups.items()
        }

    def _measure_kernels(self, rate, before, steps):
        found = {}
        for i, (entry, old) in enumerate(zip(self._kernels, before, strict=True)):
            old, new = _units(entry, old), _units(entry, _copy(entry.variable))
            turned = _angles(old, new)
            squares = np.einsum("ij,ij->j", old, old)
            norm = math.sqrt(squares.mean())
            numbers = {
                "norm": norm,
                "effective_learning_rate": _median(
                    e for e in [self._effective(rate, np.sqrt(squares))] if e is not None
                ),
            }
            if steps == 1 and turned.any():
                numbers["angle"] = math.sqrt(np.square(turned).mean())
                moved = np.tan(turned) * squares  # ‖step‖·‖w‖
                rms = self._running(entry.path, np.square(turned).mean(), np.square(moved).mean())
                numbers["rms_angle"] = rms[0]
                numbers |= self._predict(rate, self._decays[i], len(old), rms[1])
            found[entry.path] = numbers
        return found

    def _running(self, path, *squares):
        """Roots of the running means of squares."""
        known, count = self._squares.get(path, ((0.0,) * len(squares), 0))
        keep = min(_MEMORY, count / (count + 1))
        mean = tuple(keep * k + (1 - keep) * s for k, s in zip(known, squares, strict=True))
        self._squares[path] = mean, count + 1
        return tuple(math.sqrt(m) for m in mean)

    def _predict(self, rate, decay, size, step_times_norm):
        if decay is None or rate is None:
            return {}
        angle = self._rule.angle(rate, *decay)
        if angle is None:
            return {}
        gradient = self._rule.gradient(rate, step_times_norm)
        norm = self._rule.norm(rate, *decay, size, gradient)
        return {"predicted_angle": angle, "predicted_norm": norm}

    def _measure_branches(self):
        if self._meter is None:
            return {}
        return {
            one.label: {"branch": one.branch, "skip": one.skip, "ratio": one.ratio}
            for one in self._meter.measure()
        }

    def _effective(self, rate, norm):
        if rate is None or not np.all(norm):
            return None
        return self._rule.effective_learning_rate(rate, norm)

    def _describe(self, notes):
        kernels = {}
        for entry, decay in zip(self._kernels, self._decays, strict=True):
            coupled, decoupled = decay or (None, None)
            kernels[entry.path] = {
                "per_filter": entry.per_filter,
                "constrained": entry.variable.constraint is not None,
                "coupled": coupled,
                "decoupled": decoupled,
            }
        return {
            "format": "keras_gamma.monitor",
            "version": 1,
            "every": self.every,
            "optimizer": self._rule.name,
            "effective_learning_rate": _form(self._rule.power),
            "gammas": {g.path: {"role": str(g.role)} for g in self._gammas},
            "kernels": kernels,
            "notes": notes,
        }


def _rule(model):
    """The optimizer to ask for the learning rate, its `UpdateRule`, and notes."""
    optimizer = model.optimizer
    try:
        inner = unwrap(optimizer)
    except ValueError:
        name = type(optimizer).__name__
        return None, UpdateRule(name, None), [f"{name} has no single learning rate"]
    rule = rule_of(inner)
    notes = []
    if rule.power is None:
        notes.append(f"the effective learning rate of {rule.name} is not known")
    if rule.why_not and rule.kind is None:
        notes.append(f"no equilibrium is predicted: {rule.why_not}")
    return inner, rule, notes


def _decays(optimizer, variables):
    """For each variable `(coupled, decoupled)`, or `None` where they are not known; and notes."""
    if optimizer is None or not variables:
        return [None] * len(variables), []
    if not is_measurable(optimizer):
        return [None] * len(variables), []
    if _keras.inside_a_strategy():
        note = "the decay of the kernels is not measured inside strategy.scope()"
        return [None] * len(variables), [note]
    pairs = zip(effects.pulls(variables), decays(optimizer, variables), strict=True)
    return list(pairs), []


def _limits(model, rule, pairs):
    """What cannot be told in this setting."""
    if rule.kind == "adam" and any(pair and pair[0] for pair in pairs):
        yield f"no equilibrium is predicted for kernels with a penalty in the loss of {rule.name}"
    if _whole(getattr(model, "steps_per_execution", 1)) > 1:
        yield "angles are those of single steps, and steps_per_execution is more than 1"


def _form(power):
    return {None: "not known", 0: "η", 1: "η/‖w‖", 2: "η/‖w‖²"}[power]


# Numbers --------------------------------------------------------------------------------------


def _copy(variable):
    """The values of a variable, in memory of their own."""
    return np.array(keras.ops.convert_to_numpy(variable), dtype="float32", copy=True)


def _units(entry, value):
    """A kernel as a matrix: a column for each part whose norm does not matter."""
    size = math.prod(value.shape[axis] for axis in entry.axes)
    return value.reshape(size, -1)


def _angles(old, new):
    """The angle between each column of two matrices, accurate for small ones."""
    difference = new - old
    along = np.einsum("ij,ij->j", old, difference, dtype="float64")
    squares = np.einsum("ij,ij->j", old, old, dtype="float64")
    squares[squares == 0] = np.nan
    across = np.einsum("ij,ij->j", difference, difference, dtype="float64")
    across = np.sqrt(np.maximum(across - along**2 / squares, 0.0))
    return np.nan_to_num(np.arctan2(across, np.sqrt(squares) + along / np.sqrt(squares)))


def _median(values):
    values = [np.asarray(value) for value in values if value is not None]
    return float(np.median(np.concatenate([v.ravel() for v in values]))) if values else None


def _float(value):
    return float(keras.ops.convert_to_numpy(value))


def _steps_taken(optimizer):
    """Training steps so far; `iterations` counts those that changed the weights."""
    updates = int(keras.ops.convert_to_numpy(optimizer.iterations))
    return updates * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)


def _whole(value):
    return int(value) if isinstance(value, (int, float)) else 1
