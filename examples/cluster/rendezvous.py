"""Where the processes of a distributed run meet, before TensorFlow connects them.

TensorFlow waits for an hour, in C++ and without a word, for a worker that never comes. Here all of
them meet over plain sockets first, within a time of the user's choosing, and tell each other what
they are about to do. Worker 0 listens on the port that its TensorFlow server will use afterwards.
"""

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from examples.core.cli import UsageError

_LINE = 1 << 20  # longest message, in bytes


def meet(
    addresses: Sequence[str], index: int, topic: str, message: str, *, timeout: float
) -> list[str]:
    """Exchanges messages among all workers; returns everyone's, in the workers' order.

    Args:
        addresses: "host:port" of each worker.
        index: which of them this process is.
        topic: what the meeting is about; workers that are further on wait for the others.
        message: what this worker has to say.
        timeout: seconds to wait for the others.

    Raises:
        UsageError: not all workers came in time.
    """
    deadline = time.monotonic() + timeout
    if index == 0:
        return _host(addresses, topic, message, timeout, deadline)
    return _visit(addresses[0], index, topic, message, timeout, deadline)


def _host(
    addresses: Sequence[str], topic: str, message: str, timeout: float, deadline: float
) -> list[str]:
    port = _split(addresses[0])[1]
    messages = {0: message}
    guests: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(
                socket.create_server(("", port), backlog=len(addresses), reuse_port=False)
            )
        except OSError as error:
            raise UsageError(
                f"worker 0 cannot listen on port {port} ({error}); free it, or change the port "
                "in TF_CONFIG on all workers"
            ) from error
        while len(messages) < len(addresses) and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            with contextlib.suppress(OSError, ValueError, KeyError):
                guest = stack.enter_context(listener.accept()[0])
                guest.settimeout(min(5.0, left))
                said = _receive(guest)
                if said["topic"] == topic and 0 < said["index"] < len(addresses):
                    guests[said["index"]] = guest  # in place of an earlier one that was restarted
                    messages[said["index"]] = str(said["message"])
        listener.close()  # before anyone goes on, so that nobody knocks here for the next topic
        missing = sorted(set(range(len(addresses))) - set(messages))
        told = [messages[i] for i in sorted(messages)]
        answer = {"missing": missing, "messages": told}
        for guest in guests.values():
            with contextlib.suppress(OSError):
                guest.sendall(_line(answer))
    _check_all_came(missing, addresses, timeout)
    return told


def _visit(
    address: str, index: int, topic: str, message: str, timeout: float, deadline: float
) -> list[str]:
    said = _line({"topic": topic, "index": index, "message": message})
    while (left := deadline - time.monotonic()) > 0:
        # Refused, or closed without an answer: worker 0 is not there yet. A bit more patience than
        # its own, so that it gets to say who is missing.
        with contextlib.suppress(OSError, ValueError):
            with socket.create_connection(_split(address), timeout=left) as server:
                server.settimeout(left + 5)
                server.sendall(said)
                answer = _receive(server)
                _check_all_came(answer["missing"], None, timeout)
                return list(answer["messages"])
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
    raise UsageError(
        f"worker 0 at {address} did not answer within {timeout:g} s; start it, check that this "
        "machine reaches it, or wait longer with --cluster_timeout"
    )


def _check_all_came(
    missing: Sequence[int], addresses: Sequence[str] | None, timeout: float
) -> None:
    if missing:
        names = ", ".join(
            f"worker {i}" + (f" ({addresses[i]})" if addresses else "") for i in missing
        )
        raise UsageError(
            f"{names} did not come within {timeout:g} s; start every worker of TF_CONFIG, or wait "
            "longer with --cluster_timeout"
        )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"a worker's address must be host:port; got {address!r}")
    return host.strip("[]"), int(port)


def _line(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _receive(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as lines:
        content: dict[str, Any] = json.loads(lines.readline(_LINE))
        return content
