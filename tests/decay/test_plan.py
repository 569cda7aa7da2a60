"""`Guidelines`, `GammaPlan` and `apply_guidelines`: what is set, stored, and taken back."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma import GammaPlan, Guidelines, Role, apply_guidelines
from keras_gamma.decay import Decision
from keras_gamma.decay.penalties import UnitOffsetL2
from tests.decay import storage_roads as roads

L2 = keras.regularizers.L2


def block(trainable=True):
    """stem (trunk) -> [conv, inner (interior), conv, last (residual_last)] + skip -> head."""
    x = keras.Input((4, 4, 3))
    y = layers.Conv2D(3, 1, name="stem_conv")(x)
    y = fork = layers.BatchNormalization(name="stem", trainable=trainable)(y)
    y = layers.Conv2D(3, 1)(y)
    y = layers.ReLU()(layers.BatchNormalization(name="inner")(y))
    y = layers.Conv2D(3, 1)(y)
    y = layers.BatchNormalization(name="last")(y)
    y = layers.Add(name="join")([fork, y])
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(2)(y), name="block")


def data(n=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4, 4, 3)).astype("float32"), rng.integers(0, 2, n)


def strengths(model):
    """What the layers really hold: name -> l2, or None."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            regularizer = layer.gamma.regularizer
            assert (regularizer is None) == (layer.gamma_regularizer is None)
            found[layer.name] = None if regularizer is None else regularizer.l2
    return found


def penalties(model):
    return [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses]


NOTHING = {"stem": None, "inner": None, "last": None}


def test_paper_guidelines_on_a_block():
    model = block()
    plan = apply_guidelines(model, l2=0.25)
    assert strengths(model) == {"stem": None, "inner": 0.25, "last": 0.25}
    assert [(e.path, str(e.role), str(e.decision), e.strength) for e in plan] == [
        ("stem/gamma", "trunk", "withhold", 0.0),
        ("inner/gamma", "interior", "apply", 0.25),
        ("last/gamma", "residual_last", "apply", 0.25),
    ]
    # Two penalties of 0.25 times three ones.
    assert penalties(model) == [0.75, 0.75]


def test_weight_decay_is_half():
    model = block()
    apply_guidelines(model, weight_decay=0.5)
    assert strengths(model) == {"stem": None, "inner": 0.25, "last": 0.25}


def test_gradient_of_weight_decay_is_weight_decay_times_gamma():
    """One step of SGD on the penalty alone: γ ← γ − η · wd · γ, as in torch."""
    model = keras.Sequential([keras.Input((3,)), layers.LayerNormalization(name="ln")])
    model.layers[0].gamma.assign([1.0, 2.0, -4.0])
    apply_guidelines(model, weight_decay=0.5, guidelines="all")
    model.compile(keras.optimizers.SGD(0.125), lambda y, p: 0.0 * keras.ops.sum(p))
    model.fit(np.ones((1, 3)), np.ones((1, 3)), verbose=0)
    np.testing.assert_allclose(
        model.layers[0].gamma.numpy(), np.array([1.0, 2.0, -4.0]) * (1 - 0.125 * 0.5), rtol=1e-6
    )


def test_factors_multiply_the_strength():
    model = block()
    apply_guidelines(model, l2=0.5, guidelines="residual_last=0.5,trunk=2")
    assert strengths(model) == {"stem": 1.0, "inner": None, "last": 0.25}


def test_applying_twice_equals_once_and_others_replace():
    model = block()
    first = apply_guidelines(model, l2=0.5)
    kept = model.get_layer("last").gamma.regularizer
    again = apply_guidelines(model, l2=0.5)
    assert first == again
    assert model.get_layer("last").gamma.regularizer is kept
    apply_guidelines(model, l2=0.25, guidelines="trunk=1")
    assert strengths(model) == {"stem": 0.25, "inner": None, "last": None}
    first.remove()  # What it set is gone already: nothing to take back.
    assert strengths(model) == {"stem": 0.25, "inner": None, "last": None}


def test_remove_takes_back_after_replacement():
    model = block()
    apply_guidelines(model, l2=0.5)
    plan = apply_guidelines(model, l2=0.25)
    plan.remove()
    assert strengths(model) == NOTHING
    with pytest.raises(ValueError, match="nothing to take back"):
        plan.remove()


