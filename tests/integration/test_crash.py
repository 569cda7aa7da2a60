"""kill -9 and SIGTERM at random moments: every run ends as the uninterrupted one.

`CRASHES=20 python -m pytest -m slow tests/integration/test_crash.py` kills more often;
`CRASH_SEED=n` at other moments.
"""

import os
import random
import signal

import numpy as np
import pytest

pytest.importorskip("fsspec")
pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

from keras_gamma import load_model
from keras_gamma.dynamics import monitor_log
from tests.integration import object_store
from tests.integration.example_runs import drive, read_checkpoint

pytestmark = pytest.mark.filterwarnings("default")

EPOCHS = 4
FLAGS = [
    "--model=resnet8_v1", "--width=2", f"--epochs={EPOCHS}", "--warmup_epochs=1",
    "--limit_examples=200", "--verbose=0", "--tensorboard=no", "--monitor_every=4", "--flip",
    "--checkpoint_steps=2", "--mixup=0.2", "--cutmix=1", "--erase", "--use_ema",
]  # fmt: skip
STEPS = 200 // 32
# Files are killed as they are about to be put into place: written, and not yet there.
POINTS = [
    "batch",
    "term",
    "checkpoint.npz",
    "log.csv",
    "model.keras",
    "metrics.json",
    "monitor.jsonl",
]


def moments(count, seed):
    """(what, the how many-th time) of each kill."""
    chance = random.Random(seed)
    for _ in range(count):
        point = chance.choice(POINTS)
        most = {"batch": EPOCHS * STEPS, "term": EPOCHS * STEPS, "checkpoint.npz": 2 * EPOCHS}
        most |= {"log.csv": EPOCHS}
        yield point, chance.randint(1, most.get(point, 1))


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
            drive(run, kill=list(next(points)), expect=(-signal.SIGKILL, 143, 0))
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
    # Once there is a row, the log is written with each checkpoint: thrice an epoch.
    drive(run, kill=["log.csv", 3 * EPOCHS - 2], expect=-signal.SIGKILL)
    assert not (killed / "monitor.png").exists()
    assert len(read_checkpoint(killed)[0]["rows"]) == EPOCHS
    drive(run)
    check_end(killed, whole)


@pytest.mark.slow
def test_a_run_in_an_object_store(tmp_path, monkeypatch):
    """Data and run in a store without rename: killed, ended by SIGTERM, and the same in the end."""
    store = tmp_path / "store"
    monkeypatch.setenv(object_store.FOLDER, str(store))
    flags = [flag for flag in FLAGS if not flag.startswith("--monitor")]
    local = f"--data_dir={store / 'bucket' / 'data'}"
    drive([{"flags": [*flags, local, f"--output_dir={tmp_path / 'whole'}"]}])
    run = [{"flags": [*flags, "--data_dir=s3://bucket/data", "--output_dir=s3://bucket/run"]}]
    drive(run, kill=["batch", STEPS + 3], expect=-signal.SIGKILL)
    drive(run, kill=["term", 6], expect=143)
    monitored = {"flags": [*run[0]["flags"], "--monitor_every=1"]}
    printed = drive([*run, *run, monitored])
    assert "Resuming after epoch 2 of 4, step 2 of 6" in printed
    assert "had finished already, in s3://bucket/run" in printed
    assert "which an object store cannot have" in printed
    check_end(store / "bucket" / "run", tmp_path / "whole", others={".lock"})


def check_files(killed):
    """Whatever bears a name is whole."""
    if (killed / "checkpoint.npz").exists():
        read_checkpoint(killed)
    if (killed / "model.keras").exists():
        load_model(killed / "model.keras")
    if (killed / "monitor.jsonl").exists():
        monitor_log.read(killed / "monitor.jsonl")


def check_end(killed, whole, others=frozenset()):
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
    assert {*os.listdir(killed)} == {*os.listdir(whole)} - others
