"""Files that survive a crash: atomic writes and inter-process locks."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from examples.core.cli import UsageError

try:
    import fcntl
except ImportError:  # Windows: no lock there, only the atomic renames
    fcntl = None  # type: ignore[assignment]


def to_path(name: str | os.PathLike[str]) -> Path:
    """Returns a path on this machine, or in an object store (`gs://`, `s3://`)."""
    if "://" in (text := os.fspath(name)):
        return epath.Path(text)  # type: ignore[no-any-return]
    return Path(text).expanduser()


def is_remote(path: Path) -> bool:
    """Whether a path is in an object store, which has no locks and no rename."""
    return "://" in os.fspath(path)


class AlreadyLocked(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def claimed(directory: Path, work: str) -> Iterator[None]:
    """Makes a folder, and keeps other processes away from it.

    Args:
        directory: the folder. In an object store nobody can be kept away.
        work: what the other process would be doing there, for the error.

    Raises:
        UsageError: another process is at work in it, or it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not is_remote(directory):
                stack.enter_context(locked(directory / ".lock", wait=False))
        except AlreadyLocked as error:
            raise UsageError(
                f"another process is {work} in {directory}; give this one another --output_dir"
            ) from error
        except OSError as error:  # a file, a place that is read-only, one that cannot be
            raise UsageError(
                f"--output_dir={directory} is not a folder to write to: {error}"
            ) from error
        yield


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes `content` to `path`: whenever the machine stops, the old or the new file is there.

    An object store shows what is written when it is whole, and not before. Elsewhere, the temporary
    file lies beside `path`, because a rename is atomic only within one file system.

    Args:
        path: of the file.
        content: of it.
        durable: whether to wait until the disk has it. Without, all that a killed process has
            written is there, but after a power cut it may not be.
    """
    if is_remote(path):
        path.write_bytes(content)
        return
    with told_if_full(path):
        _replace(path, content, durable)


@contextlib.contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Says in one line that a disk is full.

    Raises:
        UsageError: so it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(
            f"no space is left for {path}: free some, and the same command resumes the run, from "
            "what was saved before"
        ) from error


def _replace(path: Path, content: bytes, durable: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # Not `tempfile`, whose files only their owner can read: here the umask is to decide.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    fd = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if durable:
        _sync_directory(path.parent)


def make_durable(path: Path) -> None:
    """Waits until the disk has a file that was written without waiting."""
    if is_remote(path) or not path.exists():
        return
    with told_if_full(path), open(path, "rb+") as file:
        os.fsync(file.fileno())
    _sync_directory(path.parent)


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files of `write_atomic(path)` that a killed process left behind."""
    if is_remote(path):
        return
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yields a file of this machine with the content of `path`: itself, or a copy for a while."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


@contextlib.contextmanager
def local_folder(directory: Path) -> Iterator[Path]:
    """Yields a folder of this machine, whose files are in `directory` in the end."""
    if not is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        for file in Path(folder).iterdir():
            write_atomic(directory / file.name, file.read_bytes())


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds an exclusive lock on `path`; the system drops it when the process dies.

    Args:
        path: the lock file. It is created, and left behind: removing it would let two processes
            lock two different files of the same name.
        wait: whether to wait for another holder, or to raise.

    Raises:
        AlreadyLocked: another process holds the lock and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyLocked(str(path)) from error
        yield


def _sync_directory(directory: Path) -> None:
    """Makes a rename in `directory` survive a power cut, where the system can do so."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
