"""Programs that share the rows of one block: each holds some columns of every array and of every matrix, and they meet
where one needs the columns of all, at every product and every sum over units.

A program writes its columns to memory, adds one to its block's counter, waits until all programs of the block have
done so, and reads. Memory has two slots for what is exchanged, used by turns: a program that writes a slot again has
met all others once more since, so they have read it.

Nothing on a GPU says in which order programs start, so none is tied to its place in the grid: each takes a ticket when
it starts, and the tickets fill one block after the other. So a block waits only for programs that have started or that
start next, and with room for one block's programs on the device, a block has all of its own and ends. A block has as
many programs as half of the device's multiprocessors at most (`memory`), each of which runs one at least: two such
kernels at once, each with a block begun, still end.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from rnnlab.engine.kernel.settings import Settings

SLOTS = 2
"""With one, a program that is ahead would write over what another has yet to read."""


class Rows:
    """Some rows of a ref [..., B, W], as a ref of these alone; before: the place in its first axes."""

    def __init__(self, ref: Any, first: Any, count: int, before: tuple[Any, ...] = ()):
        self.ref, self.first, self.count, self.before = ref, first, count, before

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.ref.shape[len(self.before) : -2], self.count, self.ref.shape[-1])

    @property
    def dtype(self) -> Any:
        return self.ref.dtype

    def _place(self, index: Any) -> tuple[Any, ...]:
        *outer, _, columns = (slice(None),) * len(self.shape) if index is Ellipsis else index
        return (*self.before, *outer, pl.ds(self.first, self.count), columns)

    def __getitem__(self, index: Any) -> jax.Array:
        return self.ref[self._place(index)]

    def __setitem__(self, index: Any, value: jax.Array) -> None:
        self.ref[self._place(index)] = value


class Team:
    """The programs of a block, as one of them sees it."""

    def __init__(self, settings: Settings, refs: Mapping[str, Any]):
        """refs: "counters" [1 + blocks], of the tickets and of each block's arrivals, all 0; without them programs run
        one after the other, and meet by being run again (`launch`)."""
        self.settings, self.refs, self.programs = settings, refs, max(settings.programs, 1)
        self.block: Any
        self.number: Any
        self.met: Any = jnp.int32(0)
        """How often the programs have met."""
        if "counters" in refs:
            ticket = atomic_add(refs["counters"], 0, 1)
            self.block, self.number = ticket // self.programs, ticket % self.programs
        else:
            self.block = pl.program_id(0)
            self.number = pl.program_id(1) if self.programs > 1 else 0

    def rows(self, ref: Any, *before: Any) -> Rows:
        """The block's rows of a ref [..., B, W]."""
        return Rows(ref, self.block * self.settings.rows, self.settings.rows, before)

    def slot(self, name: str) -> Rows:
        """Where the next meeting's columns are written and read."""
        ref = self.refs[name]
        return self.rows(ref, self.met % ref.shape[0])

    def meet(self) -> None:
        """What each program wrote before, all read after it."""
        self.met = self.met + 1
        if "counters" not in self.refs:
            return
        counters, all_of_them = self.refs["counters"], self.met * self.programs
        barrier(self.settings)  # All threads have written.
        atomic_add(counters, 1 + self.block, 1)
        lax.while_loop(lambda seen: seen < all_of_them, lambda _: atomic_add(counters, 1 + self.block, 0), jnp.int32(0))
        barrier(self.settings)

    def joined(self, a: jax.Array, reduce: Callable[..., jax.Array], empty: float) -> jax.Array:
        """What `reduce` makes of all programs' numbers a [rows, 1]."""
        if self.programs == 1:
            return a
        slot = self.slot("partial")
        slot[:, pl.ds(self.number, 1)] = a.astype(slot.dtype)
        self.meet()
        every = slot[:, slice(0, slot.shape[-1])]
        filled = lax.broadcasted_iota(jnp.int32, every.shape, 1) < self.programs
        return reduce(jnp.where(filled, every, jnp.asarray(empty, every.dtype)), axis=1, keepdims=True).astype(a.dtype)


def atomic_add(ref: Any, index: Any, number: int) -> jax.Array:
    """What was there before. All that the thread's program wrote is seen by who reads the number (acquire, release)."""
    return pltriton.atomic_add(ref, (index,), jnp.int32(number))


def barrier(settings: Settings) -> None:
    """After it, every thread of a program reads what another one wrote to memory."""
    if settings.target == "triton" and not settings.interpret:
        pltriton.debug_barrier()
