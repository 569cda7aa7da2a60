"""Classification and translation of sentences: data, search, and whole small runs."""

import datetime
import itertools
import json
import signal
import sys

import keras
import numpy as np
import pytest

from tests.integration.example_runs import ROOT, drive, read_checkpoint

sys.path.insert(0, str(ROOT))

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("keras_hub")

import keras_gamma
from examples.core.cli import UsageError
from examples.data import arrays, dates, sentences, tokens
from examples.models import transformer, writing
from examples.models.blocks import Size
from examples.models.text_codes import END, PAD, START
from examples.tasks.translation_task import scores

pytestmark = pytest.mark.filterwarnings("default")  # third-party packages warn of their own ways

SMALL = {"depth": 2, "width": 8, "heads": 2, "mlp_ratio": 2}
NOTHING = sentences.Asked(None, None, None, None, None, 0)


@pytest.mark.parametrize(
    ("day", "way", "words"),
    [
        ((1984, 11, 21), 2, "the twenty-first of november nineteen eighty-four"),
        ((2000, 2, 29), 1, "february twenty-ninth two thousand"),
        ((1900, 1, 1), 0, "monday, january the first, nineteen hundred"),
        ((2009, 12, 20), 3, "on the twentieth day of december in the year two thousand and nine"),
        ((2026, 5, 12), 1, "may twelfth twenty twenty-six"),
        ((1907, 8, 30), 1, "august thirtieth nineteen oh-seven"),
    ],
)
def test_dates_in_words(day, way, words):
    assert dates.in_words(datetime.date(*day), way) == words


def test_parts_share_no_example_and_limits_are_kept():
    found = sentences.translated(NOTHING, swap=False)
    days = [set(found.parts[part].answers) for part in sentences.PARTS]
    assert [len(part) for part in days] == [16_000, 2_000, 2_000]
    assert len(set.union(*days)) == 20_000
    back = sentences.translated(sentences.Asked(None, None, None, "none", None, 50), swap=True)
    assert len(back.parts["train"].texts) == 50 and not back.parts["validation"].texts
    datetime.date.fromisoformat(back.parts["test"].texts[0])


def test_lines_belong_to_one_package():
    found = sentences.labelled(NOTHING)
    texts = [text for part in sentences.PARTS for text in found.parts[part].texts]
    assert len(texts) == len(set(texts)) > 5_000
    seen = np.bincount(found.parts["test"].answers, minlength=len(found.classes))
    assert seen.min() > 30


def test_a_python_without_sources_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sentences.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UsageError, match=r"no sources of asyncio in .*give --dataset"):
        sentences.labelled(NOTHING)


def test_wrong_splits_of_what_is_made_here_are_refused():
    with pytest.raises(UsageError, match=r"--train_split is for sets of tensorflow-datasets"):
        sentences.translated(sentences.Asked(None, None, "train", None, None, 0), swap=False)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_texts_come_back_from_their_numbers(kind):
    texts = ["the cat", "a  dog's ear", "übel", "the ear of the cat"] * 4
    vocabulary = tokens.learn(kind, texts, 20)
    length = vocabulary.length_of(texts)
    found = vocabulary.encode(texts, length)
    assert (found[:, 0] == START).all() and ((found == END).sum(axis=1) == 1).all()
    assert (found == PAD).all(axis=0).sum() == 0  # the longest text fills its row
    expected = [" ".join(t.split()) for t in texts] if kind == "pieces" else texts
    assert vocabulary.decode(found) == expected
    np.testing.assert_array_equal(found, tokens.learn(kind, texts, 20).encode(texts, length))
    assert vocabulary.encode(["the cat"], 4)[0, -1] == END  # what is cut has an end, too


def test_a_vocabulary_that_cannot_be_learnt_is_refused():
    with pytest.raises(UsageError, match=r"--vocabulary_size=400 does not fit.*<= 9"):
        tokens.learn("pieces", ["abc"] * 10, 400)


def passes(**kwargs):
    settings = {
        "size": 10, "batch_size": 3, "steps": 2, "first_epoch": 0, "first_step": 0, "epochs": 4,
        "seed": 0,
    }  # fmt: skip
    found = arrays.train_batches(
        (np.arange(10), np.arange(10) * 2), lambda pair: pair, **settings | kwargs
    )
    return [(x.numpy().tolist(), y.numpy().tolist()) for x, y in found]


def test_batches_of_arrays_are_functions_of_seed_and_step():
    whole = passes()
    assert len(whole) == 8 and all(y == [2 * n for n in x] for x, y in whole)
    for epoch, step in [(0, 1), (1, 1), (2, 0), (3, 1)]:
        assert passes(first_epoch=epoch, first_step=step) == whole[2 * epoch + step :]
    first = [n for x, _ in whole[:3] for n in x]  # three batches are a pass
    assert len(set(first)) == 9 and whole != passes(seed=1)
    assert {n for x, _ in passes(size=6, epochs=2) for n in x} == set(range(6))


def translator(target_length=7, **kwargs):
    keras.utils.set_random_seed(0)
    size = Size(**SMALL, **kwargs)
    model = transformer.translator(size, vocabulary=8, source_length=9, target_length=target_length)
    for variable in model.trainable_variables:  # so that one token is likelier than another
        variable.assign(3 * variable + 0.1)
    return model, size


SOURCES = np.array([[2, 5, 6, 7, 4, 5, 3, 0, 0], [2, 4, 4, 3, 0, 0, 0, 0, 0]])


