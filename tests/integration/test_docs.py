"""The documents' Python runs as it stands, and does what the text says."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_gamma

DOCS = pathlib.Path(__file__).parents[2] / "docs"

# What one step without gradients leaves smaller, for each optimizer in docs/migration.md: by hand,
# from what the other library's rule says.
MATRICES = {"fc/kernel", "out/kernel"}
EVERYTHING = MATRICES | {"ln/gamma", "ln/beta", "fc/bias", "final/gamma", "final/beta", "out/bias"}
DECAYED = {
    "timm_like": {"fc/kernel"},
    "sgd": EVERYTHING,
    "optax_like": MATRICES,
    "mixed": MATRICES | {"ln/gamma", "fc/bias"},
    "tf_models_like": MATRICES,
    "included": MATRICES | {"final/gamma"},
    "by_hand": {"fc/kernel", "ln/gamma"},
}


@pytest.fixture(scope="module")
def migration():
    text = (DOCS / "migration.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "migration.md", "exec"), names)
    return names


@pytest.mark.slow
def test_every_optimizer_of_the_text_is_checked(migration):
    found = {n for n, v in migration.items() if isinstance(v, keras.optimizers.Optimizer)}
    assert found == set(DECAYED)


@pytest.mark.parametrize("name", DECAYED)
def test_what_decays(migration, name):
    optimizer, model = migration[name], migration["model"]
    variables = model.trainable_variables
    optimizer.learning_rate = 1.0
    for variable in variables:
        variable.assign(np.ones(variable.shape, "float32"))
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    left = {v.path: float(keras.ops.convert_to_numpy(v).min()) for v in variables}
    assert {path for path, rest in left.items() if rest < 1.0} == DECAYED[name]


def test_numbers_in_the_text(migration):
    assert migration["sgd"].weight_decay == pytest.approx(1e-3)
    assert migration["model"].losses == []


def small_model():
    x = keras.Input((4,))
    y = keras.layers.Dense(4)(keras.layers.LayerNormalization(name="before")(x))
    y = keras.layers.Add()([x, y])
    y = keras.layers.LayerNormalization(name="last")(y)
    return keras.Model(x, keras.layers.Dense(1)(y))


DIFFS = re.findall(
    r"```diff\n(.*?)```", (DOCS / "training_script.md").read_text(encoding="utf-8"), re.DOTALL
)


@pytest.mark.slow
@pytest.mark.one_in(4)
@pytest.mark.parametrize("side", [" -", " +"], ids=["before", "after"])
@pytest.mark.parametrize("diff", DIFFS)
def test_scripts_run_before_and_after_the_change(diff, side, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line[1:] for line in diff.splitlines() if not line or line[0] in side]
    names = {"build": small_model, "x": np.ones((8, 4)), "y": np.ones((8, 1)), "keras": keras}
    exec(compile("\n".join(lines), "training_script.md", "exec"), names)
    gammas = {"before/gamma": True, "last/gamma": False}  # By hand, from docs/roles.md.
    audit = keras_gamma.audit(names["model"])
    found = {e.path: bool(e.coupled or e.decoupled) for e in audit if e.path in gammas}
    if side == " +":
        assert found == gammas
    else:
        assert found != gammas


def test_audit_and_guard():
    """The blocks assert what they say."""
    text = (DOCS / "audit.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(block, "audit.md", "exec"), names)
    assert names["guard"].audit.ok and len(names["audit"]) == 4


def test_links_between_documents():
    for path in [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
