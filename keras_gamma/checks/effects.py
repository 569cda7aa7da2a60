"""What acts on each trainable variable: measured on small stand-ins, without touching the model."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_gamma._keras import at_once
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
    keys = {id(v): id(v) if thorough else _penalty_key(v) for v in variables}
    one_of_each = {keys[id(v)]: v for v in reversed(variables)}
    pulls = dict(zip(one_of_each, _pulls(list(one_of_each.values())), strict=True))
    found = {
        id(v): Effect(pulls[keys[id(v)]], why_not="the model is not compiled") for v in variables
    }
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
    # Without exclusions and factors, what it does may differ by less.
    bare_kinds = [_bare_key(v, optimizer) if _is_known(optimizer) else id(v) for v in variables]
    one_of_each_bare = dict(zip(bare_kinds, variables, strict=True))
    try:
        reason = shrinkage.why_not_lasting(optimizer)
        if reason:
            return [dataclasses.replace(one, why_not=reason) for one in known]
        by_kind, strengths = (
            dict(zip(some, shrinkage.decays(optimizer, list(some.values()), bare), strict=True))
            for some, bare in ((one_of_each, False), (one_of_each_bare, True))
        )
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        name = type(optimizer).__name__
        reason = f"{name} could not be tried out on a copy ({type(error).__name__}: {text})"
        return [dataclasses.replace(one, why_not=reason) for one in known]
    taken, bare = [by_kind[k] for k in kinds], [strengths[k].share for k in bare_kinds]
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
    is_decayed = _keras.is_decayed(optimizer, variable)
    to_start = has_factors(optimizer) and optimizer.leads_to_start(variable)
    return _bare_key(variable, optimizer), is_decayed, factor, to_start


def _bare_key(variable: keras.Variable, optimizer: Any) -> Any:
    """The same for variables that it would decay alike, if none were excluded."""
    by_path = variable.path if hasattr(optimizer, "exclude_layers") else ""  # Muon's
    written_over = bool(getattr(variable, "overwrite_with_gradient", False))
    return len(variable.shape), by_path, written_over


def _pulls(variables: Sequence[keras.Variable]) -> list[float]:
    """The `pull` of each."""
    # A regularizer of the user's own may do more than to return a number.
    together = [v for v in variables if type(v.regularizer) in _ELEMENTWISE]
    if len(together) > at_once.MOST:
        return [pull(v) for v in variables]
    asked = at_once.at_once(lambda: [_penalties(v) for v in together])
    known = {id(v): _slope(v, pair) for v, pair in zip(together, asked, strict=True)}
    return [known[id(v)] if id(v) in known else pull(v) for v in variables]


def pull(variable: keras.Variable) -> float:
    """The gradient of a variable's penalty where γ = 1, as a mean over its elements."""
    return 0.0 if variable.regularizer is None else _slope(variable, _penalties(variable))


def _penalties(variable: keras.Variable) -> list[Any]:
    """A variable's penalty a step above where γ = 1, and as far below."""
    start = 0.0 if isinstance(variable.regularizer, penalties.UnitOffsetL2) else 1.0
    shape = _tried_shape(variable)
    return [
        variable.regularizer(keras.ops.full(shape, value, dtype="float32"))
        for value in (start + _STEP, start - _STEP)
    ]


def _slope(variable: keras.Variable, pair: Sequence[Any]) -> float:
    above, below = (float(keras.ops.convert_to_numpy(penalty)) for penalty in pair)
    return (above - below) / (2 * _STEP) / math.prod(_tried_shape(variable))


def _tried_shape(variable: keras.Variable) -> tuple[int, ...]:
    # Other regularizers may depend on the shape.
    elementwise = type(variable.regularizer) in _ELEMENTWISE
    return shrinkage.small(variable) if elementwise else tuple(variable.shape)
