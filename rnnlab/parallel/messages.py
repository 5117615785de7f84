"""Texts that the processes of a run send each other: what the first one decides, and why one ends.

They go by JAX's key-value store, which process 0 serves: no device takes part. So a process that waits for an order
hears signals, and one that waits for devices is told that another has failed. Who there is, `processes.py` says.
"""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src.distributed import global_state

from rnnlab.parallel import processes

POLL_SECONDS = 0.5
"""How often a process looks whether another has failed, and how long Python hears no signal while it waits."""
GRACE_SECONDS = 1.5
"""How long it has for an error of its own: a mistake in a config is one in all of them."""
ALIKE_SECONDS = 20
"""How long one that fails waits for the others to fail, too."""
PART = 2**20
"""Letters of a message; the store takes 4 MB."""

_numbers = itertools.count()
_FAILED = "rnnlab/failed"
_ending = threading.Event()


def from_first(value: Callable[[], Any]) -> Any:
    """What the first process computes, in all of them; plain values of JSON, with lists for tuples.

    All call it in the same order. Where the first one raises, it ends, and so do the others.
    """
    if processes.processes() == 1:
        return value()
    key = f"rnnlab/{next(_numbers)}"
    if processes.is_first():
        text = json.dumps(value())
        parts = [text[at : at + PART] for at in range(0, len(text), PART)]
        for number, part in enumerate(parts):
            _client().key_value_set(f"{key}/{number}", part)
        _client().key_value_set(key, str(len(parts)))
    else:
        text = "".join(_awaited(f"{key}/{number}") for number in range(int(_awaited(key))))
    return json.loads(text)


def all_fail(name: str) -> bool:
    """Whether every process calls this with the same name within `ALIKE_SECONDS`: an error that all of them have leaves
    them where they can go on together."""
    if processes.processes() == 1:
        return True
    try:
        _client().wait_at_barrier(f"rnnlab/{name}", ALIKE_SECONDS * 1000)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def announce(reason: str) -> None:
    """Tells the others that this process ends, and why."""
    _ending.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another was first, or nobody is there.
        _client().key_value_set(
            _FAILED, f"process {global_state.process_id} of {processes.processes()} has ended: {reason}"
        )


def watch(leave: Callable[[str], None]) -> None:
    """Calls `leave` with what another process has announced, from a thread: this one may wait for devices for good."""

    def look() -> None:
        while not _ending.wait(POLL_SECONDS):
            try:
                reason = _client().key_value_try_get(_FAILED)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" not in str(error):
                    return  # The store is gone: JAX says so.
            else:
                if not _ending.wait(GRACE_SECONDS):
                    leave(reason)

    threading.Thread(target=look, name="failures of other processes", daemon=True).start()


def _awaited(key: str) -> str:
    """The text under a key, once it is there."""
    while True:
        began = time.monotonic()
        try:
            return _client().blocking_key_value_get(key, int(1000 * POLL_SECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            time.sleep(max(0.0, POLL_SECONDS - (time.monotonic() - began)))


def _client() -> Any:
    return global_state.client
