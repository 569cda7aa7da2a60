"""Training on several devices and machines: everything that the training scripts know about it.

| `--strategy` | devices | by |
| --- | --- | --- |
| `none` | one | `fit` |
| `mirrored` | all of this machine | `MirroredStrategy` and `fit`; on JAX, `DataParallel` |
| `multi_worker` | all of several machines | `MultiWorkerMirroredStrategy`, `distributed_fit` |
| `tpu` | a TPU, by name | `TPUStrategy` and `fit` |

What a run computes does not depend on these, up to rounding: `--batch_size` is that of all
replicas together, replicas share the very batches that one device would get, and batch
normalization takes its statistics over all of them. So nothing needs to be scaled, the learning
rate least of all. Worker 0, the chief, writes and prints; the others only read.
"""

import contextlib
import dataclasses
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import tensorflow as tf
from absl import flags

from examples.cluster import rendezvous
from examples.core import run_state
from examples.core.cli import UsageError
from examples.core.throughput import ThroughputReport, pipeline_rate
from keras_gamma import distribute

_SLURM_PORT = 8888  # of the first task on a machine; the next ones count on
_MANY = 1 << 20  # tasks on a machine, at most


def define_distribution_flags() -> list[flags.FlagHolder]:
    """Defines where a run is carried out; none of these changes its result beyond rounding."""
    return [
        flags.DEFINE_enum(
            "strategy",
            "none",
            ["none", "mirrored", "multi_worker", "tpu"],
            "none: one device. mirrored: all devices of this machine. multi_worker: those of all "
            "machines in TF_CONFIG, or in the Slurm job. tpu: the TPU of --tpu.",
        ),
        flags.DEFINE_integer(
            "virtual_devices",
            0,
            "Split the CPU into so many devices (per worker), to try a strategy out; 0: do not.",
            lower_bound=0,
        ),
        flags.DEFINE_string(
            "tpu", "local", "The TPU: local on a TPU VM, else its name or grpc://host:port."
        ),
        flags.DEFINE_float(
            "cluster_timeout",
            300.0,
            "Seconds to wait for the other workers, or for the TPU, at the start.",
            lower_bound=0.0,
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The devices of a run, and this process's place among them."""

    kind: str
    devices: tuple[str, ...]  # of this worker
    strategy: tf.distribute.Strategy | None = None
    workers: int = 1
    index: int = 0
    replicas: int = 1
    batch_size: int = 0  # of all replicas together

    @property
    def is_chief(self) -> bool:
        """Whether this process writes and prints."""
        return self.index == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Where models are built and compiled."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def fit(self, model: keras.Model, batches: tf.data.Dataset, **arguments: Any) -> Any:
        """Trains on global batches, like `model.fit(batches, **arguments)`.

        The batches must be the same whenever they are iterated over (functions of a seed and of the
        epoch), for they are read once more, to measure the pipeline.

        Batch normalization is synchronized for as long as this takes; the saved model knows nothing
        of it. Tells, after an epoch, whether the input pipeline keeps up.
        """
        if keras.backend.backend() == "jax" and "validation_data" in arguments:
            _check_that_jax_can_share(arguments["validation_data"], self.replicas)
        if self.is_chief:
            rate = pipeline_rate(batches, batch_size=self.batch_size)
            report = ThroughputReport(rate, self.batch_size)
            arguments["callbacks"] = [*arguments.get("callbacks", ()), report]
        with _synchronized_batch_norm(model, self.strategy is not None and self.replicas > 1):
            if self.workers > 1:
                with _told_when_a_worker_is_lost():
                    return distribute.distributed_fit(model, batches, **arguments)
            with distribute.gradients_added_first(model):
                return model.fit(batches, shuffle=False, **arguments)

    def wait_for_all(self) -> None:
        """Returns when all workers have come here."""
        if self.workers > 1:
            self.strategy.reduce("SUM", tf.constant(1.0), axis=None)

    def describe(self) -> dict[str, Any]:
        """Returns what belongs in a report."""
        return {
            "strategy": self.kind,
            "backend": keras.backend.backend(),
            "workers": self.workers,
            "replicas": self.replicas,
            "devices_per_worker": list(self.devices),
        }

    def show(self) -> None:
        """Prints who does what."""
        print(
            f"Strategy {self.kind}: {self.replicas} replica{'s' * (self.replicas > 1)} in "
            f"{self.workers} process{'es' * (self.workers > 1)}, here on {', '.join(self.devices)}"
        )
        if self.replicas == 1:
            return
        print(
            f"  global batch {self.batch_size} = {self.replicas} x "
            f"{self.batch_size // self.replicas}, the "
            "same examples in the same order as on one device\n"
            "  learning rate and decay: for the global batch, not scaled\n"
            "  batch normalization: over the global batch\n"
            f"  seeds: the same for all; dropout draws {self._masks}\n"
            f"  checkpoints and logs: written by worker {self.index}, read by all",
            flush=True,
        )

    @property
    def _masks(self) -> str:
        on_jax = keras.backend.backend() == "jax"
        return "over the global batch" if on_jax else "the same mask on each replica"


@contextlib.contextmanager
def open_run(
    directory: str, settings: Mapping[str, Any], *, resume: bool
) -> Iterator[tuple[run_state.Run, Cluster]]:
    """Opens a run's folder, and the devices that `--strategy` asks for.

    Comes before anything else touches TensorFlow's devices. With several workers the chief opens
    the folder for writing, and the others wait until it has.

    Args:
        directory: of the run; shared between the machines.
        settings: what identifies the run, with `batch_size` among it.
        resume: whether to go on with a run that is there.

    Raises:
        UsageError: the devices cannot be had, a worker does not come, or the workers were not
            started with the same flags.
    """
    values = flags.FLAGS
    _check_flags(values)
    resolver, addresses, index = _members(values.strategy)
    if addresses:
        _agree(addresses, index, directory, settings, resume, values.cluster_timeout)
    with contextlib.ExitStack() as stack:
        error, run = "", None
        if index == 0:
            try:
                run = stack.enter_context(run_state.open_run(directory, settings, resume=resume))
            except UsageError as reason:
                error = str(reason)
                if not addresses:
                    raise
        if addresses:
            told = rendezvous.meet(
                addresses, index, "folder", error, timeout=values.cluster_timeout
            )
            if told[0]:
                raise UsageError(told[0])
        if run is None:
            run = run_state.ReadOnlyRun(Path(directory).expanduser(), settings)
            print(f"Worker {index} of {len(addresses)}; worker 0 prints and writes.", flush=True)
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        cluster = stack.enter_context(
            _devices(values, resolver, len(addresses), index, settings["batch_size"])
        )
        cluster.show()
        yield run, cluster
        cluster.wait_for_all()


def _check_flags(values: flags.FlagValues) -> None:
    """Refuses combinations that cannot work, before anything is touched."""
    if values.virtual_devices and values.strategy not in ("mirrored", "multi_worker"):
        raise UsageError(
            f"--virtual_devices={values.virtual_devices} needs --strategy=mirrored or multi_worker"
        )
    backend = keras.backend.backend()
    backends = ("tensorflow", "jax") if values.strategy == "mirrored" else ("tensorflow",)
    if values.strategy != "none" and backend not in backends:
        raise UsageError(
            f"--strategy={values.strategy} needs KERAS_BACKEND={' or '.join(backends)}; Keras runs "
            f"on {backend}"
        )
    if values.strategy == "multi_worker" and getattr(values, "jit_compile", False):
        raise UsageError("--jit_compile does not work with --strategy=multi_worker; leave it out")


def _members(
    strategy: str,
) -> tuple[tf.distribute.cluster_resolver.ClusterResolver | None, list[str], int]:
    """Returns the resolver of the workers, their addresses, the chief's first, and our index."""
    if strategy != "multi_worker":
        return None, [], 0
    resolvers = tf.distribute.cluster_resolver
    if os.environ.get("TF_CONFIG"):
        try:
            resolver = resolvers.TFConfigClusterResolver()
            jobs = resolver.cluster_spec().as_dict()
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"TF_CONFIG cannot be read ({error}); see docs/distributed.md") from (
                error
            )
    elif "SLURM_PROCID" in os.environ:
        try:
            slurm = resolvers.SlurmClusterResolver(
                port_base=_SLURM_PORT,
                # Only its addresses are asked for. TensorFlow takes the GPUs that Slurm lets a
                # task see (--gpus-per-task), instead of counting with nvidia-smi.
                auto_set_gpu=False,
                gpus_per_node=_MANY,
                gpus_per_task=1,
            )
            spec = slurm.cluster_spec()
            resolver = resolvers.SimpleClusterResolver(
                spec,
                task_type=slurm.task_type,
                task_id=slurm.task_id,
                num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
                rpc_layer="grpc",
            )
            jobs = spec.as_dict()
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"the Slurm job cannot be read: {error}; start with srun") from error
    else:
        raise UsageError(
            "--strategy=multi_worker needs TF_CONFIG in the environment, the same on all workers "
            "but for its index, or a Slurm job step (srun); see docs/distributed.md"
        )
    task, number = resolver.task_type, resolver.task_id
    if not set(jobs) <= {"chief", "worker"} or task not in jobs or number is None:
        raise UsageError(
            "TF_CONFIG must list addresses of `worker` (and perhaps one of `chief`), and say which "
            f"of them this process is; got jobs {sorted(jobs)} and task {task!r} {number!r}"
        )
    addresses = [*jobs.get("chief", ()), *jobs.get("worker", ())]
    index = number + (len(jobs.get("chief", ())) if task == "worker" else 0)
    if not 0 <= index < len(addresses) or len(set(addresses)) < len(addresses):
        raise UsageError(
            f"TF_CONFIG lists the addresses {addresses} and says that this is number {index}; the "
            "addresses must differ, and the number count them from 0"
        )
    return resolver, addresses, index