def test_a_regularizer_of_the_user_is_never_replaced():
    model = block()
    own = L2(0.125)
    model.get_layer("stem").gamma_regularizer = own
    model.get_layer("stem").gamma.regularizer = own
    with pytest.raises(ValueError, match="'stem'"):
        apply_guidelines(model, l2=0.5)
    assert strengths(model) == {"stem": 0.125, "inner": None, "last": None}
    plan = apply_guidelines(model, l2=0.5, overwrite=True)
    assert strengths(model) == {"stem": None, "inner": 0.5, "last": 0.5}
    plan.remove()
    assert strengths(model) == {"stem": 0.125, "inner": None, "last": None}
    assert model.get_layer("stem").gamma.regularizer is own


def test_an_equal_regularizer_of_the_user_stays_when_the_plan_goes():
    model = block()
    model.get_layer("last").gamma_regularizer = model.get_layer("last").gamma.regularizer = L2(0.5)
    plan = apply_guidelines(model, l2=0.5)
    plan.remove()
    assert strengths(model) == {"stem": None, "inner": None, "last": 0.5}


def test_takes_effect_on_a_model_that_was_fitted():
    model = block()
    x, y = data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    before = model.fit(x, y, verbose=0).history["loss"][0]
    plan = apply_guidelines(model, l2=100.0)
    after = model.fit(x, y, verbose=0).history["loss"][0]
    # Twice 100 · Σγ² over three ones (SGD with learning rate 0 moves nothing).
    assert after - before == pytest.approx(600.0, rel=1e-3)
    assert model.evaluate(x, y, verbose=0) > 600.0
    plan.remove()
    assert model.fit(x, y, verbose=0).history["loss"][0] == pytest.approx(before, abs=1e-3)


def test_a_failure_in_the_middle_changes_nothing(monkeypatch):
    model = block()
    apply_guidelines(model, l2=0.5)
    from keras_gamma.decay import penalties

    put, calls = penalties.Slot.put, []

    def failing_put(self, *args):
        calls.append(self)
        if len(calls) == 2:
            raise RuntimeError("disk on fire")
        put(self, *args)

    monkeypatch.setattr(penalties.Slot, "put", failing_put)
    with pytest.raises(RuntimeError, match="disk on fire"):
        apply_guidelines(model, l2=0.25)
    assert strengths(model) == {"stem": None, "inner": 0.5, "last": 0.5}


def test_frozen_gamma():
    """Keras leaves its penalty out for as long as it is frozen; unfreezing brings it back."""
    model = block(trainable=False)
    plan = apply_guidelines(model, l2=0.5, guidelines="all")
    assert strengths(model) == {"stem": 0.5, "inner": 0.5, "last": 0.5}
    assert plan[0].decision is Decision.APPLY
    assert plan[0].reason.startswith("Frozen")
    assert len(model.losses) == 2
    model.get_layer("stem").trainable = True
    assert len(model.losses) == 3


def test_no_scale_gets_an_entry():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4), layers.BatchNormalization(scale=False, name="bn")],
        name="m",
    )
    plan = apply_guidelines(model, l2=0.5, guidelines="all")
    assert [(e.path, e.role, str(e.decision)) for e in plan] == [("m/bn", None, "none")]
    assert "no scale" in plan[0].reason
    assert model.losses == []


def test_no_normalization_at_all():
    plan = apply_guidelines(keras.Sequential([keras.Input((4,)), layers.Dense(4)]), l2=0.5)
    assert len(plan) == 0
    assert "No normalization layer" in str(plan)


def test_shared_layer_is_regularized_only_if_every_call_allows_it():
    """One norm, called in front of a branch (residual_last) and as the final norm (trunk)."""
    x = keras.Input((4,))
    shared = layers.LayerNormalization(name="ln")
    y = layers.Add()([x, layers.Dense(4)(layers.ReLU()(shared(x)))])
    model = keras.Model(x, shared(y))
    assert apply_guidelines(model, l2=0.5)[0].strength == 0.0
    assert apply_guidelines(model, l2=0.5, guidelines="residual_last=1,trunk=0.5")[0].strength == (
        0.25
    )


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = block()
    finally:
        keras.config.set_dtype_policy("float32")
    apply_guidelines(model, l2=0.25)
    assert penalties(model) == [0.75, 0.75]
    x, y = data()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert model.fit(x, y, verbose=0).history["loss"][0] > 1.5


