"""The devices of this process: TensorFlow's or JAX', real ones or parts of the CPU."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

import keras
import tensorflow as tf

from examples.cluster.cluster import Cluster
from examples.cluster.members import Resolver
from examples.cluster.settings import ClusterSettings
from examples.cluster.tpu import connect_tpu
from examples.core.cli import UsageError


@contextlib.contextmanager
def open_devices(
    settings: ClusterSettings,
    resolver: Resolver | None,
    workers: int,
    index: int,
    batch_size: int,
) -> Iterator[Cluster]:
    """Opens the devices of this process.

    Args:
        settings: which.
        resolver: of the workers; `None` for one.
        workers: number of processes; 0 counts as 1.
        index: which of them this is.
        batch_size: of all replicas together.

    Raises:
        UsageError: they cannot be had, or cannot share the batch.
    """
    if keras.backend.backend() == "jax" and settings.strategy == "mirrored":
        cluster, scope = _open_jax(settings.virtual_devices)
    else:
        cluster = _open_tensorflow(settings, resolver, max(workers, 1), index)
        scope = contextlib.nullcontext()
    if batch_size % cluster.replicas:
        raise UsageError(
            f"--batch_size={batch_size} is that of all replicas together, and must be a multiple "
            f"of their number, {cluster.replicas}"
        )
    with scope:
        yield dataclasses.replace(cluster, batch_size=batch_size)


def _open_jax(virtual_devices: int) -> tuple[Cluster, contextlib.AbstractContextManager[Any]]:
    import jax

    if virtual_devices:
        try:
            jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
            jax.config.update("jax_num_cpu_devices", virtual_devices)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise UsageError(
                f"--virtual_devices={virtual_devices} comes too late: JAX runs already ({error})"
            ) from error
    devices = tuple(keras.distribution.list_devices())
    parallel = keras.distribution.DataParallel(devices=list(devices))
    return Cluster("mirrored", devices, replicas=len(devices)), parallel.scope()


def _open_tensorflow(
    settings: ClusterSettings,
    resolver: Resolver | None,
    workers: int,
    index: int,
) -> Cluster:
    if settings.virtual_devices:
        _split_cpu(settings.virtual_devices)
    if settings.strategy == "none":
        return Cluster("none", (_local_devices()[0],))
    if settings.strategy == "mirrored":
        strategy = tf.distribute.MirroredStrategy(_local_devices())
    elif settings.strategy == "multi_worker":
        with _virtual_worker_devices(settings.virtual_devices):
            strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    else:
        strategy = connect_tpu(settings.tpu, settings.cluster_timeout)
    return Cluster(
        settings.strategy,
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


def _virtual_worker_devices(devices: int) -> contextlib.AbstractContextManager[Any]:
    """Lets a worker use all of its virtual CPU devices; TensorFlow itself would use the first.

    The one private name of TensorFlow's; nothing but `--virtual_devices` depends on it.
    """
    if not devices:
        return contextlib.nullcontext()
    from tensorflow.python.distribute import collective_all_reduce_strategy as module

    def local_devices(self: Any, resolver: Any, worker: str) -> tuple[tuple[str, ...], str]:
        return tuple(f"{worker}/device:CPU:{number}" for number in range(devices)), "CPU"

    return mock.patch.object(
        module.CollectiveAllReduceExtended, "_initialize_local_devices", local_devices
    )
