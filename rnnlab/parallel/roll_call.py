"""The roll call before several processes become one run: who is there, and whether all were started alike.

JAX finds out by waiting, and says it with a trace: a port that is in use, a number that two processes have, a process
that never comes. Two with other numbers of steps would wait for each other without an end. So each process tells
process 0 first, at the address that JAX takes next, what it is about to do, and process 0 answers all alike.
"""

import contextlib
import errno
import json
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.config.errors import ConfigError

ANSWER_SECONDS = 5.0
"""How long one that is connected may say nothing."""
RETRY_SECONDS = 0.2
LONGEST_LINE = 2**22
MARK = "rnnlab roll call"


def call_roll(address: str, processes: int, process: int, account: Mapping[str, Any], seconds: float) -> None:
    """Returns in all processes once all are there with the same account; raises in all of them otherwise.

    Args:
        address: "host:port", where process 0 listens meanwhile.
        processes: how many there are.
        process: which one this is.
        account: what has to be the same in all of them: nested dicts of plain values.
        seconds: how long a process waits for the others.

    Raises:
        ConfigError: a process is missing, two have the same number, they were started in different ways, or the port
            is in use.
    """
    hello = {MARK: process, "processes": processes, "account": flat(account)}
    ends = time.monotonic() + seconds
    port = address.rpartition(":")[2]
    problem = None
    if process > 0:
        problem = _ask(address, hello, seconds)
    else:
        try:
            listener = _listen(int(port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"--coordinator: cannot listen at {address}: {error.strerror or error}") from None
            try:  # Another process 0 that still calls says so.
                problem = _ask(address, hello, 1.0)
            except ConfigError:
                raise ConfigError(
                    f"--coordinator: port {port} is in use by another program, or by another run; take another one, "
                    "in all processes"
                ) from None
        else:
            with listener:
                problem = _call(listener, hello, ends, seconds)
    if problem is not None:
        raise ConfigError(problem)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"config.steps": "100"}: the text of every value, under its path."""
    texts = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{name}.")
        else:
            texts[f"{prefix}{name}"] = json.dumps(value, default=lambda it: getattr(it, "__qualname__", str(type(it))))
    return texts


# --- process 0 -------------------------------------------------------------------------------------------------------


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _call(listener: socket.socket, first: dict[str, Any], ends: float, seconds: float) -> str | None:
    """Hears all others and tells them the same: what is wrong, or None."""
    count, present, problem = first["processes"], {0}, None
    with contextlib.ExitStack() as stack:
        connections: list[socket.socket] = []
        while problem is None and len(present) < count:
            listener.settimeout(max(0.01, ends - time.monotonic()))
            try:
                connection = stack.enter_context(listener.accept()[0])
                hello = _read(connection, min(ends, time.monotonic() + ANSWER_SECONDS))
            except (OSError, ValueError):  # Nobody, or somebody else.
                if time.monotonic() >= ends:
                    missing = [number for number in range(count) if number not in present]
                    problem = f"{_listed(missing)} of {count} did not come within {seconds:.0f} s"
                continue
            connections.append(connection)
            problem = _objection(hello, first, present)
            present.add(hello[MARK])
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({MARK: "all", "problem": problem}).encode() + b"\n")
        for connection in connections:  # They close first, so that the port is free at once.
            with contextlib.suppress(OSError):
                connection.settimeout(1.0)
                connection.recv(1)
    return problem


def _objection(hello: dict[str, Any], first: dict[str, Any], present: set[int]) -> str | None:
    """The objection to a process that says hello."""
    number, count = hello[MARK], first["processes"]
    if hello["processes"] != count:
        return f"--processes: {count} in process 0, {hello['processes']} in process {number}"
    if number in present:
        return f"--process: two of the {count} processes have the number {number}; they are numbered 0 to {count - 1}"
    here, there = first["account"], hello["account"]
    differing = [name for name in sorted(here | there) if here.get(name) != there.get(name)]
    if not differing:
        return None
    name, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return (
        f"process {number} was not started as process 0 was: {name} is {there.get(name, 'absent')}, not "
        f"{here.get(name, 'absent')}{more}; all need the same command, code and packages"
    )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return f"process{'es' if len(numbers) > 1 else ''} {shown}"


# --- the others ------------------------------------------------------------------------------------------------------


def _ask(address: str, hello: dict[str, Any], seconds: float) -> str | None:
    """The answer of process 0, which may come some seconds later than this one and then waits as long.

    Raises:
        ConfigError: nobody answers there, or somebody else.
    """
    host, _, port = address.rpartition(":")
    began, heard = time.monotonic(), "nobody listens there"
    while (now := time.monotonic()) <= began + seconds:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
                heard = "who listens there does not answer"
                connection.sendall(json.dumps(hello).encode() + b"\n")
                return _read(connection, now + seconds + ANSWER_SECONDS)["problem"]
        except ValueError:
            heard = "another program, or another run, answers there"
            break
        except OSError as error:
            if isinstance(error, socket.gaierror):
                heard = str(error.strerror)
            time.sleep(RETRY_SECONDS)
    raise ConfigError(
        f"process {hello[MARK]} did not find process 0 at {address} within {time.monotonic() - began:.0f} s ({heard})"
    )


def _read(connection: socket.socket, ends: float) -> dict[str, Any]:
    """The line that the other side sends.

    Raises:
        OSError: none comes.
        ValueError: it is not one of a roll call.
    """
    text = b""
    while not text.endswith(b"\n"):
        connection.settimeout(max(0.01, ends - time.monotonic()))
        more = connection.recv(2**16)
        if not more and not text:
            raise ConnectionResetError
        text += more
        if not more or len(text) > LONGEST_LINE or not text.startswith(b'{"' + MARK.encode()[: len(text) - 2]):
            raise ValueError("not a line of a roll call")
    return json.loads(text)
