"""Training on several devices and in several processes, for real, on the loopback interface."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_gamma
from keras_gamma import distribute

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

pytest.importorskip("tensorflow_datasets")

from examples.cluster import opening, rendezvous  # noqa: E402
from examples.cluster.cluster import check_that_jax_can_share  # noqa: E402
from examples.cluster.members import members  # noqa: E402
from examples.cluster.settings import ClusterSettings  # noqa: E402
from examples.core import files, throughput  # noqa: E402
from examples.core.cli import UsageError  # noqa: E402
from examples.data import photos  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # third-party packages warn of their own ways

SLOW = pytest.mark.slow
WORKER = ["tests/integration/distributed_worker.py"]
RESNET = [
    "examples/train_resnet.py",
    "--model=resnet8_v1",
    "--width=2",
    "--epochs=3",
    "--warmup_epochs=0",
    "--max_steps_per_epoch=6",
    "--limit_examples=200",
    "--tensorboard=no",
]


def free_ports(number):
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [server.getsockname()[1] for server in opened]


def tf_config(ports, index):
    addresses = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def launch(commands, *, timeout=600):  # seconds: for what hangs, not for what is slow
    """Runs processes at the same time: pairs of arguments and environment.

    Returns for each its exit code, what it printed, and its errors. Kills what is left.
    """
    processes, ended = [], []
    try:
        for arguments, environment in commands:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    cwd=ROOT,
                    env=os.environ | environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        readers = [
            threading.Thread(target=lambda p=p, i=i: ended.append((i, *p.communicate())))
            for i, p in enumerate(processes)
        ]
        for reader in readers:
            reader.start()
        for process in processes:
            process.wait(timeout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for reader in readers:
        reader.join()
    return [(processes[i].returncode, out, err) for i, out, err in sorted(ended)]


def cluster_of_two(arguments, *, environment=({}, {}), **options):
    ports = free_ports(2)
    commands = [
        ([*arguments, "--strategy=multi_worker"], {"TF_CONFIG": tf_config(ports, i)} | more)
        for i, more in enumerate(environment)
    ]
    return launch(commands, **options)


def check(ended):
    for code, printed, errors in ended:
        assert code == 0, printed + errors
    return ended


# --- the same numbers, however many replicas and processes ----------------------------------------


BOTH = {"DECAYS": "coupled decoupled clipped", "VALIDATION": "17"}
ALONE = {"DECAYS": "coupled decoupled clipped none unspared unclipped", "VALIDATION": "17"}
JAX = {"KERAS_BACKEND": "jax", "DECAYS": "coupled decoupled", "VALIDATION": "16"}
SPLIT = ["--virtual_devices=2"]
MIRRORED = ["--strategy=mirrored", *SPLIT]

# Each way of training returns its processes' exit codes, what they printed, and their errors.
WAYS = {
    "one": lambda folder: launch([([*WORKER, folder], ALONE)]),
    "mirrored": lambda folder: launch([([*WORKER, folder, *MIRRORED], BOTH)]),
    "jax_one": lambda folder: launch([([*WORKER, folder], JAX)]),
    "jax_mirrored": lambda folder: launch([([*WORKER, folder, *MIRRORED], JAX)]),
    "workers": lambda folder: cluster_of_two([*WORKER, folder], environment=(BOTH, BOTH)),
    "devices": lambda folder: cluster_of_two([*WORKER, folder, *SPLIT], environment=(BOTH, BOTH)),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains in one way, if nobody has; returns the folder, and what the processes printed.

    Once for all processes of pytest-xdist.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def train(way):
        folder, printed = shared / "trained" / way, shared / f"trained_{way}.json"
        with files.locked(shared / f"trained_{way}.lock", wait=True):
            if not printed.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                printed.write_text(json.dumps([out for _, out, _ in check(WAYS[way](folder))]))
        return folder, json.loads(printed.read_text())

    return train


def result(folder, decay, worker=0):
    with np.load(folder / str(worker) / f"{decay}.npz") as archive:
        weights = [archive[name].astype("float64") for name in archive.files]
    return json.loads((folder / str(worker) / f"{decay}.json").read_text()), weights


def distance(one, other):
    """The largest relative distance of two lists of arrays."""
    pairs = zip(one, other, strict=True)
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30) for a, b in pairs)


@pytest.mark.parametrize(
    ("decays", "one", "name", "workers", "replicas"),
    [
        pytest.param("coupled decoupled clipped", "one", "mirrored", 1, 2, marks=SLOW),
        pytest.param("coupled decoupled clipped", "one", "workers", 2, 2, marks=SLOW),
        pytest.param("coupled decoupled clipped", "one", "devices", 2, 4, marks=SLOW),
        pytest.param("coupled decoupled", "jax_one", "jax_mirrored", 1, 2, marks=SLOW),
    ],
)
def test_losses_and_weights_are_those_of_one_replica(trained, decays, one, name, workers, replicas):
    (alone_folder, _), (folder, _) = trained(one), trained(name)
    for decay, worker in itertools.product(decays.split(), range(workers)):
        alone, alone_weights = result(alone_folder, decay)
        here, weights = result(folder, decay, worker)
        assert (here["workers"], here["replicas"]) == (workers, replicas)
        assert len(here["losses"]) == 20
        np.testing.assert_allclose(here["losses"], alone["losses"], rtol=1e-4)
        assert distance(alone_weights, weights) < 1e-4
        assert set(here["history"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        for key, values in alone["history"].items():
            np.testing.assert_allclose(here["history"][key], values, rtol=1e-4)


@SLOW
def test_the_comparison_would_see_a_decay_or_a_clipping_that_is_lost(trained):
    folder, _ = trained("one")
    results = {d: result(folder, d)[1] for d in ("coupled", "none", "decoupled", "unspared")}
    assert distance(results["coupled"], results["none"]) > 0.1
    assert distance(results["decoupled"], results["unspared"]) > 0.1


@pytest.mark.slow
def test_the_chief_alone_writes_and_prints(trained):
    workers, (chief, worker) = trained("workers")
    assert re.search("10/10 .* val_loss", chief)
    assert worker == "Worker 1 of 2; worker 0 prints and writes.\n"
    for folder in (workers, trained("devices")[0]):
        assert result(folder, "coupled", 0)[0]["written"] == ["coupled.csv", "coupled.keras"]
        assert result(folder, "coupled", 1)[0]["written"] == []


@pytest.mark.slow
def test_workers_that_start_from_other_weights_are_stopped(trained):
    folder, _ = trained("workers")
    for worker in ("0", "1"):
        error = (folder / worker / "error").read_text()
        assert error.startswith("the workers disagree about logits/bias: [")


@pytest.mark.slow
def test_nothing_is_left_on_the_model(trained):
    for name in ("mirrored", "workers"):
        here, _ = result(trained(name)[0], "clipped")
        assert here["synchronized"] is False and here["left_on_optimizer"] == []


@pytest.mark.slow
def test_what_is_distributed_is_told_at_the_start(trained):
    [one], [mirrored], [chief, _] = (trained(way)[1] for way in ("one", "mirrored", "workers"))
    assert one.startswith("Strategy none: 1 replica in 1 process, here on ")
    assert mirrored.startswith("Strategy mirrored: 2 replicas in 1 process, here on CPU:0, CPU:1\n")
    assert "Strategy multi_worker: 2 replicas in 2 processes, here on CPU:0\n" in chief
    for text in (mirrored, chief):
        assert "global batch 8 = 2 x 4" in text and "learning rate and decay: for the" in text


# --- killed, and resumed --------------------------------------------------------------------------

# Kills its process without warning after the 4th batch of the 2nd epoch.
KILL = """
import os, runpy, signal, sys
sys.path.insert(0, ".")
import examples.core.quiet
from examples.core import callbacks