def log_probabilities(model, source, target):
    """Of each token after the first, given those before it: by a pass over the whole text."""
    logits = model({"source": source[None], "target": np.array([target])})
    found = keras.ops.convert_to_numpy(keras.ops.log_softmax(logits))[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("position", ["post", "pre"])
def test_beam_search_of_all_beams_is_exhaustive_search(position):
    model, size = translator(target_length=3, norm_position=position)
    found = writing.translating(model, size, beams=8)(SOURCES)
    for source, here in zip(SOURCES, found, strict=True):
        best, choice = -np.inf, None
        for first, second in itertools.product(range(8), repeat=2):
            scored = log_probabilities(model, source, [START, first, second])
            over = first == END
            score = scored[0, first] + (0 if over else scored[1, second])
            if score > best:
                best, choice = score, [first, PAD if over else second]
        choice = [PAD if token == END else token for token in choice]
        assert here.tolist() == choice


def test_roles_of_sentence_models():
    roles = {
        entry.path.rpartition("/")[0]: str(entry.role)
        for entry in keras_gamma.find_roles(translator(norm_position="pre")[0])
    }
    assert len(roles) == 2 * 2 + 1 + 2 * 3 + 1
    assert roles.pop("decoder_norm") == "trunk"
    # A cross-attention normalizes its queries alone, which act through the softmax only.
    assert {roles.pop(f"decoder_{n}_cross_norm") for n in (0, 1)} == {"other"}
    assert {role for name, role in roles.items() if name.startswith("decoder")} == {"residual_last"}
    assert {roles[f"encoder_{n}_mlp_norm"] for n in (0, 1)} == {"residual_last"}
    size = Size(**SMALL, norm_position="post")
    model = transformer.text_classifier(size, vocabulary=20, length=6, num_classes=3)
    assert {str(entry.role) for entry in keras_gamma.find_roles(model)} == {"trunk"}


def test_padding_does_not_change_a_classification():
    size = Size(**SMALL)
    keras.utils.set_random_seed(0)
    model = transformer.text_classifier(size, vocabulary=20, length=8, num_classes=3)
    text = np.array([[2, 7, 8, 3, 0, 0, 0, 0]])
    embedding = model.get_layer("embedding").embeddings
    before = keras.ops.convert_to_numpy(model(text))
    values = keras.ops.convert_to_numpy(embedding).copy()
    values[PAD] += 5
    embedding.assign(values)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(text)), before, atol=1e-5)


def test_scores():
    assert scores(["a b c d e"], ["a b c d e"]) == {"test_bleu": pytest.approx(1), "test_exact": 1}
    found = scores(["1984-11-21", "1984-11-22"], ["1984-11-21", "1984-11-21"])
    assert found["test_exact"] == 0.5 and 0 < found["test_bleu"] < 1


# --- whole runs -----------------------------------------------------------------------------------

FEW = ["--epochs=2", "--warmup_epochs=0", "--max_steps_per_epoch=3", "--batch_size=4",
       "--limit_examples=200", "--depth=1", "--width=8", "--heads=2", "--verbose=0",
       "--tensorboard=no"]  # fmt: skip
BYTES = ["--task=classification", "--tokenizer=bytes", "--max_tokens=12"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("sentences")
    printed = drive(
        [
            {"flags": [*FEW, f"--output_dir={root / 'classification'}", *BYTES]},
            {"flags": [*FEW, f"--output_dir={root / 'translation'}", "--task=translation",
                       "--beams=2"]},
        ],
        script="train_transformer",
    )  # fmt: skip
    assert "error:" not in printed
    return root, printed


@pytest.mark.slow
def test_runs_end_with_their_scores(finished):
    root, printed = finished
    assert "DISAGREES" not in printed and printed.count("Audit: ") == 2
    found = json.loads((root / "classification" / "metrics.json").read_text())
    assert 0 <= found["final_test_accuracy"] <= 1
    assert found["settings"]["norm_position"] == "post"
    assert (root / "classification" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((root / "translation" / "metrics.json").read_text())
    # exp of about ln 256 before anything is learnt
    assert 100 < found["final_test_perplexity"] < 600
    assert {"test_bleu", "test_exact", "best_validation_nats"} <= found.keys()
    lines = (root / "translation" / "translations.txt").read_text().splitlines()
    assert len(lines) >= 3 * 2000


@pytest.mark.slow
def test_the_mean_is_that_over_tokens(finished):
    root, _ = finished
    metrics = json.loads((root / "translation" / "metrics.json").read_text())
    model = keras.models.load_model(root / "translation" / "model.keras")
    pairs = sentences.translated(NOTHING, swap=False).parts["test"]
    vocabulary = tokens.learn("bytes", [], 0)
    source = vocabulary.encode(pairs.texts, 74).astype(np.int32)
    target = vocabulary.encode(list(pairs.answers), 12).astype(np.int32)
    shape = {tensor.name: tensor.shape[1] for tensor in model.inputs}
    source = source[:, : shape["source"]]
    logits = model.predict({"source": source, "target": target[:, :-1]}, verbose=0)
    logits -= logits.max(axis=-1, keepdims=True)
    nats = np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(
        logits, target[:, 1:, None], axis=-1
    )[..., 0]  # fmt: skip
    there = target[:, 1:] != PAD
    assert np.log(metrics["final_test_perplexity"]) == pytest.approx(nats[there].mean(), rel=1e-4)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(finished, tmp_path):
    root, _ = finished
    run = [{"flags": [*FEW, f"--output_dir={tmp_path / 'run'}", "--task=translation", "--beams=2"]}]
    drive(run, kill=["batch", 5], expect=-signal.SIGKILL, script="train_transformer")
    assert "Resuming after epoch 1" in drive(run, script="train_transformer")
    _, expected = read_checkpoint(root / "translation")
    _, found = read_checkpoint(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    for name in ("log.csv", "translations.txt"):
        assert (tmp_path / "run" / name).read_bytes() == (root / "translation" / name).read_bytes()
