"""What is decided on each γ, how an entry is read, and what differs: by hand, without a backend."""

import dataclasses
from types import SimpleNamespace

import pytest

from keras_gamma.decay import plan_diff
from keras_gamma.decay.deciding import decide, scales_of
from keras_gamma.decay.guidelines import Guidelines
from keras_gamma.decay.plan_entry import Decision, PlanEntry, read_entry
from keras_gamma.roles.classification import Role

LAST, INTERIOR, TRUNK, OTHER = Role.RESIDUAL_LAST, Role.INTERIOR, Role.TRUNK, Role.OTHER


def call(role, reason=""):
    return SimpleNamespace(role=role, reason=reason or f"It is {role}.")


def gamma(path, *roles, neutral=1.0, trainable=True, kind="batch"):
    """A γ whose layer is called once for each role; the first call names its role."""
    calls = [call(role) for role in roles]
    return SimpleNamespace(
        path=path,
        kind=kind,
        role=roles[0] if roles else None,
        reason=calls[0].reason if calls else "No γ here.",
        calls=calls,
        neutral=neutral,
        variable=SimpleNamespace(trainable=trainable),
    )


class Roles(list):
    def __init__(self, *gammas, notes=()):
        super().__init__(gammas)
        self.notes = list(notes)


def only(roles, guidelines=None, l2=0.5, **places):
    [entry] = decide(roles, guidelines or Guidelines(), l2, **places)
    return entry


@pytest.mark.parametrize(
    ("role", "decision", "strength"),
    [
        ("residual_last", "apply", 0.5),
        ("interior", "apply", 0.5),
        ("shortcut", "withhold", 0.0),
        ("trunk", "withhold", 0.0),
        ("other", "withhold", 0.0),
    ],
)
def test_each_role_gets_its_verdict(role, decision, strength):
    entry = only(Roles(gamma("a/gamma", Role(role))))
    assert entry == PlanEntry("a/gamma", "batch", role, decision, strength, f"It is {role}.", 1.0)


def test_factors_multiply_the_strength():
    entry = only(Roles(gamma("a", INTERIOR)), Guidelines(interior=0.25), 0.5)
    assert (entry.decision, entry.strength) == ("apply", 0.125)
    assert only(Roles(gamma("a", INTERIOR)), l2=0.0).decision == "withhold"


def test_order_and_places_are_kept():
    first, second, third = gamma("a", TRUNK), gamma("b", LAST), gamma("c", OTHER)
    places = {id(first.variable): "0:0", id(third.variable): "2.1:0"}
    entries = decide(Roles(first, second, third), Guidelines(), 1.0, places)
    assert [(e.path, e.place) for e in entries] == [("a", "0:0"), ("b", ""), ("c", "2.1:0")]


def test_the_strictest_call_of_a_shared_layer_decides_and_names_the_role():
    entry = only(Roles(gamma("a", LAST, TRUNK, INTERIOR)))
    assert (entry.role, entry.decision, entry.strength) == (TRUNK, "withhold", 0.0)
    assert entry.reason == "Its layer is called 3 times; strictest: It is trunk."
    weaker = only(Roles(gamma("a", LAST, INTERIOR)), Guidelines(interior=0.5), 1.0)
    assert (weaker.role, weaker.strength) == (INTERIOR, 0.5)
    assert only(Roles(gamma("a", LAST, INTERIOR))).reason == "It is residual_last."


def test_a_scale_stored_in_an_unknown_way_is_left_alone():
    entry = only(Roles(gamma("a", LAST, neutral=None)))
    assert (entry.decision, entry.strength, entry.neutral) == ("withhold", 0.0, None)
    assert entry.reason == (
        "It is residual_last. How its scale is stored is not known: register_normalization tells."
    )
    # Where it is withheld anyway, there is nothing to say.
    assert only(Roles(gamma("a", TRUNK, neutral=None))).reason == "It is trunk."


def test_gamma_minus_one_is_told():
    entry = only(Roles(gamma("a", LAST, neutral=0.0)))
    assert (entry.decision, entry.neutral) == ("apply", 0.0)
    assert entry.reason == (
        "It is residual_last. "
        "The layer multiplies by γ = 1 + variable; the penalty is on 1 + variable."
    )
    assert only(Roles(gamma("a", TRUNK, neutral=0.0))).reason == "It is trunk."


def test_frozen_is_decided_and_told():
    entry = only(Roles(gamma("a", LAST, trainable=False)))
    assert (entry.decision, entry.strength) == ("apply", 0.5)
    assert entry.reason == (
        "Frozen (trainable=False): no penalty until it is unfrozen. It is residual_last."
    )
    assert only(Roles(gamma("a", TRUNK, trainable=False))).reason == "It is trunk."


def test_notes_have_an_entry_without_a_decision():
    note = gamma("plain_bn", kind="batch", neutral=None)
    first, second = decide(Roles(gamma("a", LAST), notes=[note]), Guidelines(), 1.0)
    assert second == PlanEntry("plain_bn", "batch", None, Decision.NONE, 0.0, "No γ here.")
    assert first.decision is Decision.APPLY


