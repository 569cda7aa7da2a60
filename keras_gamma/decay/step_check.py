"""What is asked when a training step begins, of whatever model holds a layer that was decided on.

An optimizer that is compiled later may decay a γ that has a penalty, or may not know what another
optimizer was told to spare; and Keras' own `exclude_from_weight_decay` drops what was on an
optimizer's list before. None of it shows in the model, and the model may be one that was built
around the layers long after they were decided on.
"""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import keras

from keras_gamma._keras import names as _keras
from keras_gamma._keras.apart import apart
from keras_gamma.decay import shrinkage
from keras_gamma.decay.inner_optimizers import has_factors, holds_several, parts
from keras_gamma.decay.instance_methods import owner_of
from keras_gamma.decay.telling import DecisionNotKept, is_quiet

_LISTED = 3


class Record(Protocol):
    """What was decided on the variables of one layer."""

    def with_penalty(self) -> list[keras.Variable]:
        """The variables that have a penalty by decision now."""
        ...

    def withheld(self) -> list[keras.Variable]:
        """The variables that some optimizer was told not to decay, or not in full."""
        ...

    def replaced(self) -> list[keras.Variable]:
        """Those of them in place of which the layer has others now."""
        ...


def check(model: keras.Model, records: Iterable[Record]) -> None:
    """Warns if an optimizer of `model` acts against what is decided on the layers in it.

    Args:
        model: a model that is about to take a training step.
        records: what was decided on its layers.
    """
    if is_quiet():
        return
    penalized: list[keras.Variable] = []
    withheld: list[keras.Variable] = []
    replaced: list[keras.Variable] = []
    for record in records:
        penalized += record.with_penalty()
        withheld += record.withheld()
        replaced += record.replaced()
    if replaced:
        _tell_replaced(model, [variable.path for variable in replaced])
    # Apart, for a step is traced within scopes in which nothing has a value.
    for optimizer, twice, lost, dropped in apart(lambda: _acted_on(model, penalized, withheld)):
        if twice:
            _tell_counted_twice(optimizer, twice)
        if lost:
            _tell_not_spared(optimizer, model, lost)
        if dropped:
            _tell_dropped(optimizer, dropped)


@dataclasses.dataclass(frozen=True)
class State:
    """Which optimizers a model had, what was known of them, and what each of them spared."""

    optimizers: tuple[tuple[weakref.ref[Any], bool, tuple[Hashable, ...]], ...]

    @classmethod
    def of(cls, model: keras.Model) -> State:
        return cls(
            tuple(
                (
                    weakref.ref(one),
                    _is_sole(one, model) or one.built,
                    tuple((_keras.listed(part), _decays(part)) for part in parts(one)),
                )
                for one in _keras.optimizers_of(model)
            )
        )


def _decays(optimizer: Any) -> bool:
    """Whether it may decay anything; asked in each forward pass, so no value is fetched."""
    found = (getattr(optimizer, name, None) for name in shrinkage.STRENGTHS)
    return any(not isinstance(v, (int, float)) or v != 0 for v in found if v is not None)


class Caller(NamedTuple):
    """Who runs a forward pass; with a trainer, in which state; and the layer that it began with."""

    trainer: keras.Model | None
    archive: Any
    state: State
    entry: Any = None

    @classmethod
    def now(cls, entry: Any = None) -> Caller:
        trainer, archive, exporter = _keras.asked_by()
        if exporter is not None and owner_of(exporter, "export") is not None:
            archive = None  # The model is watched: its `export` tells.
        state = State(()) if trainer is None else State.of(trainer)
        return cls(trainer, archive, state, entry)


def tell_left_out(model: keras.Model, variables: Sequence[keras.Variable]) -> None:
    """Warns that the training step of `model` does not add the penalties on `variables`."""
    text = left_out(model, [variable.path for variable in variables])
    warnings.warn(f"{text[0].upper()}{text[1:]}.", DecisionNotKept, stacklevel=5)


def left_out(model: keras.Model, paths: Sequence[str]) -> str:
    """That the training step of `model` does not add the penalties on the variables of `paths`."""
    return (
        f"the training step of {type(model).__name__} {model.name!r} never asked for its losses, "
        f"so that the L2 penalties do not act ({_list(paths)}). Add sum(self.losses) to the loss "
        "in its train_step, or in its compute_loss"
    )