@keras.saving.register_keras_serializable(package="test_plan")
class OneplusNorm(layers.Layer):
    """RMS norm that multiplies by 1 + scale."""

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="zeros", name="scale")

    def call(self, x):
        mean_square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
        return x * keras.ops.rsqrt(mean_square + self.epsilon) * (1.0 + self.scale)


def test_one_plus_scale_is_penalized_as_gamma():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), OneplusNorm(name="norm")])
    plan = apply_guidelines(model, l2=0.25, guidelines="all")
    assert plan[0].neutral == 0.0
    assert "1 + variable" in plan[0].reason
    # γ = 1 + 0 for four channels; plain L2 on the stored zeros would be 0.
    assert penalties(model) == [1.0]
    assert isinstance(model.layers[1].scale.regularizer, UnitOffsetL2)


def test_a_scale_of_unknown_storage_gets_no_penalty():
    """In a closed part, nobody can say whether a foreign norm multiplies by γ or by 1 + γ."""

    class Closed(layers.Layer):
        def build(self, shape):
            self.norm = OneplusNorm(name="norm")
            self.norm.build(shape)
            self.bn = layers.BatchNormalization(name="bn")
            self.bn.build(shape)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            raise TypeError("not to be called")

    x = keras.Input((4,))
    model = keras.Model(x, Closed(name="closed")(x))
    plan = apply_guidelines(model, l2=0.25, guidelines="all")
    assert {e.path: (str(e.role), e.strength) for e in plan} == {
        "closed/norm/scale": ("other", 0.0),
        "closed/bn/gamma": ("other", 0.25),
    }
    assert GammaPlan.from_json(plan.to_json()) == plan


def test_rms_normalization_without_a_regularizer_argument():
    model = keras.Sequential([keras.Input((4,)), layers.RMSNormalization(name="rms")])
    plan = apply_guidelines(model, l2=0.25, guidelines="all")
    assert penalties(model) == [1.0]
    plan.remove()
    assert model.losses == []


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_model():
    x = keras.Input((8,))
    y = layers.Dense(8, name="dense")(layers.LayerNormalization(name="ln")(x))
    model = keras.Model(x, layers.Add()([x, layers.ReLU()(y)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # From Keras 3.16 on it names the layers that stay.
        model.quantize("int8")
    plan = apply_guidelines(model, l2=0.5)
    assert [(e.path, str(e.role)) for e in plan] == [("ln/gamma", "residual_last")]


# Storing ------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    plan = apply_guidelines(block(), weight_decay=1e-4, guidelines="residual_last=0.3,trunk=1")
    assert GammaPlan.from_json(plan.to_json()) == plan
    plan.save(tmp_path / "plan.json")
    assert GammaPlan.load(tmp_path / "plan.json") == plan


def test_plan_goes_onto_a_rebuilt_model():
    plan = apply_guidelines(block(), l2=0.25)
    rebuilt = block()
    GammaPlan.from_json(plan.to_json()).apply(rebuilt)
    assert strengths(rebuilt) == {"stem": None, "inner": 0.25, "last": 0.25}


def test_plan_goes_onto_a_reloaded_model_and_off_again(tmp_path):
    model = block()
    plan = apply_guidelines(model, l2=0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert strengths(loaded) == {"stem": None, "inner": 0.25, "last": 0.25}
    stored = GammaPlan.from_json(plan.to_json()).apply(loaded)
    assert strengths(loaded) == {"stem": None, "inner": 0.25, "last": 0.25}
    stored.remove()
    assert strengths(loaded) == NOTHING


def test_clone_keeps_the_regularizers_and_the_plan_agrees():
    model = block()
    plan = apply_guidelines(model, l2=0.25)
    clone = keras.models.clone_model(model)
    assert strengths(clone) == {"stem": None, "inner": 0.25, "last": 0.25}
    assert apply_guidelines(clone, l2=0.25) == plan


def test_a_reloaded_sequential_has_other_paths(tmp_path):
    """Keras drops a Sequential's name from its paths on reload; the plan finds its way.

    From Keras 3.16 on it keeps the name.
    """
    model = keras.Sequential([layers.Dense(4), layers.LayerNormalization(name="ln")], name="s")
    model.build((None, 4))
    plan = apply_guidelines(model, l2=0.25, guidelines="all")
    model.save(tmp_path / "s.keras")
    loaded = keras.models.load_model(tmp_path / "s.keras")
    assert loaded.layers[1].gamma.path != plan[0].path or roads.steady_paths()
    plan.apply(loaded).remove()
    assert loaded.losses == []


def test_a_plan_of_another_model():
    plan = apply_guidelines(block(), l2=0.25)
    x = keras.Input((4,))
    other = keras.Model(x, layers.LayerNormalization(name="ln")(x))
    with pytest.raises(ValueError, match=r"missing.*stem/gamma.*new in the model: ln/gamma"):
        plan.apply(other)
    assert other.losses == []


@pytest.fixture(scope="module")
def stored():
    return apply_guidelines(block(), l2=0.25).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="x"), "Not a keras_gamma plan"),
        (lambda c: c.update(version=99), "format version 99"),
        (lambda c: c.update(version="9" * 10_000), "format version"),
        (lambda c: c["entries"][0].update(role="stem"), "stem/gamma.*Roles are"),
        (lambda c: c["entries"][0].update(strength=-1.0), "strength of stem/gamma"),
        (lambda c: c["entries"][1].update(strength=float("nan")), "strength of inner/gamma"),
        (lambda c: c["entries"][1].update(strength=0.0), "decision apply"),
        (lambda c: c["entries"][0].pop("kind"), "entry 0"),
        (lambda c: c["entries"].append(dict(c["entries"][0])), "Twice: stem/gamma"),
        (lambda c: c["entries"].__setitem__(0, 7), "entry 0 is not an object"),
        (lambda c: c.pop("entries"), "Malformed"),
        (lambda c: c.update(guidelines={"stem": 1}), "Unknown role 'stem'"),
        (lambda c: c.update(guidelines=[1]), "Malformed"),
        (lambda c: c.update(l2="much"), "l2"),
    ],
)
def test_malformed_plans(stored, change, message):
    content = json.loads(stored)
    change(content)
    with pytest.raises(ValueError, match=message):
        GammaPlan.from_json(json.dumps(content))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", "7", None, b"\x00", b"\xff", "[" * 100_000]
)
def test_what_is_no_plan_at_all(text):
    with pytest.raises(ValueError, match="Not a keras_gamma plan"):
        GammaPlan.from_json(text)


