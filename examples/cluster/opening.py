"""A run on several devices and machines: what `--strategy` asks for.

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
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from examples.cluster import rendezvous
from examples.cluster.cluster import Cluster
from examples.cluster.devices import open_devices
from examples.cluster.members import members
from examples.cluster.settings import ClusterSettings
from examples.core import run_state
from examples.core.cli import UsageError
from examples.core.files import to_path
from examples.core.settings import differences


@contextlib.contextmanager
def open_run(
    directory: str,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    devices: ClusterSettings,
    jit_compile: bool = False,
) -> Iterator[tuple[run_state.Run, Cluster]]:
    """Opens a run's folder, and the devices that `--strategy` asks for.

    Comes before anything else touches TensorFlow's devices. With several workers the chief opens
    the folder for writing, and the others wait until it has.

    Args:
        directory: of the run; shared between the machines.
        settings: what identifies the run, with `batch_size` among it.
        resume: whether to go on with a run that is there.
        devices: which devices to use.
        jit_compile: whether XLA is asked for, which not every strategy can do.

    Raises:
        UsageError: the devices cannot be had, a worker does not come, or the workers were not
            started with the same flags.
    """
    devices.check(jit_compile=jit_compile)
    resolver, addresses, index = members(devices.strategy)
    timeout = devices.cluster_timeout
    if addresses:
        agree(addresses, index, directory, settings, resume, timeout)
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
            told = rendezvous.meet(addresses, index, "folder", error, timeout=timeout)
            if told[0]:
                raise UsageError(told[0])
        if run is None:
            run = run_state.ReadOnlyRun(to_path(directory), settings)
            print(f"Worker {index} of {len(addresses)}; worker 0 prints and writes.", flush=True)
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        cluster = stack.enter_context(
            open_devices(devices, resolver, len(addresses), index, settings["batch_size"])
        )
        cluster.show()
        yield run, cluster
        cluster.wait_for_all()


def agree(
    addresses: list[str],
    index: int,
    directory: str,
    settings: Mapping[str, Any],
    resume: bool,
    timeout: float,
) -> None:
    """Waits for all workers.

    Raises:
        UsageError: they were not started with the same flags.
    """
    mine = {**settings, "resume": resume, "output_dir": directory}
    if index == 0:
        print(f"Waiting for {len(addresses) - 1} other workers, at {addresses[0]} ...", flush=True)
    said = rendezvous.meet(addresses, index, "settings", json.dumps(mine), timeout=timeout)
    chiefs = json.loads(said[0])
    for number, message in enumerate(said):
        theirs = json.loads(message)
        if different := differences(chiefs, theirs):
            changes = ", ".join(
                f"--{name} is {here!r} on worker 0 and {there!r} on worker {number}"
                for name, here, there in different
            )
            raise UsageError(f"start all workers with the same flags: {changes}")
