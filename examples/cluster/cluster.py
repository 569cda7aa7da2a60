"""The devices of a run, and training on them."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from examples.cluster.batch_norm import synchronized_batch_norm
from examples.core.cli import UsageError
from examples.core.throughput import ThroughputReport
from keras_gamma import distribute


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

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where models are built and compiled."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def check(self, batches: tf.data.Dataset | None) -> None:
        """Refuses batches to evaluate on that the devices cannot share.

        Raises:
            UsageError: so it is.
        """
        if keras.backend.backend() == "jax" and batches is not None:
            check_that_jax_can_share(batches, self.replicas)

    def evaluated(self, batches: tf.data.Dataset | None) -> tf.data.Dataset | None:
        """Returns the same examples in batches of which each replica gets as many.

        From one that has more than others Keras cannot find out the shapes; only the last may.

        Raises:
            UsageError: there are fewer examples than replicas.
        """
        if batches is None or self.strategy is None or self.replicas == 1 or self.workers > 1:
            return batches
        rows = len(tf.nest.flatten(next(iter(batches)))[0])
        if rows < self.replicas:
            raise UsageError(
                f"{rows} examples to validate on cannot be shared by {self.replicas} devices; "
                "choose others with --validation_split"
            )
        return batches.rebatch(rows // self.replicas * self.replicas)

    def fit(
        self,
        model: keras.Model,
        batches: tf.data.Dataset,
        part: tf.data.Dataset | None = None,
        **arguments: Any,
    ) -> Any:
        """Trains on global batches, like `model.fit(batches, **arguments)`.

        The batches must be the same whenever they are iterated over (functions of a seed and of the
        epoch), for they are read once more, to measure the pipeline.

        Batch normalization is synchronized for as long as this takes; the saved model knows nothing
        of it. Tells, after an epoch, whether the input pipeline keeps up.

        Args:
            model: a compiled model.
            batches: the global batches.
            part: this worker's rows of them, if it can read these by themselves.
            **arguments: as of `fit`.
        """
        if self.is_chief:
            rows = self.batch_size // (self.workers if part else 1)
            report = ThroughputReport(part or batches, rows, self.batch_size)
            arguments["callbacks"] = [*arguments.get("callbacks", ()), report]
        with synchronized_batch_norm(model, self.strategy is not None and self.replicas > 1):
            if self.workers > 1:
                with _told_when_a_worker_is_lost():
                    return distribute.distributed_fit(
                        model, self._shared(batches, part), **arguments
                    )
            with distribute.gradients_added_first(model):
                return model.fit(batches, shuffle=False, **arguments)

    def _shared(self, batches: tf.data.Dataset, part: tf.data.Dataset | None) -> Any:
        """What `distributed_fit` trains on: each replica's batches, if a worker reads its own."""
        if part is None:
            return batches
        size = self.batch_size // self.replicas
        return lambda context: part.rebatch(size, drop_remainder=True)

    def wait_for_all(self) -> None:
        """Returns when all workers have come here."""
        if self.workers > 1 and self.strategy is not None:
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


def check_that_jax_can_share(batches: tf.data.Dataset, replicas: int) -> None:
    """Checks that all batches can be shared out evenly; JAX takes no others.

    Raises:
        UsageError: one cannot.
    """
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
            "same command, and the run resumes after its last checkpoint"
        ) from error
