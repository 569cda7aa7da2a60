"""The frame of a script.

What a user can mend is told in one line; a traceback is for our own mistakes.
"""

import contextlib
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging


class UsageError(Exception):
    """The command cannot be carried out as given; the message says what to change."""


class Terminated(BaseException):
    """SIGTERM came: a cluster wants its machine back."""


class Notice:
    """Whether SIGTERM has come, for who would rather finish a step first."""

    given = False


@contextlib.contextmanager
def deferred() -> Iterator[Notice]:
    """Notes SIGTERM instead of raising `Terminated`; a second one raises at once.

    Does nothing outside of `run_main`, and outside of the main thread.
    """
    notice = Notice()

    def note(number: int, frame: types.FrameType | None) -> None:
        if notice.given:
            _terminate(number, frame)
        notice.given = True

    if signal.getsignal(signal.SIGTERM) is not _terminate:
        yield notice
        return
    signal.signal(signal.SIGTERM, note)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, _terminate)


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under `absl.app`.

    A `UsageError`, Ctrl-C or SIGTERM ends in one line and an exit code > 0.
    """

    def guarded(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(
                logging.WARNING
            )  # tensorflow-datasets tells of each file it reads
        try:
            if len(argv) > 1:
                raise UsageError(f"unexpected arguments {list(argv[1:])}; flags begin with --")
            main(argv)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except (KeyboardInterrupt, Terminated) as reason:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
            stopped = isinstance(reason, Terminated)
            word, code = ("terminated", 143) if stopped else ("interrupted", 130)
            print(f"\n{word}; the same command resumes the run", file=sys.stderr)
            sys.exit(code)

    signal.signal(signal.SIGTERM, _terminate)
    app.run(guarded)


def _terminate(number: int, frame: types.FrameType | None) -> NoReturn:
    raise Terminated
