"""Programs that share the rows of a block: the protocol by which they wait for each other, in every order of its steps,
and the kernels themselves run by threads, one a program, that do wait."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from rnnlab.engine import unroll
from rnnlab.engine.kernel import team
from rnnlab.engine.kernel.settings import launching
from tests.helpers import assert_close, dot, make_cell, random_array, random_like
from tests.tiers import slow_tests

# --- every order -----------------------------------------------------------------------------------------------------


def faults(
    programs: int,
    blocks: int,
    exchanges: int,
    *,
    slots: int = team.SLOTS,
    needed: int | None = None,
    resident: int | None = None,
    tickets: bool = True,
) -> set[str]:
    """What goes wrong in some order of the steps of `Team`, each of them one that no other program sees half of.

    needed: arrivals that a program waits for at each meeting; None: all. resident: programs that the device runs at
    once; None: one team. tickets: whether a program's place is its ticket; else that in the grid, from the last on.
    """
    needed, resident = needed or programs, resident or programs
    everyone = range(programs * blocks)
    script: list[tuple[str, int, int]] = []
    for exchange in range(exchanges):
        script += [("write", exchange, 0), ("arrive", exchange, 0), ("wait", exchange, 0)]
        script += [("read", exchange, other) for other in range(programs)]
    # Of each program its next step and its place, None before it has started; tickets, arrivals, memory [block][slot].
    begin = (((None, 0),) * len(everyone), 0, (0,) * blocks, (((-1,) * programs,) * slots,) * blocks)
    seen, pending, wrong = {begin}, [begin], set()
    while pending:
        states, taken, arrived, memory = pending.pop()
        after = []
        for program in everyone:
            step, place = states[program]
            now = taken, arrived, memory
            if step is None:
                if sum(s is not None and s < len(script) for s, _ in states) >= resident:
                    continue
                place = taken if tickets else len(everyone) - 1 - program
                now, step = (taken + 1, arrived, memory), -1
            elif step == len(script):
                continue
            else:
                kind, exchange, other = script[step]
                block, column = divmod(place, programs)
                if kind == "wait" and arrived[block] < needed * (exchange + 1):
                    continue
                if kind == "arrive":
                    counts = tuple(n + (b == block) for b, n in enumerate(arrived))
                    now = taken, counts, memory
                if kind == "write":
                    lines = [[list(line) for line in each] for each in memory]
                    lines[block][exchange % slots][column] = exchange
                    now = taken, arrived, tuple(tuple(tuple(line) for line in each) for each in lines)
                if kind == "read" and memory[block][exchange % slots][other] != exchange:
                    wrong.add("a wrong number is read")
            moved = (*states[:program], (step + 1, place), *states[program + 1 :])
            after.append((moved, *now))
        if not after and any(step != len(script) for step, _ in states):
            wrong.add("all wait")
        new = set(after) - seen
        seen |= new
        pending += new
    return wrong


@pytest.mark.parametrize(("programs", "blocks", "exchanges"), [(2, 1, 4), (2, 2, 2), (3, 1, 2)])
def test_in_every_order_all_is_read_as_written_and_none_waits_for_ever(programs, blocks, exchanges):
    assert faults(programs, blocks, exchanges) == set()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"slots": 1}, "a wrong number is read"),
        ({"needed": 1}, "a wrong number is read"),
        ({"resident": 1}, "all wait"),
        ({"tickets": False, "blocks": 2, "exchanges": 1}, "all wait"),
    ],
)
def test_without_a_part_of_the_protocol_some_order_fails(change, fault):
    assert fault in faults(**{"programs": 2, "blocks": 1, "exchanges": 3, **change})


# --- by threads ------------------------------------------------------------------------------------------------------


class Memory:
    """An array that threads share, as a ref."""

    def __init__(self, array: np.ndarray):
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def _place(self, index: Any) -> Any:
        if index is Ellipsis:
            return index
        places = index if isinstance(index, tuple) else (index,)
        return tuple(
            slice(int(each.start), int(each.start) + each.size)
            if isinstance(each, pl.Slice)
            else each
            if isinstance(each, slice)
            else int(each)
            for each in places
        )

    def __getitem__(self, index: Any) -> jax.Array:
        return jnp.array(self.array[self._place(index)])

    def __setitem__(self, index: Any, value: jax.Array) -> None:
        self.array[self._place(index)] = np.asarray(value)


class Threads:
    """A device that runs each program of a Triton kernel as a thread, and no more at once than `resident`."""

    def __init__(self, resident: int):
        self.resident, self.changed = resident, threading.Condition()
        self.counters: list[np.ndarray] = []

    def atomic_add(self, ref: Memory, index: tuple[Any], number: Any) -> jax.Array:
        place = ref._place(index)
        with self.changed:
            if number == 0:  # Who waits asks again when something has changed.
                self.changed.wait(timeout=1)
            before = int(ref.array[place])
            ref.array[place] += int(number)
            self.changed.notify_all()
        return jnp.int32(before)

    def pallas_call(self, body: Callable[..., None], **how: Any) -> Callable[..., list[jax.Array]]:
        def run(*inputs: jax.Array) -> list[jax.Array]:
            arrays = [Memory(np.array(a)) for a in inputs]
            written = {out: arrays[n] for n, out in how["input_output_aliases"].items()}
            results = []
            for n, a in enumerate(how["out_shape"]):
                nothing = np.full(a.shape, np.nan if jnp.issubdtype(a.dtype, jnp.floating) else -1, a.dtype)
                results.append(written.get(n) or Memory(nothing))
            (count,), errors, places = how["grid"], [], threading.Semaphore(self.resident)

            def program() -> None:
                try:
                    with jax.disable_jit(), places:
                        body(*arrays, *results)
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=program, daemon=True) for _ in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=300)
                assert not thread.is_alive(), "a program waits for ever"
            if errors:
                raise errors[0]
            self.counters += [a.array for a in written.values()]
            return [jnp.array(a.array) for a in results]

        return run


PROGRAMS, ROWS = 3, 2


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    """Kernels of a team run by threads; one team fits on the device."""
    device = Threads(PROGRAMS)
    monkeypatch.setattr(pl, "pallas_call", device.pallas_call)
    monkeypatch.setattr(pltriton, "atomic_add", device.atomic_add)
    monkeypatch.setattr(pltriton, "debug_barrier", lambda: None)
    monkeypatch.setattr(jax.custom_batching, "sequential_vmap", lambda function: function)
    settings = {"target": "triton", "rows": ROWS, "programs": PROGRAMS, "least": 2, "tile": 4}
    with launching(**settings):
        yield device


@pytest.mark.parametrize(("variant", "streamed"), [("lstm", False), *slow_tests(("gru_reset_before", True))])
def test_a_kernel_of_programs_that_wait_equals_the_reference(threads, variant, streamed):
    """With rows of which a block has none to run, and one ends early: no step is run past a block's longest row."""
    steps, lengths = 3, [2, 1, 3, 0, 0]
    graphdef, state = nnx.split(make_cell(variant, 2, 5))
    x = random_array(1, steps, len(lengths), 2).astype(jnp.float32)

    def gradients(**options: Any) -> Any:
        def loss(state: nnx.State, x: jax.Array) -> Any:
            result = unroll(nnx.merge(graphdef, state), x, lengths=jnp.array(lengths), **options)
            return dot(result, random_like(result, 3)), result

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(state, x)

    with launching(streamed=streamed), jax.disable_jit():
        actual = gradients(backend="kernel")
    assert_close(actual, gradients(backend="reference"), 1e-5)
    products = {"lstm": 1, "gru_reset_before": 2}[variant]
    blocks = np.array([2, 3, 0])  # The longest row of each.
    assert len(threads.counters) == 2
    for counters in threads.counters:
        assert counters[0] == PROGRAMS * len(blocks)
        assert list(counters[1:]) == list(PROGRAMS * products * blocks)
