"""A progress bar that shows only where one has to wait."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_PATIENCE = 3.0  # Seconds.


@contextlib.contextmanager
def bar(total: int, verbose: bool | str = "auto") -> Iterator[Callable[[int], None]]:
    """Shows how much is done, from the third second on.

    Args:
        total: integer, what there is to do.
        verbose: bool, or `"auto"`: where standard error is a terminal.

    Yields:
        A function of how much is done.
    """
    if not (sys.stderr.isatty() if verbose == "auto" else verbose):
        yield lambda done: None
        return
    from rich import console, progress

    start = time.monotonic()
    view = progress.Progress(console=console.Console(stderr=True), transient=True)
    task = view.add_task("Running the model", total=total)

    def track(done: int) -> None:
        if not view.live.is_started and time.monotonic() - start > _PATIENCE:
            view.start()
        view.update(task, completed=done)

    try:
        yield track
    finally:
        view.stop()
