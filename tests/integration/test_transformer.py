"""The transformer example: text, models, and whole small runs.

The script itself is run in other processes: its flags have the names of train_resnet's.
"""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.integration.example_runs import ROOT, drive, read_checkpoint

sys.path.insert(0, str(ROOT))

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")
pytest.importorskip("keras_hub")

import keras_gamma
from examples.core.cli import UsageError
from examples.data import text
from examples.experiments import pictures
from examples.models import transformer, writing
from examples.models.blocks import Size
from examples.tasks.text_task import generate

pytestmark = pytest.mark.filterwarnings("default")  # third-party packages warn of their own ways

SMALL = {"depth": 2, "width": 8, "heads": 2, "mlp_ratio": 2}


# --- text -----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text(f"file {number:02} " * 20)
    return str(tmp_path / "*.txt")


def load(files, max_bytes=0):
    return text.load_text(patterns=[files], dataset=None, data_dir=None, max_bytes=max_bytes)


def test_whole_files_are_held_out(files):
    found = load(files)
    assert {n for n in range(12) if f"file {n:02}".encode() in found.test.tobytes()} == {1, 11}
    assert {n for n in range(12) if f"file {n:02}".encode() in found.train.tobytes()} == {
        0, 2, 3, 4, 5, 7, 8, 9, 10,
    }  # fmt: skip
    assert b"file 06" in found.validation.tobytes() and b"file 05" not in found.validation.tobytes()
    assert found.files == 12


def test_a_cap_cuts_all_parts(files):
    found = load(files, max_bytes=90)
    assert (len(found.train), len(found.validation), len(found.test)) == (90, 10, 10)


def test_the_standard_library_is_found():
    found = text.load_text(patterns=[], dataset=None, data_dir=None, max_bytes=0)
    assert len(found.train) > 1_000_000
    parts = (found.train, found.validation, found.test)
    assert b"class OrderedDict(dict)" in b"".join(part.tobytes() for part in parts)


def batches(found, **kwargs):
    settings = {"length": 8, "batch_size": 4, "steps": 5, "first_epoch": 0, "epochs": 2, "seed": 0}
    dataset = text.train_batches(found.train, **{**settings, **kwargs})
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def test_labels_are_the_next_bytes(files):
    found = load(files)
    for x, y in batches(found):
        assert x.shape == y.shape == (4, 8)
        np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
        for row, last in zip(x, y[:, -1], strict=True):
            assert bytes([*row, last]) in found.train.tobytes()


def test_batches_depend_on_seed_and_epoch_alone(files):
    found = load(files)
    whole = batches(found)
    assert len(whole) == 10
    resumed = batches(found, first_epoch=1)
    for (a, _), (b, _) in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for (a, _), (b, _) in zip(whole[:5], whole[5:], strict=True))
    assert any((a != b).any() for (a, _), (b, _) in zip(whole, batches(found, seed=1), strict=True))


@pytest.mark.parametrize("size", [8, 9, 16, 17, 100])
def test_every_epoch_has_as_many_pieces_as_promised(size):
    content = np.arange(size, dtype=np.uint8)
    promised = text.number_of_pieces(content, 8)
    for epoch in range(4):
        dataset = text.train_batches(
            content, length=8, batch_size=1, steps=1000, first_epoch=epoch, epochs=epoch + 1, seed=0
        )
        assert sum(1 for _ in dataset) >= promised
    assert promised == {8: 0, 9: 0, 16: 1, 17: 1, 100: 11}[size]


def test_the_test_text_comes_whole_and_in_order():
    content = np.arange(20, dtype=np.uint8)
    parts = [x.numpy() for x, _ in text.test_batches(content, length=8, batch_size=1)]
    assert np.concatenate(parts).ravel().tolist() == list(range(16))


def test_missing_files_are_named():
    with pytest.raises(UsageError, match="names 0 files"):
        text.load_text(patterns=["/nowhere/*"], dataset=None, data_dir=None, max_bytes=0)


# --- models ---------------------------------------------------------------------------------------


def roles(model):
    return {g.path.rpartition("/")[0]: str(g.role) for g in keras_gamma.find_roles(model)}


PRE = {
    "block_0_attention_norm": "residual_last",
    "block_0_mlp_norm": "residual_last",
    "block_1_attention_norm": "residual_last",
    "block_1_mlp_norm": "residual_last",
    "final_norm": "trunk",
}
POST = dict.fromkeys(list(PRE)[:4], "trunk")


def vit(**kwargs):
    size = Size(**SMALL, **kwargs)
    return transformer.vision_transformer(size, image_shape=(8, 8, 1), num_classes=10, patch_size=2)


def gpt(**kwargs):
    return transformer.language_model(Size(**SMALL, **kwargs), vocabulary=256, length=16)