def _acted_on(
    model: keras.Model, penalized: Sequence[keras.Variable], withheld: Sequence[keras.Variable]
) -> list[tuple[Any, list[str], list[str], list[str]]]:
    """For each optimizer the paths of variables that it decays, in three groups.

    They have a penalty; another optimizer was told to spare them; this very one was.
    """
    found = []
    trained = list(model.trainable_variables)
    for outer in _keras.optimizers_of(model):
        for part in parts(outer):
            unbuilt = trained if _is_sole(outer, model) else []
            acting = _keras.variables_of(part) if part.built else unbuilt
            own, decided = {id(v) for v in acting}, {id(v) for v in _decided(part)}
            twice, lost, dropped = (
                [v for v in group if v.trainable and id(v) in own and shrinkage.acts_on(part, v)]
                for group in (penalized, withheld, _dropped(part))
            )
            known = has_factors(part) and part.decay is not None
            lost = [] if known else [v for v in lost if id(v) not in decided]
            groups = (_paths(trained, group) for group in (twice, lost, dropped))
            found.append((part, *groups))
    return found


def _paths(order: Sequence[keras.Variable], variables: Iterable[keras.Variable]) -> list[str]:
    """The paths of `variables`, in the order in which the model has them."""
    wanted = {id(variable): variable.path for variable in variables}
    first = [wanted.pop(id(variable)) for variable in order if id(variable) in wanted]
    return first + list(wanted.values())


def _is_sole(optimizer: Any, model: keras.Model) -> bool:
    """Whether it will update all variables of `model`: what it does is known before it is built."""
    return optimizer is getattr(model, "optimizer", None) and not holds_several(optimizer)


def _decided(optimizer: Any) -> Sequence[keras.Variable]:
    """The variables that a plan on this very optimizer speaks of."""
    return getattr(owner_of(optimizer, "save_assets"), "held", ())


def _dropped(optimizer: Any) -> Sequence[keras.Variable]:
    """The variables that a plan on this very optimizer spares, and its list does not any more."""
    record = owner_of(optimizer, "save_assets")
    found: Sequence[keras.Variable] = () if record is None else record.dropped()
    return found


def _tell_counted_twice(optimizer: Any, paths: Sequence[str]) -> None:
    warnings.warn(
        f"{type(optimizer).__name__} decays γ that have an L2 penalty already: {_list(paths)}. "
        "They are counted twice. Choose one: call exclude_from_weight_decay(model.optimizer, "
        "model, guidelines='none'), or take the penalties back with plan.remove().",
        stacklevel=5,
    )


def _tell_replaced(model: keras.Model, paths: Sequence[str]) -> None:
    warnings.warn(
        f"Layers of model {model.name!r} have other variables now than those that were decided on "
        f"({_list(paths)}): they were built anew, or assigned. The decision does not act on the "
        "new ones. Call apply_guidelines, or exclude_from_weight_decay, again.",
        DecisionNotKept,
        stacklevel=5,
    )


def _tell_not_spared(optimizer: Any, model: keras.Model, paths: Sequence[str]) -> None:
    name = type(optimizer).__name__
    warnings.warn(
        f"{name} decays variables of model {model.name!r} that another optimizer was told to "
        f"spare: {_list(paths)}. An exclude list belongs to one optimizer, and a new one begins "
        "without. Call exclude_from_weight_decay(model.optimizer, model) after model.compile, or "
        f"compile with keras_gamma.optimizers and decay=plan; if {name} is to decay them, take "
        "the earlier decision back with plan.remove(), or set_decay(None) of that optimizer.",
        DecisionNotKept,
        stacklevel=5,
    )


def _tell_dropped(optimizer: Any, paths: Sequence[str]) -> None:
    name = type(optimizer).__name__
    warnings.warn(
        f"{name} decays variables that keras_gamma put on its exclude list: {_list(paths)}. The "
        "list was replaced since: the optimizer's own exclude_from_weight_decay keeps nothing of "
        "what was on it. Call it first, and keras_gamma.exclude_from_weight_decay afterwards, "
        "which adds to the list.",
        DecisionNotKept,
        stacklevel=5,
    )


def _list(paths: Sequence[str]) -> str:
    more = len(paths) - _LISTED
    return ", ".join(paths[:_LISTED]) + (f" and {more} more" if more > 0 else "")
