"""`Guidelines` as a value: defaults, presets, reading and writing, refusals. No backend."""

import itertools
from fractions import Fraction

import pytest

from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.roles.classification import Role, Verdict

ROLES = ("residual_last", "shortcut", "interior", "trunk", "other")


def factors(guidelines):
    return [guidelines.factor(role) for role in ROLES]


def test_presets():
    assert factors(Guidelines()) == factors(Guidelines.paper()) == [1, 0, 1, 0, 0]
    assert factors(Guidelines.none()) == [0] * 5
    assert factors(Guidelines.all()) == [1] * 5
    assert Guidelines.none() == Guidelines(False, False, False, False, False)
    assert {type(Guidelines.none().trunk), type(Guidelines.all().trunk)} == {bool}
    for name, expected in (("paper", [1, 0, 1, 0, 0]), ("none", [0] * 5), (" all ", [1] * 5)):
        assert factors(Guidelines.parse(name)) == expected


@pytest.mark.parametrize("role", ROLES)
def test_one_role_alone(role):
    expected = [0.25 if name == role else 0.0 for name in ROLES]
    assert factors(Guidelines.parse(f"{role}=0.25")) == expected
    given = dict.fromkeys(ROLES, 0) | {role: 0.25}
    assert factors(Guidelines(**given)) == expected
    assert Guidelines(**given).factor(Role(role)) == 0.25


def test_words_spaces_and_case():
    read = Guidelines.parse(" residual_last = True , trunk=FALSE,other= 2 ")
    assert factors(read) == [1, 0, 0, 0, 2]
    assert isinstance(read.trunk, float)


@pytest.mark.parametrize("values", itertools.product([0, 0.5, 2], repeat=3))
def test_what_is_written_is_read_back(values):
    given = Guidelines(*values, trunk=1e-3)
    assert Guidelines.parse(str(given)) == given
    assert str(given).count(",") == 4


def test_numbers_of_other_kinds_become_floats():
    given = Guidelines(interior=Fraction(1, 4))
    assert given.interior == 0.25 and type(given.interior) is float
    assert type(Guidelines(interior=1).interior) is int
    assert Guidelines(interior=True).interior is True


@pytest.mark.parametrize("wrong", [-1, -1e-9, float("nan"), float("inf"), 1e39, "1", None, [1]])
def test_wrong_factors(wrong):
    with pytest.raises(ValueError) as error:
        Guidelines(interior=wrong)
    assert str(error.value) == (
        f"Guidelines: `interior` must be True, False or a finite factor ≥ 0 (of 32 bits). "
        f"Received: {wrong!r}"
    )


def test_unknown_roles():
    roles = "residual_last, shortcut, interior, trunk, other"
    with pytest.raises(ValueError) as error:
        Guidelines(gamma_last=1, interior=1)
    assert str(error.value) == f"Unknown role 'gamma_last'. Roles are: {roles}."
    with pytest.raises(ValueError) as error:
        Guidelines().factor("gamma_last")
    assert str(error.value) == f"Unknown role 'gamma_last'. Roles are: {roles}."


@pytest.mark.parametrize(
    "text, problem",
    [
        ("interior", "'interior'"),
        ("papers", "'papers'"),
        ("interior=1,,", "''"),
        ("stem=1", "'stem=1'"),
        ("interior=1, interior=2", "'interior' twice"),
    ],
)
def test_wrong_texts(text, problem):
    with pytest.raises(ValueError) as error:
        Guidelines.parse(text)
    assert str(error.value) == (
        "Guidelines must be one of paper, none, all, or role=factor pairs such as "
        "'residual_last=1,interior=0.5' with each of the roles residual_last, shortcut, interior, "
        f"trunk, other (or scales) at most once. Received: {text!r} ({problem})"
    )


def test_wrong_numbers_in_texts():
    with pytest.raises(ValueError) as error:
        Guidelines.parse("interior=much")
    assert str(error.value) == (
        "Guidelines: the factor of 'interior' must be a number ≥ 0. Received: 'much'"
    )
    with pytest.raises(ValueError, match=r"^Guidelines are written as a string\. Received: 1$"):
        Guidelines.parse(1)
    with pytest.raises(ValueError, match="`interior` must be True"):
        Guidelines.parse("interior=-1")


def test_whatever_may_be_given():
    given = Guidelines(interior=0.5)
    assert Guidelines.get(None) == Guidelines()
    assert Guidelines.get(given) is given
    assert Guidelines.get("interior=0.5").interior == 0.5
    with pytest.raises(ValueError) as error:
        Guidelines.get(0.5)
    assert str(error.value) == (
        "`guidelines` must be a keras_gamma.Guidelines, a string such as 'paper' or "
        "'residual_last=1,interior=0.5', or None. Received: 0.5"
    )


def test_the_strictest_call_decides():
    guidelines = Guidelines(residual_last=1, interior=0.5, trunk=0.5)
    last, inner, trunk = (Verdict(Role(r), r) for r in ("residual_last", "interior", "trunk"))
    assert guidelines.strictest([last]) == (1.0, last)
    for calls in itertools.permutations([last, inner]):
        assert guidelines.strictest(calls) == (0.5, inner)
    assert guidelines.strictest([last, trunk])[0] == 0.5
