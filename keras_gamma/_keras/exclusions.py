"""Changing an optimizer's exclude list.

`Optimizer._exclude_from_weight_decay`, `_var_key`: Keras can replace the list, but neither shorten
it nor read it. `_exclude_from_weight_decay_cache`: what it has answered for, until Keras 3.15. From
3.16 on `_weight_decay_by_var_key`: what the list decided when the optimizer was built, by
`_is_excluded_from_weight_decay`; an optimizer that is not built refuses to answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import keras

DECIDES_WHEN_BUILT = hasattr(keras.optimizers.Optimizer, "_is_excluded_from_weight_decay")


def excluded(optimizer: Any, variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Those of `variables` that stand on the optimizer's own list."""
    listed: set[int] = getattr(optimizer, "_exclude_from_weight_decay", set())
    return [variable for variable in variables if optimizer._var_key(variable) in listed]


def readmit(optimizer: Any, variables: Iterable[keras.Variable]) -> None:
    """Takes `variables` off the list; they decay again."""
    listed: set[int] = getattr(optimizer, "_exclude_from_weight_decay", set())
    keys = {optimizer._var_key(variable) for variable in variables}
    set_list(optimizer, set(listed) - keys)


def set_list(optimizer: Any, keys: Collection[Any]) -> None:
    """Replaces the list, by the keys of variables; name patterns stay."""
    optimizer._exclude_from_weight_decay = set(keys)
    if not DECIDES_WHEN_BUILT:
        optimizer._exclude_from_weight_decay_cache = {}
    elif optimizer.built:
        for variable in optimizer._trainable_variables:
            decayed = not optimizer._is_excluded_from_weight_decay(variable)
            optimizer._weight_decay_by_var_key[optimizer._var_key(variable)] = decayed


def is_undecided(optimizer: Any, variable: Any) -> bool:
    """Whether Keras would decide only when the optimizer is built with `variable`."""
    usual = keras.optimizers.Optimizer._use_weight_decay
    if not DECIDES_WHEN_BUILT or type(optimizer)._use_weight_decay is not usual:
        return False
    decided = getattr(optimizer, "_weight_decay_by_var_key", {})
    return optimizer._var_key(variable) not in decided
