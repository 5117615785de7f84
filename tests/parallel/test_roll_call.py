"""The roll call: processes that were not started as one run end at once, all with the same line."""

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.parallel import roll_call
from rnnlab.parallel.roll_call import call_roll, flat

ALIKE = {"config": {"steps": 100, "task": {"name": "adding"}}, "code": {"loop.py": "aa"}, "versions": {"jax": "1"}}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def outcomes(port: int, calls: list[tuple[int, int, dict[str, Any]]], seconds: float = 20.0) -> list[str]:
    """What each of (processes, process, account) is told; "" where all is well."""

    def one(call: tuple[int, int, dict[str, Any]]) -> str:
        try:
            call_roll(f"127.0.0.1:{port}", *call, seconds)
        except ConfigError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_processes_that_are_alike_go_on_and_leave_the_port_free() -> None:
    port = free_port()
    for _ in range(2):
        assert outcomes(port, [(3, 2, ALIKE), (3, 0, ALIKE), (3, 1, ALIKE)]) == [""] * 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"config": {"steps": 200, "task": {"name": "adding"}}}, "config.steps is 200, not 100;"),
        ({"config": {"steps": 200, "task": {"name": "pixels"}}}, "config.steps is 200, not 100 and 1 more;"),
        ({"config": {"steps": 100, "task": {"name": "adding"}, "new": 1}}, "config.new is 1, not absent;"),
        ({"code": {"loop.py": "bb"}}, 'code.loop.py is "bb", not "aa";'),
        ({"versions": {"jax": "2"}}, 'versions.jax is "2", not "1";'),
    ],
)
def test_processes_that_differ_are_told_in_what(other: dict[str, Any], message: str) -> None:
    answers = outcomes(free_port(), [(2, 0, ALIKE), (2, 1, ALIKE | other)])
    assert answers[0] == answers[1]
    assert answers[0].startswith("process 1 was not started as process 0 was: ")
    assert message in answers[0]


@pytest.mark.parametrize("number", [0, 1])
def test_a_number_that_two_have_is_named_to_both(number: int) -> None:
    answers = outcomes(free_port(), [(3, 0, ALIKE), (3, number, ALIKE), (3, 1, ALIKE)], seconds=1.0)
    line = f"--process: two of the 3 processes have the number {number}; they are numbered 0 to 2"
    assert answers.count(line) >= 2
    assert "" not in answers


def test_other_counts_of_processes_are_named() -> None:
    assert outcomes(free_port(), [(2, 0, ALIKE), (3, 1, ALIKE)]) == ["--processes: 2 in process 0, 3 in process 1"] * 2


def test_who_is_missing_is_named_in_time() -> None:
    began = time.monotonic()
    answers = outcomes(free_port(), [(4, 0, ALIKE), (4, 2, ALIKE)], seconds=0.6)
    assert answers == ["processes 1, 3 of 4 did not come within 1 s"] * 2
    assert outcomes(free_port(), [(2, 1, ALIKE)], seconds=0.6)[0].endswith("(nobody listens there)")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad request\r\n", None], ids=["closes", "speaks", "silent"])
def test_a_port_in_use_is_named(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:
        connections = []

        def serve() -> None:
            while True:
                try:
                    connection = other.accept()[0]
                except OSError:
                    return
                connections.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        port = other.getsockname()[1]
        first, second = outcomes(port, [(2, 0, ALIKE), (2, 1, ALIKE)], seconds=0.6)
        other.shutdown(socket.SHUT_RDWR)
        server.join()
        for connection in connections:
            connection.close()
    assert first.startswith(f"--coordinator: port {port} is in use")
    assert re.match(rf"process 1 did not find process 0 at 127.0.0.1:{port} within . s \(", second)


def test_strangers_do_not_disturb() -> None:
    port = free_port()

    def stranger() -> None:
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return
            except OSError:
                time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        visit = pool.submit(stranger)
        first = pool.submit(outcomes, port, [(2, 0, ALIKE)])
        visit.result()
        assert outcomes(port, [(2, 1, ALIKE)]) == [""]
        assert first.result() == [""]


def test_values_that_json_lacks_are_compared_by_name() -> None:
    assert flat({"init": {"kernel": flat}, "sizes": (1, 2)}) == {"init.kernel": '"flat"', "sizes": "[1, 2]"}