def test_loading_a_file_that_is_no_plan(tmp_path):
    (tmp_path / "p.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        GammaPlan.load(tmp_path / "p.json")
    with pytest.raises(OSError, match="absent"):
        GammaPlan.load(tmp_path / "absent.json")


def test_table():
    plan = apply_guidelines(block(), weight_decay=0.5)
    for text in (str(plan), plan.table()):
        for word in ("stem/gamma", "residual_last", "withhold", "0.25", "'join'"):
            assert word in text
    assert plan.summary() == (
        "3 γ: apply 2, withhold 1 (residual_last 1, interior 1, trunk 1). l2 = 0.25 (penalty "
        "l2·Σγ²; weight_decay = 0.5 in torch's units). Guidelines: "
        "residual_last=1,shortcut=0,interior=1,trunk=0,other=0"
    )


# Guidelines ---------------------------------------------------------------------------------


def test_presets():
    def factors(g):
        return [g.factor(role) for role in Role]

    assert list(Role) == ["residual_last", "shortcut", "interior", "trunk", "other"]
    assert factors(Guidelines()) == factors(Guidelines.paper()) == [1, 0, 1, 0, 0]
    assert factors(Guidelines.none()) == [0, 0, 0, 0, 0]
    assert factors(Guidelines.all()) == [1, 1, 1, 1, 1]
    assert factors(Guidelines.parse("interior=0.5, trunk=true")) == [0, 0, 0.5, 1, 0]


@pytest.mark.parametrize("text", ["paper", "none", "all", "interior=0.5,other=2"])
def test_guidelines_print_as_they_parse(text):
    guidelines = Guidelines.parse(text)
    again = Guidelines.parse(str(guidelines))
    assert [again.factor(r) for r in Role] == [guidelines.factor(r) for r in Role]


@pytest.mark.parametrize(
    "text",
    ["", "papers", "stem=1", "trunk", "trunk=", "trunk=much", "trunk=-1", "trunk=nan", "trunk=inf",
     "trunk=1,trunk=2", "trunk=1,,interior=1", None, 3],
)  # fmt: skip
def test_guidelines_that_make_no_sense(text):
    with pytest.raises(ValueError, match="Guidelines"):
        Guidelines.parse(text)


@pytest.mark.parametrize("factor", [-1, float("nan"), float("inf"), "1", None, [1], 1j])
def test_factors_that_make_no_sense(factor):
    with pytest.raises(ValueError, match="`trunk` must be"):
        Guidelines(trunk=factor)


def test_numpy_factors():
    guidelines = Guidelines(trunk=np.float32(0.5), interior=np.int64(2))
    assert (guidelines.factor("trunk"), guidelines.factor("interior")) == (0.5, 2.0)
    plan = apply_guidelines(block(), l2=0.25, guidelines=guidelines)
    assert GammaPlan.from_json(plan.to_json()) == plan


def test_unknown_role():
    with pytest.raises(ValueError, match=r"Unknown role 'stem'. Roles are: residual_last"):
        Guidelines(stem=True)
    with pytest.raises(ValueError, match=r"Unknown role 'stem'. Roles are: residual_last"):
        Guidelines().factor("stem")


# Bad input ----------------------------------------------------------------------------------

NONSENSE = [-1.0, float("nan"), float("inf"), "1e-4", True, None, [1.0], 10**400]


@pytest.mark.parametrize("argument", ["l2", "weight_decay"])
@pytest.mark.parametrize("value", NONSENSE, ids=str)
def test_strengths_that_make_no_sense(argument, value):
    model = block()
    with pytest.raises(ValueError, match=argument):
        apply_guidelines(model, **{argument: value})
    assert strengths(model) == NOTHING


def test_both_or_neither_strength():
    with pytest.raises(ValueError, match=r"exactly one.*neither"):
        apply_guidelines(block())
    with pytest.raises(ValueError, match=r"exactly one.*both"):
        apply_guidelines(block(), l2=0.5, weight_decay=1.0)


@pytest.mark.parametrize("model", [None, "model.keras", 7, layers.Dense(2), keras.Sequential])
def test_not_a_model(model):
    for call in (keras_gamma.find_roles, lambda m: apply_guidelines(m, l2=0.5)):
        with pytest.raises(TypeError, match="Expected a Keras 3 model"):
            call(model)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.norm = layers.Dense(3), layers.LayerNormalization(name="ln")

    def call(self, x):
        return x + keras.ops.relu(self.dense(self.norm(x)))


def test_unbuilt_model_without_inputs():
    with pytest.raises(ValueError, match="Pass `inputs`"):
        keras_gamma.find_roles(Subclassed())
    with pytest.raises(ValueError, match="Pass `inputs`"):
        keras_gamma.find_roles(keras.Sequential([layers.Dense(3)]))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "inputs",
    [
        (None, 3),
        [None, 3],
        keras.KerasTensor((5, 3)),
        np.zeros((5, 3)),
        keras.InputSpec(shape=(5, 3)),
    ],
    ids=["shape", "list", "KerasTensor", "array", "InputSpec"],
)
def test_kinds_of_inputs(inputs):
    model = Subclassed()
    assert [str(e.role) for e in keras_gamma.find_roles(model, inputs)] == ["residual_last"]
    apply_guidelines(model, l2=0.5, inputs=inputs)
    assert penalties(model) == [1.5]


