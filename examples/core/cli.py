"""The frame of a script.

What a user can mend is told in one line; a traceback is for our own mistakes.
"""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging


class UsageError(Exception):
    """The command cannot be carried out as given; the message says what to change."""


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under `absl.app`; a `UsageError` or Ctrl-C ends in one line and exit code > 0."""

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
        except KeyboardInterrupt:
            print("\ninterrupted; the same command resumes the run", file=sys.stderr)
            sys.exit(130)

    app.run(guarded)
