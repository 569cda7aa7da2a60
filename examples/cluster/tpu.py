"""A TPU, by its name."""

import threading
from typing import Any

import tensorflow as tf

from examples.core.cli import UsageError


def connect_tpu(name: str, timeout: float) -> tf.distribute.Strategy:
    """Connects to a TPU by its name, within a time: TensorFlow itself may try for ever.

    Raises:
        UsageError: no TPU answers.
    """
    done: dict[str, Any] = {}

    def connect() -> None:
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
        strategy: tf.distribute.Strategy = done["strategy"]
        return strategy
    hint = "pass its name as --tpu (local on a TPU VM), and see docs/distributed.md"
    if error := done.get("error"):
        lines = str(error).strip().splitlines() or [""]
        raise UsageError(
            f"no TPU answers to --tpu={name} ({type(error).__name__}: {lines[0]}); {hint}"
        ) from error
    raise UsageError(f"no TPU answered to --tpu={name} within {timeout:g} s; {hint}")
