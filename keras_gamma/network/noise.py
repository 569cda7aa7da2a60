"""Numbers for asking what code does with any."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_PERIOD = 65521  # A prime, so that no two rows of a tensor are alike.


def noise(shape: Sequence[int], random: np.random.Generator, positive: bool = False) -> Any:
    """Normal noise: a large array repeats what was drawn, for drawing takes longer than most steps.

    Args:
        shape: of the array.
        random: what draws, the same count of numbers for each array.
        positive: bool, whether none of them may be below 0.1.

    Returns:
        A NumPy array of float32.
    """
    numbers = random.standard_normal(_PERIOD, dtype="float32")
    if positive:
        numbers = np.abs(numbers) + np.float32(0.1)
    return np.resize(numbers, tuple(shape))