@pytest.mark.parametrize("inputs", ["(None, 3)", (), 3.5, [3, "x"], {"x": "y"}, object()])
def test_inputs_that_make_no_sense(inputs):
    with pytest.raises(ValueError, match="`inputs` takes a shape"):
        keras_gamma.find_roles(Subclassed(), inputs)


def test_inputs_of_the_wrong_rank():
    with pytest.raises(ValueError, match=r"takes shape \(None, 4, 4, 3\).*Received.*\(None, 7\)"):
        keras_gamma.find_roles(block(), inputs=(None, 7))
    model = Subclassed()
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="could not be called on inputs"):
        keras_gamma.find_roles(model, inputs=(None, 7))


def test_unknown_guidelines():
    with pytest.raises(ValueError, match=r"`guidelines` must be"):
        apply_guidelines(block(), l2=0.5, guidelines=3)


@pytest.mark.parametrize(
    ("cls", "kwargs", "error"),
    [
        (layers.Dense(2), {"kind": "x"}, TypeError),
        (int, {"kind": "x"}, TypeError),
        (OneplusNorm, {"kind": ""}, ValueError),
        (OneplusNorm, {"kind": "x", "neutral": 0.5}, ValueError),
        (OneplusNorm, {"kind": "x", "scale": 3}, ValueError),
    ],
)
def test_register_normalization_refuses(cls, kwargs, error):
    with pytest.raises(error):
        keras_gamma.register_normalization(cls, **kwargs)
