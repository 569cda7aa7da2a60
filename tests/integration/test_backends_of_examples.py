"""Every task of both binaries runs to its end on each backend."""

import json
import os
import subprocess
import sys

import pytest

from tests.integration.example_runs import ROOT

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

FEW = ["--epochs=1", "--max_steps_per_epoch=2", "--batch_size=4", "--verbose=0", "--tensorboard=no",
       "--limit_examples=40", "--monitor_every=1"]  # fmt: skip
TINY = ["--depth=1", "--width=8", "--heads=2"]
TASKS = {
    "resnet": ["train_resnet.py", "--model=resnet8_v1", "--width=2"],
    "vision": ["train_transformer.py", *TINY],
    "lm": ["train_transformer.py", *TINY, "--task=lm", "--max_bytes=20000",
           "--sequence_length=16", "--sample_bytes=5"],
    "classification": ["train_transformer.py", *TINY, "--task=classification",
                       "--tokenizer=bytes", "--max_tokens=16"],
    "translation": ["train_transformer.py", *TINY, "--task=translation", "--beams=1"],
}  # fmt: skip
WRITTEN = {"lm": "sample.txt", "translation": "translations.txt"}


# On TensorFlow the other tests of the examples do it.
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("task", TASKS)
def test_runs_to_the_end(task, backend, tmp_path):
    pytest.importorskip(backend)
    script, *flags = TASKS[task]
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *FEW, *flags,
         f"--output_dir={out}", f"--data_dir={tmp_path / 'data'}"],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["distribution"]["backend"] == backend and metrics["epochs"] == 1
    names = {entry.name for entry in out.iterdir()}
    assert {"model.keras", "log.csv", "monitor.jsonl", "monitor.png"} <= names
    assert WRITTEN.get(task, "confusion.png") in names
