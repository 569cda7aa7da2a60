"""The list of known mistakes is one: each names a γ, its right role, and another."""

import pytest

from keras_gamma import Role
from tests.models.wrong_before import CASES, WRONG_BEFORE


def test_there_are_enough_to_measure_a_referee():
    assert sum(len(wrong) for wrong in WRONG_BEFORE.values()) >= 40


@pytest.mark.parametrize("name", WRONG_BEFORE)
def test_each_differs_from_the_right_role(name):
    for key, (before, right) in WRONG_BEFORE[name].items():
        assert CASES[name].expected[key] == right
        assert Role(before) != Role(right)
