"""What acts on each trainable variable: measured on small stand-ins, without touching the model."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.checks import resolution
from keras_gamma.decay import penalties, shrinkage
from keras_gamma.decay.inner_optimizers import has_factors, holds_several, is_known

_ELEMENTWISE = (keras.regularizers.L1L2, keras.regularizers.L1, keras.regularizers.L2,
                penalties.UnitOffsetL2)  # fmt: skip
_STEP = 2.0**-4  # A central difference is exact for L1 and L2.


@dataclasses.dataclass(frozen=True)
class Effect:
    """What shrinks one variable.

    Args:
        pull: float, the gradient of its penalty where γ = 1.
        decay: float, the share that weight decay takes off, by η; `None` if it was not measured.
        to_start: bool, whether it is the share of the distance from where the variable started.
        strength: float, the same without exclusions and factors.
        why_not: string: why the decay was not measured.
        lost: string: what shrinks it on paper, but rounds to nothing in the variable's dtype.
    """

    pull: float
    decay: float | None = None
    to_start: bool = False
    strength: float = 0.0
    why_not: str = ""
    lost: str = ""


def effects(
    variables: Sequence[keras.Variable], optimizer: Any, thorough: bool = True
) -> list[Effect]:
    """Measures an `Effect` for each of `variables`.

    Best called `apart` from all scopes, for it makes variables.

    Args:
        variables: the trainable variables of a model.
        optimizer: what the model is compiled with, or `None`.
        thorough: bool, whether to ask Keras' optimizers (and ours) about each variable. Else one
            stands for all of its kind: of its rank, on the exclude list or not, with its factor.
            Other optimizers are always asked about each.
    """
    pulls: dict[Any, float] = {}
    found = {}
    for variable in variables:
        key = id(variable) if thorough else _penalty_key(variable)
        if key not in pulls:
            pulls[key] = pull(variable)
        found[id(variable)] = Effect(pulls[key], why_not="the model is not compiled")
    if optimizer is None:
        return list(found.values())
    if not is_known(optimizer):
        reason = (
            f"{type(optimizer).__name__} holds other optimizers, and what it makes of their decay "
            "is not known"
        )
        return [dataclasses.replace(found[id(v)], why_not=reason) for v in variables]
    if holds_several(optimizer):
        reason = f"{type(optimizer).__name__} is not built, so who decays it is not known"
        found = {key: dataclasses.replace(one, why_not=reason) for key, one in found.items()}
    for part, own in shrinkage.shared_out(optimizer, variables):
        for variable, effect in zip(own, _decayed(part, own, found, thorough), strict=True):
            found[id(variable)] = effect
    return [found[id(v)] for v in variables]


def _decayed(
    optimizer: Any, variables: list[keras.Variable], before: dict[int, Effect], thorough: bool
) -> list[Effect]:
    """The effects on the variables of one optimizer."""
    known = [before[id(v)] for v in variables]
    if not variables:
        return known
    each = thorough or not _is_known(optimizer)
    kinds = [id(v) if each else _decay_key(optimizer, v) for v in variables]
    one_of_each = dict(zip(kinds, variables, strict=True))
    try:
        reason = shrinkage.why_not_lasting(optimizer)
        if reason:
            return [dataclasses.replace(one, why_not=reason) for one in known]
        tried = list(one_of_each.values())
        by_kind = dict(zip(one_of_each, shrinkage.decays(optimizer, tried), strict=True))
        strengths = dict(zip(one_of_each, shrinkage.decays(optimizer, tried, True), strict=True))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        name = type(optimizer).__name__
        reason = f"{name} could not be tried out on a copy ({type(error).__name__}: {text})"
        return [dataclasses.replace(one, why_not=reason) for one in known]
    taken, bare = [by_kind[kind] for kind in kinds], [strengths[kind].share for kind in kinds]
    shares = [one.share for one in taken]
    lost = resolution.lost(optimizer, variables, [one.pull for one in known], shares)
    return [
        Effect(one.pull, decay.share, decay.to_start, strength, "", loss)
        for one, decay, strength, loss in zip(known, taken, bare, lost, strict=True)
    ]


def _penalty_key(variable: keras.Variable) -> Any:
    """The same for variables whose penalties are the same."""
    regularizer = variable.regularizer
    if regularizer is None:
        return None
    if type(regularizer) not in _ELEMENTWISE:
        return id(variable)
    config = tuple(sorted(regularizer.get_config().items()))
    return type(regularizer), config, len(variable.shape)


def _is_known(optimizer: Any) -> bool:
    """Whether what `_decay_key` holds is all that the optimizer asks of a variable."""
    # `ln/gamma#2` is the second variable of that path: they are told apart by counting all of them.
    numbered = any("#" in path for path in getattr(optimizer, "decay", None) or ())
    return shrinkage.is_of_keras(optimizer) and not numbered


def _decay_key(optimizer: Any, variable: keras.Variable) -> Any:
    """The same for variables that a Keras optimizer, or one of ours, decays alike."""
    factor = optimizer.factor(variable) if has_factors(optimizer) else 1.0
    by_path = variable.path if hasattr(optimizer, "exclude_layers") else ""  # Muon's
    written_over = bool(getattr(variable, "overwrite_with_gradient", False))
    is_decayed = _keras.is_decayed(optimizer, variable)
    to_start = has_factors(optimizer) and optimizer.leads_to_start(variable)
    return len(variable.shape), is_decayed, factor, by_path, written_over, to_start


def pull(variable: keras.Variable) -> float:
    """The gradient of a variable's penalty where γ = 1, as a mean over its elements."""
    regularizer = variable.regularizer
    if regularizer is None:
        return 0.0
    # Other regularizers may depend on the shape.
    elementwise = type(regularizer) in _ELEMENTWISE
    shape = shrinkage.small(variable) if elementwise else tuple(variable.shape)
    start = 0.0 if isinstance(regularizer, penalties.UnitOffsetL2) else 1.0

    def penalty(value: float) -> float:
        content = keras.ops.full(shape, value, dtype="float32")
        return float(keras.ops.convert_to_numpy(regularizer(content)))

    slope = (penalty(start + _STEP) - penalty(start - _STEP)) / (2 * _STEP)
    return slope / math.prod(shape)