class Killed(callbacks.SaveProgress):
    def on_train_batch_end(self, batch, logs=None):
        if (len(self._progress.rows), batch) == (1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        super().on_train_batch_end(batch, logs)

callbacks.SaveProgress = Killed
sys.argv = sys.argv[1:]
runpy.run_module("examples.train_resnet", run_name="__main__")
"""


def read_checkpoint(folder):
    with np.load(folder / "checkpoint.npz") as archive:
        arrays = dict(archive)
    return json.loads(arrays.pop("header").tobytes())["progress"]["rows"], arrays


@pytest.mark.slow
def test_a_run_resumes_exactly_after_a_worker_was_killed(tmp_path):
    """Each worker reads files of its own; together they are one, also after a death."""
    photos.make(str(tmp_path), images=120, shards=4, sides=(20, 40))
    flags = [f"--data_dir={tmp_path}", *RESNET[1:], "--limit_examples=0", "--dataset=photos"]
    flags += ["--image_size=16", "--batch_size=16", "--validation_split=none", "--epochs=2"]
    flags += ["--checkpoint_steps=2"]

    def run(name, *, victim=False):
        ports = free_ports(2)
        more = [*flags, f"--output_dir={tmp_path / name}"]
        more += ["--strategy=multi_worker", "--cluster_timeout=300"]
        commands = []
        for index in (0, 1):
            script = ["-c", KILL, RESNET[0]] if victim and index == 1 else [RESNET[0]]
            commands.append(([*script, *more], {"TF_CONFIG": tf_config(ports, index)}))
        return launch(commands)

    check(launch([([RESNET[0], *flags, f"--output_dir={tmp_path / 'alone'}"], {})]))
    whole = check(run("whole"))
    (chief, _, errors), (victim, *_) = run("killed", victim=True)
    assert victim == -signal.SIGKILL
    assert chief == 2 and re.search("error: another worker was lost .* resumes", errors)
    rows, arrays = read_checkpoint(tmp_path / "killed")
    assert len(rows) == 1
    resumed = check(run("killed"))
    assert "Resuming after epoch 1 of 2, step 2 of 6 of the next." in resumed[0][1]
    assert "Resuming" not in whole[0][1]
    expected_rows, expected = read_checkpoint(tmp_path / "whole")
    rows, arrays = read_checkpoint(tmp_path / "killed")
    assert len(rows) == 2 and rows == expected_rows
    assert arrays.keys() == expected.keys() and len(arrays) > 30
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    metrics = json.loads((tmp_path / "killed" / "metrics.json").read_text())
    assert metrics["distribution"]["workers"] == 2
    # Rounding grows from step to step; another order of examples would tell at once.
    [loss, _] = [row["loss"] for row in read_checkpoint(tmp_path / "alone")[0]]
    assert loss == pytest.approx(expected_rows[0]["loss"], rel=2e-3)


# --- who does not come ----------------------------------------------------------------------------


@pytest.mark.slow
def test_who_never_comes_is_named_in_time(tmp_path):
    ports, other = free_ports(3), free_ports(2)
    tpu = ["--strategy=tpu", f"--tpu=grpc://127.0.0.1:{ports[2]}"]

    def flags(name):
        return [*RESNET, f"--output_dir={tmp_path / name}", "--cluster_timeout=3"]

    workers = [*flags("workers"), "--strategy=multi_worker"]
    ended = launch(
        [
            (workers, {"TF_CONFIG": tf_config(ports[:2], 0)}),
            (workers, {"TF_CONFIG": tf_config(other, 1)}),
            ([*flags("tpu"), *tpu], {}),
        ]
    )
    (_, _, chief), (_, _, worker), (_, _, no_tpu) = ended
    assert [code for code, *_ in ended] == [2, 2, 2]
    assert f"error: worker 1 (127.0.0.1:{ports[1]}) did not come within 3 s; start every" in chief
    assert f"error: worker 0 at 127.0.0.1:{other[0]} did not answer within 3 s; start it" in worker
    assert re.search(r"error: no TPU answer(ed|s) to --tpu=grpc://127.0.0.1:", no_tpu)
    assert not (tmp_path / "workers").exists()  # Nothing was claimed, or cleared.


def meet_all(number, *, topics=("topic",), timeout=20.0, missing=()):
    """Lets threads meet; returns what each was told in the last meeting, or its error."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    told = {}

    def go(index):
        try:
            for topic in topics:
                told[index] = rendezvous.meet(
                    addresses, index, topic, f"{topic} {index}", timeout=timeout
                )
        except UsageError as error:
            told[index] = str(error)

    threads = [threading.Thread(target=go, args=(i,)) for i in range(number) if i not in missing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_all_hear_what_all_say():
    told = meet_all(4, topics=("first", "second"))
    assert told == {i: ["second 0", "second 1", "second 2", "second 3"] for i in range(4)}


def test_all_who_came_hear_who_did_not():
    told = meet_all(4, timeout=1.0, missing=(1, 3))
    assert set(told) == {0, 2}
    assert re.match(r"worker 1 \(127.0.0.1:\d+\), worker 3 \(127.0.0.1:\d+\) did not", told[0])
    assert told[2].startswith("worker 1, worker 3 did not come within 1 s")


def test_a_guest_that_makes_no_sense_is_ignored():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    told = []
    host = threading.Thread(
        target=lambda: told.append(rendezvous.meet(addresses, 0, "t", "a", timeout=20))
    )
    host.start()
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b'{"index": 9}\n', b""):
        while True:
            with contextlib.suppress(ConnectionError):
                with socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1]))) as c:
                    c.sendall(junk)
                break
    assert rendezvous.meet(addresses, 1, "t", "b", timeout=20) == ["a", "b"]
    host.join()
    assert told == [["a", "b"]]


