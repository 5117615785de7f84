"""The columns of an array in segments, as a kernel holds them: each an array [rows, P] of its own, P its padded width.

A kernel can cut no value in pieces nor lay two side by side. So what a step cuts or joins is in segments from the
start, fine enough for both: `Cuts` finds them, for the values of a step and of its pullback at once. In memory the
segments stand side by side, padded.
"""

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl


class Value:
    """An array's segments, [rows, P] each; [1, P] where all rows are the same, [., 1] where there is one column.

    Each is made where it is first read: so a step of several segments goes through all its gates for one segment before
    the next, and a kernel holds few of them at a time.
    """

    def __init__(self, makers: Sequence[Callable[[], jax.Array]]):
        self._makers = list(makers)
        self._arrays: dict[int, jax.Array] = {}

    @classmethod
    def of(cls, arrays: Sequence[jax.Array]) -> "Value":
        return cls([functools.partial(lambda a: a, a) for a in arrays])

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, number: int) -> jax.Array:
        if number not in self._arrays:
            self._arrays[number] = self._makers[number]()
        return self._arrays[number]

    def arrays(self) -> list[jax.Array]:
        """All of them, made now."""
        return [self[number] for number in range(len(self))]

    def taken(self, numbers: Sequence[int]) -> list[Callable[[], jax.Array]]:
        """Makes some of the segments."""
        return [functools.partial(self.__getitem__, number) for number in numbers]


def segmentwise(function: Callable[..., jax.Array], *values: Value) -> Value:
    """A function of the segments of values, one of each."""

    def made(number: int) -> jax.Array:
        return function(*(value[number] for value in values))

    return Value([functools.partial(made, number) for number in range(len(values[0]))])


class Segment(NamedTuple):
    """Columns start to start + width of an array, padded; or what one of several programs has of them: `padded` columns
    from `offset` on, of `span`."""

    start: int
    width: int
    padded: int
    offset: Any = 0
    whole: int | None = None

    @property
    def span(self) -> int:
        return self.padded if self.whole is None else self.whole

    def columns(self, first: int) -> Any:
        """Where its columns are in memory, of a segment that begins there."""
        if isinstance(self.offset, int):
            return slice(first + self.offset, first + self.offset + self.padded)
        return pl.ds(first + self.offset, self.padded)

    def own(self, number: Any, programs: int) -> "Segment":
        """The columns of one of several programs; a single column is every one's."""
        if self.width == 1 or programs == 1:
            return self
        padded = self.padded // programs
        return self._replace(padded=padded, offset=number * padded, whole=self.padded)


class Axis(NamedTuple):
    """The columns of an array."""

    segments: tuple[Segment, ...]

    @property
    def width(self) -> int:
        return sum(each.width for each in self.segments)

    @property
    def padded(self) -> int:
        return sum(each.padded for each in self.segments)

    @property
    def span(self) -> int:
        return sum(each.span for each in self.segments)

    def own(self, number: Any, programs: int) -> "Axis":
        return Axis(tuple(each.own(number, programs) for each in self.segments))


class Cuts:
    """Where the columns of arrays are cut; an array is named by any key. Two that are linked are cut at the same
    places."""

    def __init__(self) -> None:
        self._widths: dict[Hashable, int] = {}
        self._cuts: dict[Hashable, set[int]] = {}
        self._links: list[tuple[Hashable, Hashable, int, int, int]] = []

    def add(self, key: Hashable, width: int) -> None:
        if self._widths.setdefault(key, width) != width:
            raise ValueError(f"an array of {self._widths[key]} columns is one of {width} elsewhere in a step")
        self._cuts.setdefault(key, {0, width})

    def cut(self, key: Hashable, *places: int) -> None:
        self._cuts[key] |= {place for place in places if 0 < place < self._widths[key]}

    def link(self, one: Hashable, other: Hashable, first: int = 0, second: int = 0, width: int | None = None) -> None:
        """Columns first to first + width of one are columns second to second + width of the other."""
        width = self._widths[one] if width is None else width
        self.cut(one, first, first + width)
        self.cut(other, second, second + width)
        self._links.append((one, other, first, second, width))

    def solved(self, pad: Callable[[int], int], widest: int | None = None) -> dict[Hashable, Axis]:
        """The axis of every array; pad: the padded width of a segment; widest: of them."""
        cuts = {
            key: {*places, *range(0, self._widths[key], widest or self._widths[key] or 1)}
            for key, places in self._cuts.items()
        }
        grew = True
        while grew:
            before = sum(map(len, cuts.values()))
            for one, other, first, second, width in self._links:
                shared = {place - first for place in cuts[one] if first < place < first + width}
                shared |= {place - second for place in cuts[other] if second < place < second + width}
                cuts[one] |= {place + first for place in shared}
                cuts[other] |= {place + second for place in shared}
            grew = sum(map(len, cuts.values())) > before
        axes = {}
        for key, of_key in cuts.items():
            places = sorted(of_key)
            ends = itertools.pairwise(places)
            axes[key] = Axis(tuple(Segment(a, b - a, pad(b - a) if b - a > 1 else 1) for a, b in ends))
        return axes