def test_scales_join_only_where_the_guidelines_say_so():
    layer_scale = gamma("scale", LAST, kind="scale")
    without_role = gamma("odd", kind="scale")
    without_variable = gamma("gone", LAST, kind="scale")
    without_variable.variable = None
    roles = Roles(gamma("a", LAST), notes=[without_role, layer_scale, without_variable])
    assert scales_of(roles, Guidelines()) == []
    assert scales_of(roles, Guidelines(scales=0.5)) == [layer_scale]

    left = decide(roles, Guidelines(), 1.0)
    assert [e.decision for e in left] == ["apply", "none", "none", "none"]
    taken = decide(roles, Guidelines(scales=0.5), 1.0)
    assert [(e.path, e.decision, e.strength) for e in taken] == [
        ("a", "apply", 1.0),
        ("scale", "apply", 0.5),
        ("odd", "none", 0.0),
        ("gone", "none", 0.0),
    ]
    assert taken[1].reason == (
        "It is residual_last. Decay pulls it to 0, not to where it started: what it scales is "
        "weakened as a branch by γ."
    )
    assert taken[0].reason == "It is residual_last."
    spared = decide(Roles(notes=[gamma("s", TRUNK)]), Guidelines(scales=True), 1.0)
    assert (spared[0].decision, spared[0].reason) == ("withhold", "It is trunk.")


# Reading -----------------------------------------------------------------------------------------

GOOD = {
    "path": "a/gamma",
    "kind": "batch",
    "role": "interior",
    "decision": "apply",
    "strength": 0.5,
    "reason": "So.",
    "neutral": 1.0,
    "place": "0:0",
}


def test_an_entry_is_read_back():
    entry = PlanEntry("a/gamma", "batch", INTERIOR, Decision.APPLY, 0.5, "So.", 1.0, "0:0")
    read = read_entry(3, dict(GOOD), "plan")
    assert read == entry and dataclasses.asdict(entry) == GOOD
    assert type(read.role) is Role and type(read.decision) is Decision
    nothing = GOOD | {"role": None, "decision": "none", "strength": 0.0, "neutral": None}
    assert read_entry(0, nothing, "plan").role is None
    for neutral in (0, 0.0, 1):
        assert read_entry(0, GOOD | {"neutral": neutral}, "plan").neutral == neutral


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"role": "last"},
            "Malformed plan: entry 3 ('a/gamma'): 'last' is not a valid Role. Roles are: "
            "residual_last, shortcut, interior, trunk, other; decisions: apply, withhold, none.",
        ),
        ({"decision": "maybe"}, "entry 3 ('a/gamma'): 'maybe' is not a valid Decision. Roles are"),
        ({"role": None}, "Malformed plan: entry 3 ('a/gamma') is decided on without a role."),
        (
            {"role": None, "decision": "withhold", "strength": 0.0},
            "entry 3 ('a/gamma') is decided on without a role.",
        ),
        ({"strength": -1.0}, "`strength of a/gamma`"),
        ({"strength": "1"}, "`strength of a/gamma`"),
        (
            {"neutral": 0.5},
            "Malformed plan: entry 3 ('a/gamma') has an invalid neutral value: 0.5",
        ),
        (
            {"neutral": None},
            "Malformed plan: entry 3 ('a/gamma') applies a penalty to an unknown scale.",
        ),
        (
            {"strength": 0.0},
            "Malformed plan: entry 3 ('a/gamma') has decision apply but strength 0.0.",
        ),
        (
            {"decision": "withhold"},
            "Malformed plan: entry 3 ('a/gamma') has decision withhold but strength 0.5.",
        ),
        ({"path": 7}, "Malformed plan: entry 3 has no path: 7"),
        ({"extra": 1}, "Malformed plan: entry 3 must have the keys"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(change, message):
    with pytest.raises(ValueError) as error:
        read_entry(3, GOOD | change, "plan")
    assert message in str(error.value)


# Differences -------------------------------------------------------------------------------------


def entry(path="a", role=INTERIOR, decision=Decision.APPLY, strength=0.5, reason=""):
    return PlanEntry(path, "batch", role, decision, strength, reason)


def test_only_decisions_differ_not_words():
    assert plan_diff.differences([entry(reason="x")], [entry(reason="y")]) == []
    assert plan_diff.differences([entry(strength=0.5 * (1 + 1e-12))], [entry()]) == []
    assert plan_diff.differences([entry(strength=0.5 * (1 + 1e-6))], [entry()]) == [
        "a: l2 0.5 -> 0.5"
    ]


def test_differences_in_the_order_of_what_was_stored():
    here = [entry("new", TRUNK, Decision.WITHHOLD, 0.0), entry("b", TRUNK), entry("c")]
    there = [entry("c", strength=0.25), entry("b"), entry("old", None, Decision.NONE, 0.0)]
    assert plan_diff.differences(here, there) == [
        "c: l2 0.25 -> 0.5",
        "b: role interior -> trunk",
        "old: only in the stored plan (no γ, none, l2 0)",
        "new: only here (trunk, withhold, l2 0)",
    ]


def test_a_role_that_came_or_went():
    none = entry("a", None, Decision.NONE, 0.0)
    assert plan_diff.differences([none], [entry()]) == [
        "a: role interior -> none, decision apply -> none, l2 0.5 -> 0"
    ]
    assert plan_diff.differences([entry()], [none]) == [
        "a: role none -> interior, decision none -> apply, l2 0 -> 0.5"
    ]
