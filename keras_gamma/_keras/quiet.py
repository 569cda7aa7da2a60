"""Imports Keras without TensorFlow's start-up noise, for command lines.

TensorFlow prints a dozen informational lines (and, on a machine without a GPU, an "error") before
its own log level takes effect, so `TF_CPP_MIN_LOG_LEVEL` alone cannot silence them. They go
straight to file descriptor 2, so that is where they are caught; whatever is not known to be
harmless is passed on. Whoever sets `TF_CPP_MIN_LOG_LEVEL` sees everything.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_HARMLESS = re.compile(
    r"^WARNING: All log messages before absl::InitializeLog"
    r"|^I0000 |^To enable the following instructions"
    r"|cuda_(platform|dri|executor|diagnostics).*(cuInit|CUDA_ERROR_NO_DEVICE)"
    r"|Could not find cuda drivers"
    r"|^\s*$"
)


def import_keras(*, open_devices: bool = True) -> None:
    """Imports Keras and its backend, and looks for devices, which is where the last noise is.

    Args:
        open_devices: whether to open the devices, too. It is too late then to split them or to
            join a cluster.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or "keras" in sys.modules:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with _without_harmless_lines():
        import keras

        if open_devices:
            keras.distribution.list_devices()
        elif "tensorflow" in sys.modules:
            sys.modules["tensorflow"].config.list_physical_devices()


@contextlib.contextmanager
def _without_harmless_lines() -> Iterator[None]:
    """Holds back file descriptor 2, then passes on the lines that are not known to be harmless."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _HARMLESS.search(line):
                    print(line, file=sys.stderr)
