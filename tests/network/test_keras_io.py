"""Models of keras.io's code examples open whole, at the first look."""

import keras
import pytest

from keras_gamma import find_roles, verify
from keras_gamma.network import trace

if keras.backend.backend() != "tensorflow":
    pytest.skip("raw TensorFlow code", allow_module_level=True)

from tests.models.keras_io import CASES, delta_rule, mapped


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", CASES)
def test_the_roles_are_those_by_hand(name):
    build, inputs, expected = CASES[name]
    network = trace(build(), inputs and inputs())
    assert network.opaque == {}
    found = {gamma.layer.name: str(gamma.role) for gamma in find_roles(network)}
    assert found == expected


@pytest.mark.parametrize("seed", [1, 15])
def test_a_quantizer_is_no_normalization_whatever_its_codes(seed):
    """With some of them, the nearest code is the same for an input of any scale."""
    build, _, expected = CASES["quantizing_autoencoder"]
    keras.utils.set_random_seed(seed)
    assert {gamma.layer.name: str(gamma.role) for gamma in find_roles(build())} == expected


def test_lists_of_tensors_are_read_item_by_item():
    model = delta_rule()
    report = find_roles(model)
    scales = {note.path.rpartition("/")[2]: str(note.role) for note in report.notes if note.role}
    assert scales == {"key_scale": "interior", "value_scale": "residual_last"}
    assert verify(model, report).ok


def test_what_goes_into_a_list_that_is_not_read_is_not_taken_for_unused():
    [entry] = verify(mapped())
    # "No output is computed from it" would agree with "other".
    assert str(entry.agreement) == "not testable"
    assert "No output" not in entry.evidence
