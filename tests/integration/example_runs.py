"""Carries out runs of the training scripts in processes of their own, and kills them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

# Does the runs of sys.argv[1] (JSON) one after the other. "kill" is (file name, n): the process
# kills itself as the file is about to be replaced for the n-th time; ("batch", n): after the n-th
# training batch; ("term", n): there, by SIGTERM, and not -9.
DRIVER = """
import contextlib, json, os, signal, sys
sys.path.insert(0, {root!r})
from examples import {script} as script
from examples.core import cli, training
from examples.core.cli import UsageError
from examples.data import preparing
import tensorflow_datasets as tfds
from absl import flags
from absl.testing import flagsaver

if os.environ.get("OBJECT_STORE_FOLDER"):
    from tests.integration import object_store
    object_store.register()

todo = json.loads(sys.argv[1])
point, left = todo.get("kill", [None, 0])

def count(reached):
    global left
    left -= reached == point
    if reached == point and left == 0:
        os.kill(os.getpid(), signal.SIGTERM if point == "term" else signal.SIGKILL)

replace = os.replace
os.replace = lambda source, to: (count(os.path.basename(to)), replace(source, to))

class KillInBatch(training.SaveProgress):
    def on_train_batch_end(self, batch, logs=None):
        count("batch")
        count("term")
        super().on_train_batch_end(batch, logs)

signal.signal(signal.SIGTERM, cli._terminate)

training.SaveProgress = KillInBatch
for run in todo["runs"]:
    mock = contextlib.nullcontext()
    if run.get("mock"):
        preparing._check_network = lambda builder: None  # Nothing is downloaded.
        mock = tfds.testing.mock_data(num_examples=48 if run["mock"] is True else run["mock"])
    with flagsaver.flagsaver(), mock:
        flags.FLAGS(["train", *run["flags"]])
        try:
            script.main([""])
        except UsageError as error:
            print("error:", error)
        except cli.Terminated:
            sys.exit(143)
"""


def drive(runs, kill=None, expect=0, script="train_resnet") -> str:
    """Carries out runs in a new process; returns what it printed.

    `expect` is the exit code, or a tuple of those that will do.
    """
    todo = {"runs": runs} | ({"kill": kill} if kill else {})
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            DRIVER.format(root=str(ROOT), script=script),
            json.dumps(todo),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    codes = expect if isinstance(expect, tuple) else (expect,)
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def read_checkpoint(folder):
    with np.load(folder / "checkpoint.npz") as archive:
        arrays = dict(archive)
    return json.loads(arrays.pop("header").tobytes())["progress"], arrays
