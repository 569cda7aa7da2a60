"""Models of keras.io's code examples open whole, at the first look."""

import keras
import pytest

from keras_gamma import find_roles
from keras_gamma.network import trace

if keras.backend.backend() != "tensorflow":
    pytest.skip("raw TensorFlow code", allow_module_level=True)

from tests.models.keras_io import CASES


@pytest.mark.parametrize("name", CASES)
def test_the_roles_are_those_by_hand(name):
    build, inputs, expected = CASES[name]
    network = trace(build(), inputs and inputs())
    assert network.opaque == {}
    found = {gamma.layer.name: str(gamma.role) for gamma in find_roles(network)}
    assert found == expected