def _agree(
    addresses: list[str],
    index: int,
    directory: str,
    settings: Mapping[str, Any],
    resume: bool,
    timeout: float,
) -> None:
    """Waits for all workers; raises if they were not started with the same flags."""
    mine = {**settings, "resume": resume, "output_dir": directory}
    if index == 0:
        print(f"Waiting for {len(addresses) - 1} other workers, at {addresses[0]} ...", flush=True)
    said = rendezvous.meet(addresses, index, "settings", json.dumps(mine), timeout=timeout)
    chiefs = json.loads(said[0])
    for number, message in enumerate(said):
        theirs = json.loads(message)
        names = sorted(chiefs.keys() | theirs.keys())
        different = [name for name in names if chiefs.get(name) != theirs.get(name)]
        if different:
            changes = ", ".join(
                f"--{name} is {chiefs.get(name)!r} on worker 0 and {theirs.get(name)!r} on worker "
                f"{number}"
                for name in different
            )
            raise UsageError(f"start all workers with the same flags: {changes}")


@contextlib.contextmanager
def _devices(
    values: flags.FlagValues,
    resolver: tf.distribute.cluster_resolver.ClusterResolver | None,
    workers: int,
    index: int,
    batch_size: int,
) -> Iterator[Cluster]:
    """Opens the devices of this process."""
    if keras.backend.backend() == "jax" and values.strategy == "mirrored":
        cluster, scope = _open_jax(values.virtual_devices)
    else:
        cluster = _open_tensorflow(values, resolver, max(workers, 1), index)
        scope = contextlib.nullcontext()
    if batch_size % cluster.replicas:
        raise UsageError(
            f"--batch_size={batch_size} is that of all replicas together, and must be a multiple "
            f"of their number, {cluster.replicas}"
        )
    with scope:
        yield dataclasses.replace(cluster, batch_size=batch_size)


