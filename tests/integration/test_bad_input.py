"""Input that nobody would choose: each is an error that says what is wrong, and nothing changes."""

import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.dynamics.monitor import GammaMonitor


def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,), name="x")
    y = layers.LayerNormalization(name="ln")(x)
    y = layers.Add(name="join")([x, layers.Dense(4, name="dense")(y)])
    return keras.Model(x, layers.BatchNormalization(name="last")(y), name="m")


def state(m):
    """Everything that a failing call might have changed."""
    config = json.dumps(m.get_config(), sort_keys=True, default=str)
    regularizers = [(v.path, repr(v.regularizer), v.trainable) for v in m.variables]
    return config, regularizers, [np.array(w) for w in m.get_weights()], len(m.losses)


def same(a, b):
    return a[:2] == b[:2] and a[3] == b[3] and all(map(np.array_equal, a[2], b[2]))


def name_of(value):
    """The name of a case: the same in every process, so no addresses."""
    return (
        repr(value)[:24]
        if isinstance(value, (str, bytes, int, float, tuple))
        else (type(value).__name__)
    )


NOT_STRENGTHS = [
    math.nan, math.inf, -math.inf, -1e-9, -1, "0.1", "", None, True, [], [0.1], {}, 1 + 1j,
    object(), b"1", np.array([0.1, 0.2]), lambda: 0.1,
]  # fmt: skip


@pytest.mark.parametrize("name", ["l2", "weight_decay"])
@pytest.mark.parametrize("value", NOT_STRENGTHS, ids=name_of)
def test_strengths(name, value):
    m = model()
    before = state(m)
    with pytest.raises((ValueError, TypeError)) as error:
        keras_gamma.apply_guidelines(m, **{name: value})
    assert len(str(error.value)) > 20 and same(state(m), before)


NOT_MODELS = [None, 0, "model.keras", [], {}, object(), layers.Dense(3), keras.Model,
              keras.Input((3,)), np.ones(3), lambda x: x]  # fmt: skip


@pytest.mark.parametrize("value", NOT_MODELS, ids=name_of)
@pytest.mark.parametrize(
    "function",
    [
        keras_gamma.find_roles,
        keras_gamma.verify,
        keras_gamma.audit,
        keras_gamma.dynamics.find_scale_invariant,
        keras_gamma.dynamics.project_scale_invariant,
        keras_gamma.plan_weight_decay,
        lambda m: keras_gamma.plot_roles(m, "never_written.svg"),
        lambda m: keras_gamma.dynamics.branch_ratios(m, np.ones((2, 3))),
        lambda m: keras_gamma.apply_guidelines(m, l2=0.1),
        lambda m: keras_gamma.exclude_from_weight_decay(keras.optimizers.AdamW(), m),
    ],
)
def test_models(function, value):
    with pytest.raises((TypeError, ValueError), match=r"model|Model|array|KerasTensor"):
        function(value)


NOT_GUIDELINES = [
    "papr", "", "residual_last", "residual_last=", "=1", "residual_last=1,residual_last=2",
    "trunk=nan", "trunk=-1", "trunk=inf", "trunk=1;interior=1", "branch=1", "None", 3, 1.0, ["all"],
    {"branch": 1}, {"trunk": "x"}, {"trunk": -1}, {"trunk": math.nan}, object(),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_GUIDELINES, ids=name_of)
def test_guidelines(value):
    m = model()
    before = state(m)
    with pytest.raises((ValueError, TypeError)):
        keras_gamma.apply_guidelines(m, l2=0.1, guidelines=value)
    assert same(state(m), before)


NOT_INPUTS = [
    "x", 3, 1.5, True, (), [], (None,), (None, 5), (None, 4, 4, 4), (None, "4"), (None, -4),
    {"x": "y"}, object(), np.ones((2, 5)), [(None, 4), (None, 4)],
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_INPUTS, ids=name_of)
def test_inputs(value):
    m = model()
    before = state(m)
    with pytest.raises((ValueError, TypeError)):
        keras_gamma.find_roles(m, value)
    assert same(state(m), before)