def test_workers_must_have_the_same_flags():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    errors = {}

    def go(index):
        with pytest.raises(UsageError) as error:
            opening.agree(addresses, index, "runs/a", {"seed": index, "b": 1}, True, 20)
        errors[index] = str(error.value)

    threads = [threading.Thread(target=go, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = "start all workers with the same flags: --seed is 0 on worker 0 and 1 on worker 1"
    assert errors == {0: expected, 1: expected}


@pytest.mark.parametrize(
    ("devices", "jit_compile", "message"),
    [
        ({"virtual_devices": 2}, False, "needs --strategy=mirrored or multi_worker"),
        ({"strategy": "multi_worker"}, True, "--jit_compile=yes does not work with"),
    ],
)
def test_flags_that_cannot_go_together_are_refused(devices, jit_compile, message):
    with pytest.raises(UsageError, match=message):
        with opening.open_run(
            "nowhere",
            {"batch_size": 8},
            resume=True,
            devices=ClusterSettings(**devices),
            jit_compile=jit_compile,
        ):
            pass
    assert not Path("nowhere").exists()


def test_jax_is_not_given_a_batch_that_it_cannot_share():
    batches = tf.data.Dataset.range(10).batch(4)
    check_that_jax_can_share(batches, 2)
    with pytest.raises(UsageError, match=r"multiple of the 4 devices.*got one of 2"):
        check_that_jax_can_share(batches, 4)


# --- who is who -----------------------------------------------------------------------------------


def test_members_of_tf_config_begin_with_the_chief(monkeypatch):
    cluster = {"worker": ["b:1", "c:2"], "chief": ["a:3"]}
    for task, number in ((("chief", 0), 0), (("worker", 0), 1), (("worker", 1), 2)):
        value = {"cluster": cluster, "task": {"type": task[0], "index": task[1]}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(value))
        _, addresses, index = members("multi_worker")
        assert (addresses, index) == (["a:3", "b:1", "c:2"], number)


def test_members_of_a_slurm_step(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[07-08]")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x2)")
    _, addresses, index = members("multi_worker")
    assert addresses == ["node07:8888", "node07:8889", "node08:8888", "node08:8889"]
    assert index == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "needs TF_CONFIG in the environment"),
        ("{", "TF_CONFIG cannot be read"),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}, "task 'ps' 0"),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}, "number 1; the"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 1}}, "differ"),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch, config, message):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    text = config if isinstance(config, str) else json.dumps(config or {})
    monkeypatch.setenv("TF_CONFIG", "" if config is None else text)
    with pytest.raises(UsageError, match=message):
        members("multi_worker")