def _open_jax(virtual_devices: int) -> tuple[Cluster, contextlib.AbstractContextManager]:
    import jax

    if virtual_devices:
        try:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", virtual_devices)
        except RuntimeError as error:
            raise UsageError(
                f"--virtual_devices={virtual_devices} comes too late: JAX runs already ({error})"
            ) from error
    devices = tuple(keras.distribution.list_devices())
    parallel = keras.distribution.DataParallel(devices=list(devices))
    return Cluster("mirrored", devices, replicas=len(devices)), parallel.scope()


def _open_tensorflow(
    values: flags.FlagValues,
    resolver: tf.distribute.cluster_resolver.ClusterResolver | None,
    workers: int,
    index: int,
) -> Cluster:
    if values.virtual_devices:
        _split_cpu(values.virtual_devices)
    if values.strategy == "none":
        return Cluster("none", (_local_devices()[0],))
    if values.strategy == "mirrored":
        strategy = tf.distribute.MirroredStrategy(_local_devices())
    elif values.strategy == "multi_worker":
        with _virtual_worker_devices(values.virtual_devices):
            strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    else:
        strategy = _connect_tpu(values.tpu, values.cluster_timeout)
    return Cluster(
        values.strategy,
        tuple(d.rpartition("device:")[2] for d in strategy.extended.worker_devices),
        strategy,
        workers,
        index,
        strategy.num_replicas_in_sync,
    )


