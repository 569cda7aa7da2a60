"""Where a run is carried out, as settings; none changes its result beyond rounding."""

import dataclasses

import keras

from examples.core.cli import UsageError
from examples.core.settings import setting


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """Which devices a run uses."""

    strategy: str = setting(
        "none",
        "none: one device. mirrored: all devices of this machine. multi_worker: those of all "
        "machines in TF_CONFIG, or in the Slurm job. tpu: the TPU of --tpu.",
        choices=["none", "mirrored", "multi_worker", "tpu"],
    )
    virtual_devices: int = setting(
        0,
        "Split the CPU into so many devices (per worker), to try a strategy out; 0: do not.",
        low=0,
    )
    tpu: str = setting("local", "The TPU: local on a TPU VM, else its name or grpc://host:port.")
    cluster_timeout: float = setting(
        300.0, "Seconds to wait for the other workers, or for the TPU, at the start.", low=0.0
    )

    def check(self, *, jit_compile: bool) -> None:
        """Refuses combinations that cannot work, before anything is touched.

        Raises:
            UsageError: such a combination.
        """
        if self.virtual_devices and self.strategy not in ("mirrored", "multi_worker"):
            raise UsageError(
                f"--virtual_devices={self.virtual_devices} needs --strategy=mirrored or "
                "multi_worker"
            )
        backend = keras.backend.backend()
        backends = ("tensorflow", "jax") if self.strategy == "mirrored" else ("tensorflow",)
        if self.strategy != "none" and backend not in backends:
            raise UsageError(
                f"--strategy={self.strategy} needs KERAS_BACKEND={' or '.join(backends)}; Keras "
                f"runs on {backend}"
            )
        if self.strategy == "multi_worker" and jit_compile:
            raise UsageError(
                "--jit_compile=yes does not work with --strategy=multi_worker; leave it out"
            )