# --- distributed_fit ------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 100)


def small_model(**options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    y = layers.BatchNormalization()(layers.Dense(8)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.3)(y)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics=["accuracy"], **options)
    return model


class Calls(keras.callbacks.Callback):
    """Every call of a callback, with its logs."""

    def __init__(self):
        super().__init__()
        self.calls = []
        for name in dir(keras.callbacks.Callback):
            if re.fullmatch("on_.*_(begin|end)", name) and "predict" not in name:
                setattr(self, name, lambda *a, name=name, **k: self._note(name, *a, *k.values()))

    def _note(self, name, *arguments):
        plain = [
            {k: float(v) for k, v in a.items()} if isinstance(a, dict) else a for a in arguments
        ]
        self.calls.append((name, [a for a in plain if a]))


@pytest.mark.one_in(2)
@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 3},
        {"epochs": 3, "steps_per_epoch": 3, "validation_steps": 2},
        {"epochs": 4, "initial_epoch": 1, "validation_freq": 2},
        {"epochs": 4, "validation_freq": [1, 4], "steps_per_epoch": 9},
    ],
)
@pytest.mark.parametrize("options", [{"jit_compile": False}, {"run_eagerly": True}])
def test_one_replica_does_what_fit_does(arguments, options):
    if options.get("run_eagerly"):
        arguments = arguments | {"epochs": 2, "initial_epoch": 0}
    ends = []
    for fit in (keras.Model.fit, distribute.distributed_fit):
        model, calls = small_model(**options), Calls()
        # Shuffled anew in each epoch.
        data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(100, seed=1).batch(16)
        validation = tf.data.Dataset.from_tensor_slices((X, Y)).batch(30)
        history = fit(
            model, data, validation_data=validation, verbose=0, callbacks=[calls], **arguments
        )
        variables = [*model.variables, *model.optimizer.variables]
        ends.append((history.history, history.epoch, calls.calls, [v.numpy() for v in variables]))
    (history, epochs, calls, weights), (h, e, c, w) = ends
    assert (h, e) == (history, epochs)
    assert [name for name, _ in c] == [name for name, _ in calls] and len(calls) > 20
    assert c == calls
    for array, expected in zip(w, weights, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_early_stopping_and_a_custom_step_work_as_in_fit():
    class Custom(keras.Model):
        def train_step(self, data):
            return {"own": 2.0 + 0.0 * super().train_step(data)["loss"]}

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        inputs = keras.Input((4,))
        model = Custom(inputs, layers.Dense(3)(inputs))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stop = keras.callbacks.EarlyStopping("own", mode="min", patience=2)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    history = distribute.distributed_fit(model, data, epochs=9, verbose=0, callbacks=[stop])
    assert history.history == {"own": [2.0, 2.0, 2.0]}


def share(size, batch, replicas, pipelines, even):
    """What the replicas get of 0, 1, ..., size - 1."""
    data = tf.data.Dataset.range(size).batch(batch)
    parts = []
    for pipeline in range(pipelines):
        context = tf.distribute.InputContext(pipelines, pipeline, replicas)
        dataset = distribute._share(data, context, "x", even)
        parts.append([element.numpy().tolist() for element in dataset])
    return parts


def test_replicas_share_the_global_batch():
    assert share(8, 4, 4, 2, even=True) == [[[0], [1], [4], [5]], [[2], [3], [6], [7]]]
    assert share(8, 4, 2, 2, even=True) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert share(6, 4, 2, 1, even=True) == [[[0, 1], [2, 3], [4], [5]]]
    assert share(6, 5, 2, 2, even=False) == [[[0, 1], []], [[2, 3, 4], [5]]]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of the 2 replicas"):
        share(5, 4, 2, 1, even=True)
    data = tf.data.Dataset.range(9).batch(3, drop_remainder=True)
    context = tf.distribute.InputContext(1, 0, 2)
    with pytest.raises(ValueError, match=r"multiple of the 2 replicas.*got batches of 3"):
        distribute._share(data, context, "x", True)
    scalars = tf.data.Dataset.range(9)
    with pytest.raises(TypeError, match="dense tensors with a batch axis"):
        distribute._share(scalars, context, "x", True)


def test_a_function_makes_the_batches_of_a_replica():
    seen = []

    def make(context):
        seen.append(context.num_replicas_in_sync)
        return tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = small_model()
    history = distribute.distributed_fit(model, make, steps_per_epoch=5, epochs=2, verbose=0)
    assert history.epoch == [0, 1] and seen == [1]
    assert model.optimizer.iterations.numpy() == 10


def test_data_that_runs_out_is_told():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(25)
    with pytest.warns(UserWarning, match="ran out of data after 4 of 6 steps"):
        distribute.distributed_fit(small_model(), data, steps_per_epoch=6, verbose=0)
    model = small_model()
    unknown = data.filter(lambda x, y: True)  # of a length that is known only at its end
    distribute.distributed_fit(model, unknown, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 8


def test_wrong_arguments_are_refused():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    with pytest.raises(TypeError, match=r"`x` must be a tf.data.Dataset.*got ndarray"):
        distribute.distributed_fit(small_model(), X)
    with pytest.raises(TypeError, match="`validation_data` must be"):
        distribute.distributed_fit(small_model(), data, validation_data=(X, Y))
    with pytest.raises(ValueError, match="steps_per_execution=2"):
        distribute.distributed_fit(small_model(steps_per_execution=2), data)
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="not compiled"):
        distribute.distributed_fit(keras.Model(inputs, layers.Dense(3)(inputs)), data)
    model = small_model()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        with pytest.raises(ValueError, match="/kernel was created outside of"):
            distribute.distributed_fit(model, data)


def test_a_worker_restores_but_does_not_write(tmp_path):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(25)
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)
    model = small_model()
    model.fit(data, epochs=2, verbose=0, callbacks=[backup])
    saved = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    callbacks = distribute._without_writing([backup, [log, keras.callbacks.TerminateOnNaN()]])
    fresh = small_model()
    history = distribute.distributed_fit(fresh, data, epochs=5, verbose=0, callbacks=callbacks)
    assert history.epoch == [2, 3, 4]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == saved


