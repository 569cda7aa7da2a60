"""`python -m keras_gamma`: what it prints, what it writes, and how it ends."""

import json
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
from keras_gamma.cli import main


def block():
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="ln")(x)
    y = layers.ReLU()(layers.Dense(4)(y))
    y = layers.Add(name="join")([x, y])
    return keras.Model(x, layers.LayerNormalization(name="final")(y))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    block().save(path)
    return str(path)


def run(capsys, *args):
    code = main(["keras_gamma", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table(saved, capsys):
    code, out, err = run(capsys, saved)
    assert (code, err) == (0, "")
    assert "ln/gamma" in out
    assert out.endswith("2 γ: residual_last 1, shortcut 0, interior 0, trunk 1, other 0\n")


def test_every_row(saved, capsys):
    code, out, _ = run(capsys, saved, "--every_row")
    assert code == 0 and "│ ln/gamma" in out and "joins at" in out


def test_json(saved, capsys):
    code, out, _ = run(capsys, saved, "--json")
    found = [(g["path"], g["role"]) for g in json.loads(out)["entries"]]
    assert (code, found) == (0, [("ln/gamma", "residual_last"), ("final/gamma", "trunk")])


def test_apply_writes_a_model(saved, tmp_path, capsys):
    output = tmp_path / "out.keras"
    code, out, _ = run(capsys, saved, "--apply", "--weight_decay=0.5", f"--output={output}")
    assert code == 0
    assert "apply 1, withhold 1" in out
    model = keras.models.load_model(output)
    assert [float(loss) for loss in model.losses] == [1.0]
    assert model.get_layer("ln").gamma_regularizer.l2 == 0.25
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras", "out.keras"]


def test_apply_as_json_is_a_plan(saved, tmp_path, capsys):
    from keras_gamma import GammaPlan

    args = ("--apply", "--l2=0.5", "--json", f"--output={tmp_path / 'o.keras'}")
    _, out, _ = run(capsys, saved, "--guidelines=trunk=0.5", *args)
    assert [e.strength for e in GammaPlan.from_json(out)] == [0.0, 0.25]


def test_output_is_not_overwritten_unasked(saved, capsys):
    before = pathlib.Path(saved).read_bytes()
    code, out, err = run(capsys, saved, "--apply", "--l2=1", f"--output={saved}")
    assert (code, out) == (1, "")
    assert "exists already" in err
    assert pathlib.Path(saved).read_bytes() == before
    assert run(capsys, saved, "--apply", "--l2=1", f"--output={saved}", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Give one saved model"),
        (["a.keras", "b.keras"], "Give one saved model"),
        (["a.keras", "--nonsense"], "nonsense"),
        (["a.keras", "--apply", "--l2=1"], "--output"),
        (["a.keras", "--apply", "--output=b.keras"], "exactly one of"),
        (["a.keras", "--apply", "--output=b.h5", "--l2=1"], "--output"),
        (["a.keras", "--l2=1"], "--l2 is used with --apply or --update"),
        (["a.keras", "--audit", "--l2=1"], "--l2 is used with --apply or --update"),
        (["a.keras", "--audit", "--golden=p.json"], "--audit and --golden"),
        (["a.keras", "--update"], "--update is used with --golden"),
        (["a.keras", "--golden=p.json", "--update"], "exactly one of"),
        (["a.keras", "--golden=p.json", "--guidelines=all"], "--guidelines is used with"),
        (["a.keras", "--input_shape=3,x"], "--input_shape"),
        (["a.keras", "--every_row", "--json"], "--every_row is used where a table is printed"),
        (["a.keras", "--every_row", "--golden=p.json"], "--every_row is used where"),
    ],
)
def test_wrong_command_lines(args, message, capsys):
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def one_clear_line(capsys, path, *args):
    code, out, err = run(capsys, str(path), *args)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    return err


def test_broken_archives(saved, tmp_path, capsys):
    assert "No such file" in one_clear_line(capsys, tmp_path / "absent.keras")
    whole = pathlib.Path(saved).read_bytes()
    cut = tmp_path / "cut.keras"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in one_clear_line(capsys, cut)
    cut.write_bytes(b"")
    assert "not a .keras archive" in one_clear_line(capsys, cut)
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("config.json", "{")
    assert "could not be loaded" in one_clear_line(capsys, cut)
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "could not be loaded" in one_clear_line(capsys, cut)


def test_an_archive_that_only_unsafe_loading_opens(tmp_path, capsys):
    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: 2 * x)]).save(path)
    assert "unsafe" in one_clear_line(capsys, path)