# Stored plans ---------------------------------------------------------------------------------


@functools.cache
def damaged_plans():
    """Name -> text, of plans that are broken in one way each."""
    return dict(damage())


def damage():
    good = keras_gamma.apply_guidelines(model(), l2=0.1).to_json()
    content = json.loads(good)

    def change(**new):
        return json.dumps({**content, **new})

    def entry(**new):
        first = {**content["entries"][0], **new}
        return change(entries=[first, *content["entries"][1:]])

    def without(key):
        return json.dumps({k: v for k, v in content.items() if k != key})

    yield from ((f"cut at {n}", good[:n]) for n in (0, 1, 10, len(good) // 2, len(good) - 3))
    yield from {
        "nothing": "null", "number": "3", "list": "[]", "text": '"plan"', "empty": "{}",
        "no json": "not json", "binary": "\x00\x01",
        "other format": change(format="something"), "no format": without("format"),
        "no entries": without("entries"), "entries a dict": change(entries={}),
        "entries of numbers": change(entries=[1, 2]), "entries null": change(entries=None),
        "no role": entry(role=None), "unknown role": entry(role="branch"),
        "unknown decision": entry(decision="maybe"), "path a number": entry(path=3),
        "no path": entry(path=None), "strength nan": entry(strength=math.nan),
        "strength negative": entry(strength=-1), "strength text": entry(strength="much"),
        "l2 infinite": change(l2=math.inf), "l2 text": change(l2="x"),
        "guidelines unknown": change(guidelines="papr"),
    }.items()  # fmt: skip


@pytest.mark.parametrize("name", damaged_plans())
def test_stored_plans(tmp_path, name):
    text = damaged_plans()[name]
    path = tmp_path / "plan.json"
    path.write_text(text)
    m = model()
    before = state(m)
    with pytest.raises((ValueError, TypeError)) as error:
        keras_gamma.GammaPlan.load(path).apply(m)
    assert len(str(error.value)) > 15, name
    assert same(state(m), before)


def test_a_plan_of_another_model_changes_nothing():
    x = keras.Input((4,))
    other = keras.Model(x, layers.LayerNormalization(name="elsewhere")(x))
    plan = keras_gamma.apply_guidelines(other, l2=0.1, guidelines="all")
    m = model()
    before = state(m)
    with pytest.raises(ValueError, match="elsewhere"):
        plan.apply(m)
    assert same(state(m), before)


# Archives -------------------------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_archives(tmp_path, share):
    m = model()
    keras_gamma.apply_guidelines(m, l2=0.1)
    m.save(tmp_path / "m.keras")
    content = (tmp_path / "m.keras").read_bytes()
    cut = tmp_path / "cut.keras"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(Exception) as error:
        keras_gamma.load_model(cut)
    assert str(error.value)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive with decisions."""
    m = model()
    keras_gamma.apply_guidelines(m, l2=0.1)
    path = tmp_path_factory.mktemp("archive") / "m.keras"
    m.save(path)
    return path


def rewritten(archive, tmp_path, record):
    """A copy whose records are all `record`."""
    target = tmp_path / "changed.keras"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        names = [name for name in old.namelist() if name.endswith("keras_gamma.json")]
        assert len(names) == 2  # A record for each layer with a γ.
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, record if name in names else content)
    return target


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b'"x"', b"{}", b"\xff\xfe", b'{"format": "other"}',
     b'{"coupled": 3}', b'{"format": "keras_gamma.record", "coupled": "x"}'],
)  # fmt: skip
def test_foreign_records_in_an_archive(archive, tmp_path, content):
    path = rewritten(archive, tmp_path, content)
    with pytest.raises((ValueError, TypeError)) as error:
        keras_gamma.load_model(path)
    assert len(str(error.value)) > 15


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.keras", "No such file"),
        ("folder.keras", "is a directory without a model"),
        ("text.keras", "is not a .keras archive"),
    ],
)
def test_the_command_line_answers_before_a_backend_is_loaded(tmp_path, name, says):
    """There is no such backend here, and nobody asks for it."""
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "text.keras").write_text("no archive")
    run = subprocess.run(
        [sys.executable, "-m", "keras_gamma", str(tmp_path / name)],
        env={**os.environ, "KERAS_BACKEND": "none_such"},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert says in run.stderr and len(run.stderr.splitlines()) == 1


def test_an_archive_that_unpacks_to_much_more_than_it_has(tmp_path):
    """Weights of 256 MiB in a quarter of one: refused by the size, whatever they hold."""
    model().save(tmp_path / "m.keras")
    target = tmp_path / "bomb.keras"
    with zipfile.ZipFile(tmp_path / "m.keras") as old:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                with new.open(name, "w") as stream:
                    if name.endswith(".h5"):
                        for _ in range(256):
                            stream.write(bytes(2**20))
                    else:
                        stream.write(old.read(name))
    with pytest.raises(ValueError, match=r"model\.weights\.h5 has \d+ bytes and would unpack to"):
        keras_gamma.load_model(target)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_damaged_weights_are_an_error_of_one_line(tmp_path, share):
    model().save(tmp_path / "m.keras")
    target = tmp_path / "damaged.keras"
    with zipfile.ZipFile(tmp_path / "m.keras") as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            cut = int(share * len(content)) if name.endswith(".h5") else len(content)
            new.writestr(name, content[:cut])
    with pytest.raises(ValueError, match="could not be loaded") as error:
        keras_gamma.load_model(target)
    assert "\n" not in str(error.value)


# An error in the middle -----------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1])
def test_an_error_in_the_middle_of_applying_leaves_the_model(monkeypatch, after):
    m = model()
    before = state(m)
    made = []
    original = keras.regularizers.L2.__init__

    def fail(self, *args, **kwargs):
        made.append(1)
        if len(made) > after:
            raise RuntimeError("out of luck")
        original(self, *args, **kwargs)

    monkeypatch.setattr(keras.regularizers.L2, "__init__", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        keras_gamma.apply_guidelines(m, l2=0.1, guidelines="all")
    monkeypatch.undo()
    assert same(state(m), before)


def test_frozen_dtype_mixes_and_renamed_layers_are_handled():
    m = model()
    m.get_layer("ln").trainable = False
    plan = keras_gamma.apply_guidelines(m, l2=0.1, guidelines="all")
    assert {e.path: str(e.decision) for e in plan}["last/gamma"] == "apply"
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert [e.path for e in keras_gamma.apply_guidelines(mixed, l2=0.1)] == [e.path for e in plan]


class CyclicConfig(layers.Layer):
    """Its config holds itself, so that Keras cannot save it."""

    def build(self, shape):
        self.norm = layers.LayerNormalization(name="norm")
        self.dense = layers.Dense(shape[-1])
        self.norm.build(shape)
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return x + self.dense(self.norm(x))

    def get_config(self):
        cycle = {}
        cycle["cycle"] = cycle
        return {**super().get_config(), "cycle": cycle}


def test_a_cyclic_config_is_in_the_way_of_saving_alone(tmp_path):
    x = keras.Input((4,))
    m = keras.Model(x, CyclicConfig()(x))
    (entry,) = keras_gamma.apply_guidelines(m, l2=0.5)
    assert str(entry.role) == "residual_last" and float(m.losses[0]) == 2.0
    assert not keras_gamma.audit(m).disagreements
    with pytest.raises(RecursionError):
        m.save(tmp_path / "m.keras")
    assert float(m.losses[0]) == 2.0


@pytest.mark.parametrize("probe", ["x", 3, None, np.ones((2, 5)), [np.ones((2, 4))] * 2])
def test_probes(probe):
    m = model()
    if probe is None:
        with pytest.raises((ValueError, TypeError)):
            keras_gamma.dynamics.branch_ratios(m, probe)
        return
    m.compile("sgd", "mse")
    with pytest.raises((ValueError, TypeError)):
        m.fit(np.ones((4, 4)), np.ones((4, 4)), verbose=0, callbacks=[GammaMonitor(probe=probe)])
