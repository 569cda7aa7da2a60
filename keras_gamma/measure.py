"""What really shrinks a variable: measured, on copies, by steps of real optimizers."""

import keras

from keras_gamma import _keras, regularize


def _small(variable):
    """A shape of the same rank; optimizers treat matrices and vectors differently."""
    return (2,) * len(variable.shape)


_ELEMENTWISE = (keras.regularizers.L1L2, keras.regularizers.L1, keras.regularizers.L2,
                regularize.UnitOffsetL2)  # fmt: skip


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
        shape = _small(variable) if type(regularizer) in _ELEMENTWISE else variable.shape
        start = 0.0 if isinstance(regularizer, regularize.UnitOffsetL2) else 1.0
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
        found[i] = start - _mean(stand_in)
    return found


def decays(optimizer, variables):
    """The share of each variable that a step with gradients of zero takes off, by η."""
    config = dict(optimizer.get_config())
    # So large a learning rate that half of w goes: in float32, little would be lost in the 1.
    eta = 0.5 / optimizer.weight_decay if optimizer.weight_decay else 0.125
    config["learning_rate"] = eta
    for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps",
                 "loss_scale_factor"):  # fmt: skip
        if name in config:
            config[name] = None
    if "use_ema" in config:
        config["use_ema"] = False
    copy = type(optimizer).from_config(config)
    stand_ins = [_keras.stand_in(variable, _small(variable), 1.0) for variable in variables]
    copy.build(stand_ins)
    _keras.copy_exclusions(optimizer, copy, zip(variables, stand_ins, strict=True))
    copy.apply([keras.ops.zeros(s.shape) for s in stand_ins], stand_ins)
    shares = [(1.0 - _mean(stand_in)) / eta for stand_in in stand_ins]
    return [0.0 if abs(share * eta) < 1e-6 else share for share in shares]


def _mean(variable):
    return float(keras.ops.convert_to_numpy(variable).astype("float64").mean())


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
