"""Who takes part in a run on several machines: from TF_CONFIG, or from the Slurm job."""

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import tensorflow as tf

from examples.core.cli import UsageError

Resolver: TypeAlias = tf.distribute.cluster_resolver.ClusterResolver
Jobs: TypeAlias = Mapping[str, list[str]]

_SLURM_PORT = 8888  # of the first task on a machine; the next ones count on
_MANY = 1 << 20  # tasks on a machine, at most


def members(
    strategy: str,
) -> tuple[Resolver | None, list[str], int]:
    """Returns the resolver of the workers, their addresses, the chief's first, and our index.

    Raises:
        UsageError: the environment does not say who takes part, or says it wrongly.
    """
    if strategy != "multi_worker":
        return None, [], 0
    if os.environ.get("TF_CONFIG"):
        resolver, jobs = _tf_config()
    elif "SLURM_PROCID" in os.environ:
        resolver, jobs = _slurm()
    else:
        raise UsageError(
            "--strategy=multi_worker needs TF_CONFIG in the environment, the same on all workers "
            "but for its index, or a Slurm job step (srun); see docs/distributed.md"
        )
    addresses, index = _place(jobs, resolver.task_type, resolver.task_id)
    return resolver, addresses, index


def _tf_config() -> tuple[Resolver, Jobs]:
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return resolver, resolver.cluster_spec().as_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG cannot be read ({error}); see docs/distributed.md") from error


def _slurm() -> tuple[Resolver, Jobs]:
    resolvers = tf.distribute.cluster_resolver
    try:
        slurm = resolvers.SlurmClusterResolver(
            port_base=_SLURM_PORT,
            # Only its addresses are asked for. TensorFlow takes the GPUs that Slurm lets a task
            # see (--gpus-per-task), instead of counting with nvidia-smi.
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
        return resolver, spec.as_dict()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the Slurm job cannot be read: {error}; start with srun") from error


def _place(jobs: Jobs, task: Any, number: Any) -> tuple[list[str], int]:
    """Returns all addresses, the chief's first, and which of them is ours."""
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
    return addresses, index
