"""The recipes: what their heads say, and that each of them begins to train."""

import json
import re
import sys

import pytest

from tests.integration.example_runs import ROOT, drive

sys.path.insert(0, str(ROOT))

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("keras_hub")

RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.cfg"))
# Smaller in number; in shape only where a step, or tracing it, would take minutes.
FEW = ["--epochs=1", "--max_steps_per_epoch=2", "--batch_size=2", "--limit_examples=8",
       "--eval_batch_size=8", "--warmup_epochs=0", "--verbose=0", "--tensorboard=no"]  # fmt: skip
LESS = {
    "gpt2_small_lm": ["--depth=2", "--sequence_length=64", "--max_bytes=3000", "--sample_bytes=2"],
    "bert_sst2": ["--vocabulary_size=30", "--depth=2"],
    "transformer_de_en": ["--vocabulary_size=40", "--depth=1", "--beams=1", "--max_tokens=16"],
    "vit_s_imagenet": ["--depth=2"],
    # More of the same blocks.
    "resnet56_cifar10": ["--model=resnet20_v1"],
    "resnet110_cifar10": ["--model=resnet20_v1"],
}


def script(path):
    return re.search(r"examples/(train_\w+)\.py", path.read_text())[1]


def head(path):
    lines = path.read_text().splitlines()
    return [line[2:] for line in lines[: lines.index("")]]


def test_all_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {
        "resnet50_imagenet", "resnet20_cifar10", "resnet56_cifar10", "resnet110_cifar10",
        "vit_s_imagenet", "gpt2_small_lm", "bert_sst2", "transformer_de_en",
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_head_says_what_it_takes_and_who_measured(path):
    lines = head(path)
    assert lines[1] == (
        f"command: python examples/{script(path)}.py --flagfile=examples/recipes/{path.name}"
    )
    assert lines[2].startswith("cost: ")
    score = " ".join(lines[3:])
    assert score.startswith("score: ") and ("not run here" in score) != ("ours" in score)
    assert f"--output_dir=runs/{path.stem}" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [path.stem for path in RECIPES if script(path) == "train_transformer"]
)
def test_recipes_of_transformers_begin_to_train(name, tmp_path):
    begin([path for path in RECIPES if path.stem == name], tmp_path)


@pytest.mark.slow
def test_recipes_of_resnets_begin_to_train(tmp_path):
    resnets = [path for path in RECIPES if script(path) == "train_resnet"]
    assert len(resnets) >= 4
    begin(resnets, tmp_path)


def begin(paths, tmp_path):
    """Two steps each, of made data of the right shape."""
    runs, name = {path.stem: path for path in paths}, script(paths[0])
    printed = drive(
        [
            {"flags": [f"--flagfile={path}", *FEW, *LESS.get(stem, ()),
                       f"--output_dir={tmp_path / stem}", f"--data_dir={tmp_path / 'data'}"],
             "mock": 12}
            for stem, path in runs.items()
        ],
        script=name,
    )  # fmt: skip
    assert "error:" not in printed and "DISAGREES" not in printed, printed
    for stem in runs:
        assert json.loads((tmp_path / stem / "metrics.json").read_text())["epochs"] == 1