@pytest.mark.parametrize("build", [vit, gpt])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_roles(build, norm):
    assert roles(build(norm=norm)) == PRE
    assert roles(build(norm=norm, norm_position="post")) == POST


def test_roles_of_keras_hub_models():
    size = Size(**SMALL)
    model = transformer.keras_hub_language_model("keras_hub_gpt2", size, vocabulary=256, length=16)
    assert sorted(roles(model).values()) == ["residual_last"] * 4 + ["trunk"]
    model = transformer.keras_hub_classifier(
        size, image_shape=(8, 8, 3), num_classes=10, patch_size=4
    )
    assert sorted(roles(model).values()) == ["residual_last"] * 4 + ["trunk"]


def test_the_language_model_does_not_look_ahead():
    model = gpt()
    tokens = np.arange(16)[np.newaxis]
    changed = tokens.copy()
    changed[0, 10:] = 99
    a, b = (keras.ops.convert_to_numpy(model(t))[0] for t in (tokens, changed))
    np.testing.assert_allclose(a[:10], b[:10], atol=1e-6)
    assert np.abs(a[10:] - b[10:]).max() > 1e-3


def test_positions_matter():
    model = gpt()
    logits = keras.ops.convert_to_numpy(model(np.full((1, 16), 7)))[0]
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


@pytest.mark.slow
def test_models_load_without_the_examples(tmp_path):
    vit().save(tmp_path / "vit.keras")
    gpt(norm="rms").save(tmp_path / "gpt.keras")
    code = (
        "import sys, keras\n"
        "for path in sys.argv[1:]: keras.models.load_model(path)\n"
        "assert not [m for m in sys.modules if m.startswith('examples')]"
    )
    paths = [str(tmp_path / "vit.keras"), str(tmp_path / "gpt.keras")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, cwd=tmp_path, timeout=600)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transformer.check_model_name("vitt", "vision"), "did you mean vit"),
        (lambda: transformer.check_model_name("vit", "lm"), "expected gpt"),
        (lambda: Size(width=10, heads=4), "--heads=4 must divide --width=10"),
        (
            lambda: transformer.vision_transformer(
                Size(), image_shape=(8, 8, 1), num_classes=2, patch_size=3
            ),
            "--patch_size=3 must divide",
        ),
        (
            lambda: transformer.keras_hub_language_model(
                "keras_hub_llama", Size(), vocabulary=8, length=4
            ),
            "has --norm=rms",
        ),
    ],
)
def test_wrong_choices_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.slow
def test_samples_are_repeatable():
    keras.utils.set_random_seed(0)
    model, size = gpt(), Size(**SMALL)
    sample = generate(model, size, "def ", 30, 1.0, seed=0)
    assert sample.startswith("def ")
    assert sample == generate(model, size, "def ", 30, 1.0, seed=0)
    assert sample != generate(model, size, "def ", 30, 1.0, seed=1)