def test_a_class_that_is_not_known(tmp_path, capsys):
    class Unknown(layers.Layer):
        pass

    path = tmp_path / "unknown.keras"
    keras.Sequential([keras.Input((4,)), Unknown()]).save(path)
    assert "not known here" in one_clear_line(capsys, path)


def test_bad_strength(saved, tmp_path, capsys):
    output = tmp_path / "o.keras"
    err = one_clear_line(capsys, saved, "--apply", "--l2=-1", f"--output={output}")
    assert "finite number" in err
    assert not output.exists()


def test_a_model_whose_config_drops_regularizers(tmp_path, capsys):
    keras_hub = pytest.importorskip("keras_hub")
    path, output = tmp_path / "bert.keras", tmp_path / "out.keras"
    keras_hub.models.BertBackbone(
        vocabulary_size=10,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=16,
    ).save(path)
    code, _, err = run(capsys, str(path), "--apply", "--l2=1", f"--output={output}",
                       "--guidelines=all")  # fmt: skip
    assert code == 0
    assert "load it with keras_gamma.load_model" in err
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["bert.keras", "out.keras"]
    assert keras.models.load_model(output).losses == []
    assert [float(loss) for loss in keras_gamma.load_model(output).losses] == [8.0, 8.0, 8.0]


def test_golden_plan(saved, tmp_path, capsys):
    golden = str(tmp_path / "plan.json")
    code, out, err = run(capsys, saved, f"--golden={golden}")
    assert (code, out) == (1, "")
    assert "Make it with --update" in err
    code, out, _ = run(capsys, saved, f"--golden={golden}", "--update", "--l2=0.5")
    assert code == 0
    assert out.endswith(f"Written to {golden}\n")
    code, out, err = run(capsys, saved, f"--golden={golden}")
    assert (code, out, err) == (0, f"2 entries, all as in {golden}\n", "")


def test_a_model_that_is_not_as_the_golden_plan_says(saved, tmp_path, capsys):
    golden, other = str(tmp_path / "plan.json"), str(tmp_path / "other.keras")
    run(capsys, saved, f"--golden={golden}", "--update", "--l2=0.5")
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="ln")(x)
    y = layers.LayerNormalization(name="new")(layers.Dense(4)(y))
    keras.Model(x, y).save(other)
    code, out, _ = run(capsys, other, f"--golden={golden}")
    assert code == 1
    assert out.splitlines() == [
        f"3 differences from {golden} (stored -> now):",
        "- ln/gamma: role residual_last -> interior",
        "- final/gamma: only in the stored plan (trunk, withhold, l2 0)",
        "- new/gamma: only here (trunk, withhold, l2 0)",
    ]
    code, out, _ = run(capsys, other, f"--golden={golden}", "--json")
    assert (code, json.loads(out)["agrees"]) == (1, False)


def test_a_malformed_golden_plan(saved, tmp_path, capsys):
    (tmp_path / "plan.json").write_text("{}")
    assert "Not a keras_gamma plan" in one_clear_line(
        capsys, saved, f"--golden={tmp_path / 'plan.json'}"
    )


def test_verify(saved, capsys):
    code, out, _ = run(capsys, saved, "--verify")
    assert code == 0
    assert "agree 2, disagree 0, not testable 0" in out
    code, out, _ = run(capsys, saved, "--verify", "--json")
    assert [e["measured"] for e in json.loads(out)["entries"]] == ["residual_last", "trunk"]


def test_audit(tmp_path, capsys):
    path = str(tmp_path / "model.keras")
    model = block()
    model.compile(keras.optimizers.AdamW(weight_decay=0.25), "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 4)), verbose=0)
    model.save(path)
    code, out, _ = run(capsys, path, "--audit")
    assert code == 1
    assert "- final/gamma: as trunk it should not shrink by the guidelines, but does" in out
    code, out, _ = run(capsys, path, "--audit", "--guidelines=all", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)


@pytest.mark.slow
def test_as_a_module(saved):
    done = subprocess.run(
        [sys.executable, "-m", "keras_gamma", saved],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert "2 γ: residual_last 1" in done.stdout
    assert done.stderr == ""


def test_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "--weight_decay" in out
    assert "Exit codes" in out


def test_plot(saved, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "roles.html"
    code, out, _ = run(capsys, saved, f"--plot={picture}")
    assert (code, out) == (0, f"Drawn to {picture}\n")
    assert "It sets the scale of the branch" in picture.read_text()
    code, out, err = run(capsys, saved, f"--plot={tmp_path / 'roles.bmp'}")
    assert code == 1 and "html, pdf, png, svg" in err and not out
    code, out, err = run(capsys, saved, f"--plot={saved}/roles.png")
    assert code == 1 and "could not be written" in err
