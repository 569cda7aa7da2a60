"""Telling variables apart by place: pure, on pairs written by hand, and on Keras' own renaming."""

import keras
import pytest
from keras import layers

import keras_gamma
from keras_gamma import GammaPlan, apply_guidelines, plan_weight_decay
from keras_gamma.decay import places
from tests.decay import storage_roads as roads


class At:
    def __init__(self, path, place):
        self.path, self.place = path, place


def found(wanted, present):
    pairs, problems = places.match([At(*w) for w in wanted], [At(*p) for p in present])
    return {path: at.place for path, at in pairs.items()}, problems


def test_the_same_paths_at_other_places():
    wanted, present = [("a/g", "1:0"), ("b/g", "2:0")], [("b/g", "0:0"), ("a/g", "1:0")]
    assert found(wanted, present) == ({"a/g": "1:0", "b/g": "0:0"}, [])


def test_a_sequential_lost_its_name_and_numbers_are_counted_anew():
    wanted = [("s/n_3/g", "1:0"), ("s/n_4/g", "2:0")]
    present = [("n/g", "1:0"), ("n_1/g", "2:0")]
    assert found(wanted, present) == ({"s/n_3/g": "1:0", "s/n_4/g": "2:0"}, [])


def test_paths_that_are_there_twice_go_by_place():
    wanted = [("n/g", "0.0:0"), ("n/g#2", "1.0:0")]
    present = [("n/g", "1.0:0"), ("n/g#2", "0.0:0")]
    assert found(wanted, present)[0] == {"n/g": "0.0:0", "n/g#2": "1.0:0"}


@pytest.mark.parametrize(
    ("wanted", "present", "problem"),
    [
        ([("bn/g", "0:0")], [("enc/bn/g", "1.0:0")], "missing in the model: bn/g"),
        ([("left/g", "0:0")], [("right/g", "0:0")], "right/g is where left/g was"),
        ([("a/g", "0:0")], [("a/g", "0:0"), ("b/g", "1:0")], "new in the model: b/g"),
        ([], [("b/g", "1:0")], "new in the model: b/g"),
        ([("b/g", "1:0")], [], "missing in the model: b/g"),
    ],
)
def test_what_does_not_fit_is_refused(wanted, present, problem):
    assert any(problem in said for said in found(wanted, present)[1])


@pytest.mark.parametrize(
    ("before", "after", "renamed"),
    [
        ("a/gamma", "a/gamma", True),
        ("s/a/gamma", "a/gamma", True),
        ("a/gamma", "s/a/gamma", True),
        ("block_1/norm_2/gamma", "block/norm_1/gamma", True),
        ("a/gamma#2", "a/gamma", True),
        ("aa/gamma", "a/gamma", False),
        ("a/gamma", "a/beta", False),
        ("s/a/gamma", "t/a/gamma", False),
        ("stage1_block2/gamma", "stage1_block3/gamma", False),
    ],
)
def test_names_that_keras_makes(before, after, renamed):
    assert places.is_renamed(before, after) is renamed


def variable(path):
    made = keras.Variable(keras.ops.zeros(()), name=path.rpartition("/")[2])
    made._path = path
    return made


@pytest.mark.parametrize(
    ("written", "present", "expected"),
    [
        (["a/k", "a/b"], ["a/b", "a/k"], ["a/b", "a/k"]),
        (["a/k", "a/k#2"], ["a/k", "a/k"], ["a/k", "a/k#2"]),
        (["s/a/k", "s/a/b", "s/c/k"], ["a/k", "c/k"], ["s/a/k", "s/c/k"]),
        (["a/k"], ["a/k", "b/k"], []),
        (["s/a/k", "s/b/k"], ["b/k", "a/k"], []),
    ],
)
def test_what_is_written_for_an_optimizers_variables(written, present, expected):
    found, missing = places.written_for(written, [variable(path) for path in present])
    assert found == expected
    assert bool(missing) is (expected == [])


