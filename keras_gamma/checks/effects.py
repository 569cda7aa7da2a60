"""What really acts on γ in a training step: penalties, and steps that were traced before."""

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import penalties
from keras_gamma.decay.shrinkage import mean, small

_ELEMENTWISE = (keras.regularizers.L1L2, keras.regularizers.L1, keras.regularizers.L2,
                penalties.UnitOffsetL2)  # fmt: skip


class _Penalized(keras.Model):
    """A model of nothing but variables with penalties: its loss is the penalties."""

    def __init__(self, variables):
        super().__init__(dtype="float32")
        self.held = list(variables)

    def call(self, x):
        return x


def pulls(variables):
    """The gradient of each variable's penalty where γ = 1; found by a step of SGD, η = 1."""
    found, penalized = [0.0] * len(variables), []
    for i, variable in enumerate(variables):
        regularizer = variable.regularizer
        if regularizer is None:
            continue
        # Other regularizers may depend on the shape.
        shape = small(variable) if type(regularizer) in _ELEMENTWISE else variable.shape
        start = 0.0 if isinstance(regularizer, penalties.UnitOffsetL2) else 1.0
        stand_in = _keras.stand_in(variable, shape, start)
        stand_in.regularizer = regularizer
        penalized.append((i, start, stand_in))
    if not penalized:
        return found
    model = _Penalized([stand_in for _, _, stand_in in penalized])
    model.compile(
        keras.optimizers.SGD(1.0),
        lambda y, p: 0.0 * keras.ops.sum(p),
        run_eagerly=True,
        jit_compile=False,
        auto_scale_loss=False,
    )
    model.train_on_batch(keras.ops.zeros((1, 1)), keras.ops.zeros((1, 1)))
    for i, start, stand_in in penalized:
        found[i] = start - mean(stand_in)
    return found


def check_step(model):
    """Ids of variables that a traced step treats by old settings; disagreements; notes."""
    stale: set[int] = set()
    problems: list[str] = []
    notes: list[str] = []
    for method in ("train_step", "compute_loss"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            notes.append(f"{type(model).__name__}.{method} is its own; does it add model.losses?")
    steps = _keras.traced_steps(model)
    if steps is None:
        notes.append(
            "the training step is compiled already, and this backend does not show it: what was "
            "set since (by other means than keras_gamma, which drops it) waits for model.compile."
        )
        return stale, problems, notes
    for old, new in steps:
        changed = {path for path in new.uses if old.uses.get(path) != new.uses[path]}
        stale |= {id(v) for v in model.trainable_variables if v.path in changed}
        if not changed and new.constants - old.constants:
            problems.append(
                "the training step that fit has traced holds other constants than one traced now "
                "would: a strength was changed since. Call model.compile again"
            )
    return stale, list(dict.fromkeys(problems)), notes