def pack(arrays: Sequence[jax.Array], axes: Sequence[Axis], dtype: Any = None) -> jax.Array:
    """Arrays [..., W] side by side in memory [..., padded]."""
    dtype = dtype or jnp.result_type(*arrays)
    pieces = []
    for array, axis in zip(arrays, axes, strict=True):
        array = array.astype(dtype)
        if axis.padded == axis.width:
            pieces.append(array)
            continue
        for each in axis.segments:
            widths = [(0, 0)] * (array.ndim - 1) + [(0, each.padded - each.width)]
            pieces.append(jnp.pad(array[..., each.start : each.start + each.width], widths))
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, -1)


def unpack(packed: jax.Array, axes: Sequence[Axis], dtypes: Sequence[Any] | None = None) -> list[jax.Array]:
    """The inverse of `pack`."""
    arrays, column = [], 0
    for number, axis in enumerate(axes):
        if axis.padded == axis.width:
            array = packed[..., column : column + axis.width]
            column += axis.width
        else:
            pieces = []
            for each in axis.segments:
                pieces.append(packed[..., column : column + each.width])
                column += each.padded
            array = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, -1)
        arrays.append(array if dtypes is None else as_type(array, dtypes[number]))
    return arrays


def as_type(array: jax.Array, dtype: Any) -> jax.Array:
    """Truth values lie in memory as numbers."""
    return array != 0 if jnp.dtype(dtype) == jnp.dtype(bool) else array.astype(dtype)


def read(ref: Any, axes: Sequence[Axis], dtypes: Sequence[Any], t: Any = None) -> list[Value]:
    """The arrays of a packed ref [., padded], or of step t of one over time, as a kernel holds them."""

    def load(columns: Any, dtype: Any) -> jax.Array:
        return as_type(ref[:, columns] if t is None else ref[t, :, columns], dtype)

    values, column = [], 0
    for axis, dtype in zip(axes, dtypes, strict=True):
        makers = []
        for segment in axis.segments:
            makers.append(functools.partial(load, segment.columns(column), dtype))
            column += segment.span
        values.append(Value(makers))
    return values


Place = tuple[Any, Sequence[Value], Sequence[Axis], int, Any]
"""A ref, values to be written into it side by side, their axes, the first one's column, and the step of a ref over time
or None."""


def write(*places: Place, only: int | None = None) -> None:
    """Writes values, all first segments before the second ones; only: the segments of this number."""
    pieces = []
    for ref, values, axes, column, t in places:
        for value, axis in zip(values, axes, strict=True):
            for number, segment in enumerate(axis.segments):
                if only is None or number == only:
                    pieces.append((number, ref, t, segment.columns(column), segment.padded, value))
                column += segment.span
    for number, ref, t, columns, width, value in sorted(pieces, key=lambda piece: piece[0]):
        segment = jnp.broadcast_to(value[number].astype(ref.dtype), (ref.shape[-2], width))
        if t is None:
            ref[:, columns] = segment
        else:
            ref[t, :, columns] = segment


def without_padding(value: Value, axis: Axis, instead: float = 0) -> Value:
    """A value with a number in all columns of the padding: what is made there of zeros may be no number."""

    def cleared(number: int) -> jax.Array:
        array, segment = value[number], axis.segments[number]
        if segment.span == segment.width:
            return array
        column = jax.lax.broadcasted_iota(jnp.int32, array.shape, 1) + segment.offset
        return jnp.where(column < segment.width, array, jnp.asarray(instead, array.dtype))

    return Value([functools.partial(cleared, number) for number in range(len(value))])