# On models -----------------------------------------------------------------------------------


def twins():
    """Two blocks that give their layers the same names: their variables have the same paths."""
    x = y = keras.Input((4,))
    for i in range(2):
        z = keras.Input((4,))
        branch = layers.Dense(4, name="fc")(layers.LayerNormalization(name="ln")(z))
        block = keras.Model(z, layers.Add()([z, branch]), name=f"block_{'ab'[i]}")
        y = block(y)
    return keras.Model(x, layers.Dense(2, name="out")(y))


def test_layers_of_the_same_name_are_ordinary(tmp_path):
    model = twins()
    paths = [v.path for v in model.trainable_variables]
    assert len(set(paths)) < len(paths)
    plan = apply_guidelines(model, l2=0.25)
    assert len(model.losses) == 2
    plan.remove()
    GammaPlan.from_json(plan.to_json()).apply(twins())
    decay = plan_weight_decay(model, guidelines="residual_last=0.5", names="^out/")
    assert {e.path: e.factor for e in decay if e.factor} == {
        "ln/gamma": 0.5, "ln/gamma#2": 0.5, "fc/kernel": 1.0, "fc/kernel#2": 1.0,
    }  # fmt: skip
    optimizer = keras_gamma.optimizers.AdamW(weight_decay=0.5, decay=decay)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    model.save(tmp_path / "m.keras")
    assert keras_gamma.load_model(tmp_path / "m.keras").optimizer.decay == decay.factors()


def test_an_exclude_list_for_layers_of_the_same_name(tmp_path):
    model = twins()
    optimizer = keras.optimizers.AdamW(0.5, weight_decay=0.5)
    plan = keras_gamma.exclude_from_weight_decay(optimizer, model)
    assert sum(e.decayed for e in plan) == 5  # Two γ and three kernels.
    stored = keras_gamma.DecayPlan.from_json(plan.to_json())
    again = keras.optimizers.AdamW(0.5, weight_decay=0.5)
    assert stored.apply(again, twins()) == plan


def test_decisions_that_cannot_be_told_apart_are_an_error():
    model = twins()
    factors = {"ln/gamma": 1.0, "ln/gamma#2": 0.0, "fc/kernel": 1.0, "fc/kernel#2": 1.0,
               "ln/beta": 0.0, "ln/beta#2": 0.0, "fc/bias": 0.0, "fc/bias#2": 0.0,
               "out/kernel": 1.0, "out/bias": 0.0}  # fmt: skip
    optimizer = keras_gamma.optimizers.AdamW(weight_decay=0.5, decay=factors)
    model.get_layer("block_a").trainable = False
    with pytest.raises(ValueError, match="2 variables of the path ln/gamma"):
        optimizer.build(model.trainable_variables)


def test_a_plan_of_another_model_is_not_taken_by_the_end_of_a_path():
    x = keras.Input((4,))
    one = keras.Model(x, layers.LayerNormalization(name="ln")(x))
    plan = apply_guidelines(one, l2=0.25, guidelines="all")
    inner = keras.Sequential([keras.Input((4,)), layers.LayerNormalization(name="ln")], name="enc")
    other = keras.Model(x, layers.Dense(2)(inner(layers.Dense(4)(x))))
    with pytest.raises(ValueError, match="does not fit"):
        plan.apply(other)
    assert other.losses == []


def test_places_survive_saving_where_names_do_not(tmp_path):
    model = keras.Sequential([layers.Dense(4), layers.LayerNormalization()], name="s")
    model.build((None, 4))
    before = [at.place for at in places.locate(model)]
    model.save(tmp_path / "m.keras")
    loaded = keras_gamma.load_model(tmp_path / "m.keras")
    assert [at.place for at in places.locate(loaded)] == before
    paths = [{at.path for at in places.locate(one)} for one in (loaded, model)]
    assert paths[0] != paths[1] or roads.steady_paths()