def _local_devices() -> list[str]:
    """Returns the names of the GPUs, or of the CPU's devices where there are none."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name.rpartition("device:")[2] for device in devices]


def _split_cpu(devices: int) -> None:
    """Makes several devices of the CPU, and hides the others."""
    try:
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * devices,
        )
    except RuntimeError as error:
        raise UsageError(
            f"--virtual_devices={devices} comes too late: TensorFlow runs already ({error})"
        ) from error


def _virtual_worker_devices(devices: int) -> contextlib.AbstractContextManager:
    """Lets a worker use all of its virtual CPU devices; TensorFlow itself would use the first.

    The one private name of TensorFlow's; nothing but `--virtual_devices` depends on it.
    """
    if not devices:
        return contextlib.nullcontext()
    from tensorflow.python.distribute import collective_all_reduce_strategy as module

    def local_devices(self, resolver, worker):
        return tuple(f"{worker}/device:CPU:{number}" for number in range(devices)), "CPU"

    return mock.patch.object(
        module.CollectiveAllReduceExtended, "_initialize_local_devices", local_devices
    )


def _connect_tpu(name: str, timeout: float) -> tf.distribute.Strategy:
    """Connects to a TPU by its name, within a time: TensorFlow itself may try for ever."""
    done: dict[str, Any] = {}

    def connect():
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
            if name != "local":
                tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            done["strategy"] = tf.distribute.TPUStrategy(resolver)
        except Exception as error:  # of many kinds: cloud, network, TensorFlow
            done["error"] = error

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    if "strategy" in done:
        return done["strategy"]
    hint = "pass its name as --tpu (local on a TPU VM), and see docs/distributed.md"
    if error := done.get("error"):
        lines = str(error).strip().splitlines() or [""]
        raise UsageError(
            f"no TPU answers to --tpu={name} ({type(error).__name__}: {lines[0]}); {hint}"
        ) from error
    raise UsageError(f"no TPU answered to --tpu={name} within {timeout:g} s; {hint}")


def _check_that_jax_can_share(batches: tf.data.Dataset, replicas: int) -> None:
    """Raises unless all batches can be shared out evenly; JAX takes no others."""
    sizes = {len(tf.nest.flatten(batch)[0]) for batch in batches} if replicas > 1 else set()
    if odd := sorted(size for size in sizes if size % replicas):
        raise UsageError(
            f"on JAX every batch must be a multiple of the {replicas} devices, also in evaluation; "
            f"got one of {odd[0]}. Choose --eval_batch_size, or the number of devices, so that the "
            "last batch is one, too"
        )


@contextlib.contextmanager
def _told_when_a_worker_is_lost() -> Iterator[None]:
    """Says in one line that another process died, or its machine, or the network."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise UsageError(
            f"another worker was lost ({type(error).__name__}); start all workers again with the "
            "same command, and the run resumes after its last whole epoch"
        ) from error


@contextlib.contextmanager
def _synchronized_batch_norm(model: keras.Model, wanted: bool) -> Iterator[None]:
    """Lets batch normalization see the global batch, and puts its setting back afterwards."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if wanted and isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.synchronized for layer in layers]
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.synchronized = value