@SLOW
def test_another_backend_is_told():
    code = (
        "import keras\n"
        "from keras_gamma import distribute\n"
        "print(distribute.is_chief())\n"
        "distribute.distributed_fit(keras.Sequential(), None)"
    )
    [(_, printed, errors)] = launch([(["-c", code], {"KERAS_BACKEND": "jax"})])
    assert printed == "True\n"
    assert "RuntimeError: distributed_fit needs Keras on TensorFlow" in errors


@SLOW
def test_the_documents_script_runs_as_it_stands(tmp_path):
    text = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = f"import os\nos.chdir({str(tmp_path)!r})\n{code}"
    [(_, printed, _)] = check(launch([(["-c", code], {"PYTHONPATH": str(ROOT)})]))
    assert "Epoch 2/2" in printed and (tmp_path / "model.keras").exists()


# --- plans on distributed variables ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_plans_work_in_and_out_of_the_scope(inside):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="stem")(inputs)
        y = layers.LayerNormalization(name="norm")(layers.Dense(4, name="branch")(x))
        model = keras.Model(inputs, layers.Dense(1, name="out")(layers.Add()([x, y])))
        optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    assert isinstance(model.get_layer("norm").gamma.value, tf.distribute.DistributedValues)
    with strategy.scope() if inside else contextlib.nullcontext():
        roles = {entry.path: str(entry.role) for entry in keras_gamma.find_roles(model)}
        assert roles == {"norm/gamma": "residual_last"}
        plan = keras_gamma.apply_guidelines(model, l2=0.25, guidelines="residual_last=1")
        assert model.get_layer("norm").gamma.regularizer.l2 == 0.25
        plan.remove()
        assert model.get_layer("norm").gamma.regularizer is None
        keras_gamma.exclude_from_weight_decay(optimizer, model, guidelines="none")
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    strategy.run(lambda: optimizer.apply(zeros, model.trainable_variables))
    shrunk = {v.path for v in model.trainable_variables if (v.numpy() != before[v.path]).any()}
    assert shrunk == {"stem/kernel", "branch/kernel", "out/kernel"}
    for path in shrunk:
        variable = next(v for v in model.trainable_variables if v.path == path)
        np.testing.assert_allclose(variable.numpy(), 0.95 * before[path], rtol=1e-6)


