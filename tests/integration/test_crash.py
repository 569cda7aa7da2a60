"""kill -9 at random moments of training and of saving: every run ends as the uninterrupted one.

`CRASHES=20 python -m pytest -m slow tests/integration/test_crash.py` kills more often;
`CRASH_SEED=n` at other moments.
"""

import os
import random
import signal

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

from keras_gamma import load_model
from keras_gamma.dynamics import monitor_log
from tests.integration.example_runs import drive, read_checkpoint

pytestmark = pytest.mark.filterwarnings("default")

EPOCHS = 4
FLAGS = [
    "--model=resnet8_v1", "--width=2", f"--epochs={EPOCHS}", "--warmup_epochs=1",
    "--limit_examples=200", "--verbose=0", "--tensorboard=no", "--monitor_every=4",
]  # fmt: skip
STEPS = 200 // 32
# Files are killed as they are about to be put into place: written, and not yet there.
POINTS = ["batch", "checkpoint.npz", "log.csv", "model.keras", "metrics.json", "monitor.jsonl"]


def moments(count, seed):
    """(what, the how many-th time) of each kill."""
    chance = random.Random(seed)
    for _ in range(count):
        point = chance.choice(POINTS)
        most = {"batch": EPOCHS * STEPS, "checkpoint.npz": EPOCHS, "log.csv": EPOCHS}.get(point, 1)
        yield point, chance.randint(1, most)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    whole, data = tmp_path / "whole", f"--data_dir={tmp_path / 'data'}"
    drive([{"flags": [*FLAGS, data, f"--output_dir={whole}"]}])
    wanted = int(os.environ.get("CRASHES", 4))
    points = moments(10 * wanted, int(os.environ.get("CRASH_SEED", 0)))
    deaths = runs = 0
    while deaths < wanted:
        runs += 1
        killed = tmp_path / f"killed{runs}"
        run = [{"flags": [*FLAGS, data, f"--output_dir={killed}"]}]
        while deaths < wanted and not (killed / "metrics.json").exists():
            drive(run, kill=list(next(points)), expect=(-signal.SIGKILL, 0))
            deaths += not (killed / "metrics.json").exists()
            check_files(killed)
        drive(run)
        check_end(killed, whole)


@pytest.mark.slow
def test_killed_between_the_last_epoch_and_the_end(tmp_path):
    """Nothing is left to train, but to draw and to write."""
    whole, killed, data = tmp_path / "a", tmp_path / "b", f"--data_dir={tmp_path / 'data'}"
    drive([{"flags": [*FLAGS, data, f"--output_dir={whole}"]}])
    run = [{"flags": [*FLAGS, data, f"--output_dir={killed}"]}]
    drive(run, kill=["log.csv", EPOCHS], expect=-signal.SIGKILL)
    assert not (killed / "monitor.png").exists()
    assert len(read_checkpoint(killed)[0]["rows"]) == EPOCHS
    drive(run)
    check_end(killed, whole)


def check_files(killed):
    """Whatever bears a name is whole."""
    if (killed / "checkpoint.npz").exists():
        read_checkpoint(killed)
    if (killed / "model.keras").exists():
        load_model(killed / "model.keras")
    if (killed / "monitor.jsonl").exists():
        monitor_log.read(killed / "monitor.jsonl")


def check_end(killed, whole):
    """The run ended as the uninterrupted one."""
    (progress, arrays), (expected, wanted) = read_checkpoint(killed), read_checkpoint(whole)
    assert progress["rows"] == expected["rows"]
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    for one, other in zip(
        load_model(killed / "model.keras").get_weights(),
        load_model(whole / "model.keras").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    assert sorted(os.listdir(killed)) == sorted(os.listdir(whole))
