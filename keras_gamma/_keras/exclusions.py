"""Taking variables off an optimizer's exclude list.

`Optimizer._exclude_from_weight_decay`, `_exclude_from_weight_decay_cache`, `_var_key`: Keras can
replace the list, but neither shorten it nor read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras


def excluded(optimizer: Any, variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Those of `variables` that stand on the optimizer's own list."""
    listed: set[int] = getattr(optimizer, "_exclude_from_weight_decay", set())
    return [variable for variable in variables if optimizer._var_key(variable) in listed]


def readmit(optimizer: Any, variables: Iterable[keras.Variable]) -> None:
    """Takes `variables` off the list; they decay again."""
    listed: set[int] = getattr(optimizer, "_exclude_from_weight_decay", set())
    keys = {optimizer._var_key(variable) for variable in variables}
    optimizer._exclude_from_weight_decay = set(listed) - keys
    optimizer._exclude_from_weight_decay_cache = {}
