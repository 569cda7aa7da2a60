"""A stand-in for an object store: `s3://` is a folder of this machine, for fsspec and so for epath.

As in a store, an object is there when it has been written to its end, and there is no rename.
"""

import io
import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

FOLDER = "OBJECT_STORE_FOLDER"  # in the environment


class _Object(io.BytesIO):
    """Content that is put into its place when it is closed."""

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(f"{self._path}.part", "wb") as file:
                file.write(self.getvalue())
            os.replace(f"{self._path}.part", self._path)
        super().close()


class Store(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Objects as files below `FOLDER`."""

    protocol = "s3"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path)
        root = os.environ[FOLDER]
        if text.startswith(root):
            return text.rstrip("/")
        return os.path.join(root, text.removeprefix("s3://").strip("/")).rstrip("/")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return _Object(path) if "w" in mode else super()._open(path, mode, **options)

    def mv(self, *paths: Any, **options: Any) -> None:
        raise NotImplementedError("an object store has no rename")

    mv_file = rename = move = mv


def register() -> None:
    """Lets `s3://` mean the stand-in, in this process."""
    fsspec.register_implementation("s3", Store, clobber=True)
