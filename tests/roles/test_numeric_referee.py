"""The hand-written roles, checked by running the models: no part of the library takes part."""

import keras
import pytest

from tests.models.numeric_roles import Referee, applies, kind
from tests.models.role_models import BY_NAME, FLAT

# What running cannot tell, and why.
GATE = "what a norm inside a gate does changes no spread by a factor"
NOT_BY_NUMBERS = {
    **{
        f"excite_with_norm_{gate}{end}": GATE
        for gate in ("sigmoid", "hard_sigmoid")
        for end in ("", "_projected")
    },
    "norm_former": "a norm absorbs the attention's scale, but not its temperature",
    "sigmoid_network": "a sigmoid is bounded: the branch grows by less than what counts",
    "sandwich_norm": "a norm absorbs the attention's scale, but not its temperature",
}


@pytest.mark.one_in(20)
@pytest.mark.parametrize("name", [case.name for case in FLAT if case.name not in NOT_BY_NUMBERS])
def test_running_the_model_agrees(name):
    keras.utils.set_random_seed(3)
    model = BY_NAME[name].build()
    if any(kind(operation) == "NotEqual" for operation in model.operations):
        pytest.skip("this Keras writes implicit masks down as operations, which this referee lacks")
    assert applies(model)
    assert Referee(model).roles() == BY_NAME[name].expected