def next_byte(model, tokens, length):
    window = np.zeros((1, length), np.int32)
    window[0, : len(tokens)] = tokens
    return int(np.argmax(keras.ops.convert_to_numpy(model(window))[0, len(tokens) - 1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "post", "keras_hub_gpt2", "keras_hub_llama"])
@pytest.mark.one_in(4)
def test_what_is_written_with_a_cache_is_what_whole_passes_write(name):
    keras.utils.set_random_seed(0)
    kinds = {"post": {"norm_position": "post", "norm": "rms"}, "keras_hub_llama": {"norm": "rms"}}
    size = Size(**SMALL, **kinds.get(name, {}))
    if name.startswith("keras_hub"):
        model = transformer.keras_hub_language_model(name, size, vocabulary=256, length=16)
    else:
        model = transformer.language_model(size, vocabulary=256, length=16)
    expected = [5, 6, 7]
    while len(expected) < 16:
        expected.append(next_byte(model, expected, 16))
    for _ in range(8):  # The context was full, and begins anew from its last half.
        expected.append(next_byte(model, expected[8:], 16))
    found = writing.continued(model, size, [5, 6, 7], 21, temperature=0.0, seed=0)
    assert found == expected


def test_confusion_matrix_is_a_picture(tmp_path):
    pictures.confusion_matrix(np.array([[3, 1], [0, 4]]), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


# --- whole runs -----------------------------------------------------------------------------------

FEW = ["--epochs=2", "--warmup_epochs=0", "--max_steps_per_epoch=3", "--batch_size=4",
       "--depth=1", "--width=8", "--heads=2", "--verbose=0", "--tensorboard=no"]  # fmt: skip
TEXT = ["--task=lm", "--max_bytes=20000", "--sequence_length=16", "--sample_bytes=20"]


def flags(folder, *more):
    return [*FEW, f"--output_dir={folder}", f"--data_dir={folder.parent / 'data'}", *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("transformers")
    printed = drive(
        [
            {"flags": flags(root / "vision")},
            {"flags": flags(root / "lm", *TEXT)},
        ],
        script="train_transformer",
    )
    assert "error:" not in printed
    return root, printed


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The folder of further finished runs, by name."""
    root = tmp_path_factory.mktemp("transformers")
    coupled = ("--decay=coupled", "--norm=rms", "--guidelines=all", "--norm_position=post")
    printed = drive(
        [
            {"flags": flags(root / "coupled", *TEXT, *coupled)},
            {"flags": flags(root / "hub", *TEXT, "--model=keras_hub_gpt2")},
        ],
        script="train_transformer",
    )
    assert "error:" not in printed
    return root


def test_results(finished):
    root, printed = finished
    vision = json.loads((root / "vision" / "metrics.json").read_text())
    assert 0 <= vision["final_test_accuracy"] <= 1
    assert vision["settings"]["model"] == "vit"
    lm = json.loads((root / "lm" / "metrics.json").read_text())
    # About ln 256 in nats before anything is learnt.
    assert 4 < lm["final_test_bits_per_byte"] < 9
    assert lm["dataset"]["train_bytes"] == 20000
    assert (root / "vision" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "lm" / "sample.txt").read_bytes().startswith(b"def ")
    assert printed.index("block_0_mlp_norm") < printed.index("Audit: ") < printed.index("test acc")
    assert "DISAGREES" not in printed


@pytest.mark.slow
def test_a_model_of_keras_hub_is_trained(others):
    metrics = json.loads((others / "hub" / "metrics.json").read_text())
    assert 4 < metrics["final_test_bits_per_byte"] < 9


def test_the_saved_model_scores_what_was_reported(finished):
    root, _ = finished
    metrics = json.loads((root / "lm" / "metrics.json").read_text())
    model = keras.models.load_model(root / "lm" / "model.keras")
    found = text.load_text(patterns=[], dataset=None, data_dir=None, max_bytes=20000)
    dataset = text.test_batches(found.test, length=16, batch_size=64)
    scores = model.evaluate(dataset, verbose=0, return_dict=True)
    expected = scores["nats"] / np.log(2)
    assert metrics["final_test_bits_per_byte"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_penalties_of_rms_norms_come_back(others):
    path = others / "coupled" / "model.keras"
    gammas = [
        v for v in keras_gamma.load_model(path).trainable_variables
        if v.regularizer is not None and v.path.endswith("norm/scale")
    ]  # fmt: skip
    assert len(gammas) == 2


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(finished, tmp_path):
    root, _ = finished
    run = [{"flags": flags(tmp_path / "run", *TEXT)}]
    drive(run, kill=["batch", 5], expect=-signal.SIGKILL, script="train_transformer")
    printed = drive(run, script="train_transformer")
    assert "Resuming after epoch 1 of 2." in printed
    _, expected = read_checkpoint(root / "lm")
    _, arrays = read_checkpoint(tmp_path / "run")
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    names = ("log.csv", "sample.txt")
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (root / "lm" / name).read_bytes()


@pytest.mark.slow
def test_two_devices_end_as_one_and_decay_leads_both_back_to_the_start(finished, tmp_path):
    start = finished[0] / "vision"
    more = [f"--init_from={start}", "--decay_to=initial", "--weight_decay=15", "--dropout=0",
            "--optimizer=sgd", "--learning_rate=0.05", "--schedule=constant"]  # fmt: skip
    two = ["--strategy=mirrored", "--virtual_devices=2"]
    runs = [{"flags": flags(tmp_path / "two", *more, *two)},
            {"flags": flags(tmp_path / "one", *more)}]  # fmt: skip
    printed = drive(runs, script="train_transformer")
    assert "error:" not in printed and printed.count("2 replicas in 1 process") == 1
    (_, one), (_, two) = (read_checkpoint(tmp_path / name) for name in ("one", "two"))
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    before, after = (
        {v.path: keras.ops.convert_to_numpy(v) for v in keras.models.load_model(path).variables}
        for path in (start / "model.keras", tmp_path / "two" / "model.keras")
    )
    kernels = {path for path in before if path.endswith("/kernel")}
    assert len(kernels) == 8
    for path in kernels:
        size, moved = (np.linalg.norm(x) for x in (before[path], after[path] - before[path]))
        assert (np.linalg.norm(after[path]) if "logits" in path else moved) < size / 2
        assert moved > 0


@pytest.mark.slow
def test_errors_are_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train_transformer.py"), "--model=gpt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: unknown model 'gpt' for --task=vision; expected vit, keras_hub_vit\n"
    )
    assert not list(tmp_path.iterdir())
