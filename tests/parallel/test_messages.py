"""Messages between the processes of a run, over a store in place of JAX's."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from rnnlab.parallel import messages, processes


class Store:
    """JAX's key-value store, as far as it is used; `number`: the process that asks."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def key_value_set(self, key: str, text: str) -> None:
        if key in self.texts:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
        self.texts[key] = text

    def key_value_try_get(self, key: str) -> str:
        if key not in self.texts:
            raise jax.errors.JaxRuntimeError("NOT_FOUND: no such key")
        return self.texts[key]

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        if key not in self.texts:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: it is not there")
        return self.texts[key]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Two processes, of which this is the first."""
    created = Store()
    monkeypatch.setattr(messages, "_client", lambda: created)
    monkeypatch.setattr(processes, "processes", lambda: 2)
    monkeypatch.setattr(messages, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(messages, "GRACE_SECONDS", 0.02)
    monkeypatch.setattr(messages, "_ending", threading.Event())
    yield created
    messages._ending.set()


def test_what_the_first_computes_the_others_get_however_long_it_is(store, monkeypatch):
    monkeypatch.setattr(messages, "PART", 10)
    order: dict[str, Any] = {"settings": [{"name": "0000", "rate": 1e30}] * 3, "pruned": {}, "stop_at": None}
    monkeypatch.setattr(messages, "_numbers", itertools.count())
    assert messages.from_first(lambda: order) == order
    assert len(store.texts) > 10
    monkeypatch.setattr(messages, "_numbers", itertools.count())
    monkeypatch.setattr(processes, "is_first", lambda: False)
    assert messages.from_first(lambda: pytest.fail("the first one computes it")) == order


def test_the_failure_of_another_is_told_once_and_the_first_of_two_counts(store):
    told, reasons = threading.Event(), []

    def leave(reason: str) -> None:
        reasons.append(reason)
        messages._ending.set()
        told.set()

    messages.watch(leave)
    store.key_value_set("rnnlab/failed", "process 1 of 2 has ended: the disk is full")
    assert told.wait(10)
    messages.announce("it lost another one")
    assert reasons == [store.texts["rnnlab/failed"]] == ["process 1 of 2 has ended: the disk is full"]


def test_one_that_fails_itself_says_its_own_reason(store, monkeypatch):
    monkeypatch.setattr(messages, "GRACE_SECONDS", 0.2)
    messages.watch(lambda reason: pytest.fail(reason))
    store.key_value_set("rnnlab/failed", "process 1 of 2 has ended: a mistake in the config")
    (thread,) = [each for each in threading.enumerate() if each.name.startswith("failures of other")]
    messages.announce("the same mistake")
    thread.join(10)
    assert not thread.is_alive()
    assert store.texts["rnnlab/failed"].endswith("a mistake in the config")