# --- throughput -----------------------------------------------------------------------------------


def test_a_pipeline_that_holds_training_back_is_told():
    assert throughput.compare(5000.0, 3000, 3.0) == (
        "input pipeline by itself 5,000 examples/s, training 1,000 examples/s"
    )
    slow = throughput.compare(1100.0, 3000, 3.0)
    assert slow.startswith("warning: ") and "holds training back" in slow
    filling = throughput.compare(None, 3000, 3.0)  # That buffers take a while says nothing.
    assert filling.startswith("training 1,000 examples/s; ") and "holds" not in filling


def test_a_pipeline_is_not_waited_for():
    over = threading.Event()

    def wait():
        over.wait(60)
        yield np.zeros(2)

    dataset = tf.data.Dataset.from_generator(wait, output_signature=tf.TensorSpec((2,)))
    assert throughput.pipeline_rate(dataset, batch_size=2, seconds=0.1) is None
    assert not over.is_set()
    over.set()
    assert throughput.pipeline_rate(tf.data.Dataset.range(9), batch_size=2) > 0


def test_the_report_comes_once(capsys):
    report = throughput.ThroughputReport(tf.data.Dataset.range(9).batch(2), 2, 4)
    for epoch, steps in enumerate((1, 3, 3)):
        report.on_epoch_begin(epoch)
        for step in range(steps):
            report.on_train_batch_end(step)
        report.on_epoch_end(epoch)
        assert capsys.readouterr().out.count("examples/s") == (2 if epoch == 1 else 0)
