"""Stages of a step as C++ loops: over the rows of a block, and within a row over the columns of runs of operations.

Operations that follow each other and are as wide share a loop, whose values stay in registers; what another loop or a
product reads is stored.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax.extend.core import Literal

from rnnlab.engine.halves import Unsupported, has_rows, width_of
from rnnlab.engine.native.rules import KNOWN, REDUCED, SAME, STARTS, expression, kind_of, number


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an array of a block of rows lies: row r from `base + r * stride` on."""

    base: str
    stride: str
    width: int
    """Its columns; one column stands for an array of any width with the same number in all."""
    kind: str

    def row(self, start: int = 0) -> str:
        text = self.base if self.stride == "0" else f"{self.base} + r * {self.stride}"
        return f"{text} + {start}" if start else text

    def element(self, index: str = "j") -> str:
        """Column j of row r."""
        return f"({self.row()})[{index if self.width > 1 else '0'}]"

    def shifted(self, start: int, width: int) -> "Place":
        return dataclasses.replace(self, base=f"({self.base} + {start})" if start else self.base, width=width)


@dataclasses.dataclass
class _Loop:
    """Operations that share a loop over columns; of another kind than these, one alone."""

    width: int
    equations: list[Any]
    alone: bool = False


class Emitter:
    """Writes the stages of one half of a step. `places` says where each variable lies."""

    def __init__(self, equations: Iterable[Any], places: Mapping[Any, Place], outputs: Iterable[Any]):
        """equations: of all stages; outputs: all variables that are read outside of them."""
        self.places: dict[Any, Place] = dict(places)
        self.lines: list[str] = []
        self.scratch: list[tuple[str, str, int, int]] = []
        """(name, type, columns, more rows) of the arrays [rows of a block, columns] that the code needs beside its
        arguments."""
        self.numbers: dict[Any, Any] = {}
        """The literals that variables stand for."""
        self.outputs = {v for v in outputs if not isinstance(v, Literal)}
        self._used_by: dict[Any, set[int]] = {}
        self._live: set[int] = set()
        self._names = 0
        self._views: dict[Any, tuple[Any, int, int]] = {}
        """Of a variable that is part of another: that, its first column, and how many."""
        self._maker: dict[Any, int] = {}
        equations = list(equations)
        needed = set(self.outputs)
        for equation in reversed(equations):
            if any(v in needed for v in equation.outvars):
                self._live.add(id(equation))
                needed |= {v for v in equation.invars if not isinstance(v, Literal)}

    def new_scratch(self, kind: str, width: int, rows: int = 0) -> Place:
        """Memory for an array of the block, or of more rows beside those of the block."""
        self._names += 1
        name = f"s{self._names}"
        self.scratch.append((name, kind, width, rows))
        return Place(name, str(width), width, kind)

    def stage(self, equations: Sequence[Any], homes: Mapping[Any, Place], later: Iterable[Any]) -> None:
        """Writes a stage. homes: where variables are to be stored, if this stage makes them. later: equations of later
        stages."""
        live = [e for e in equations if id(e) in self._live]
        loops = self._loops(live)
        inside = {id(e): loop for loop in loops for e in loop.equations}
        read_late = {v for e in later if id(e) in self._live for v in e.invars if not isinstance(v, Literal)}
        kept = {self._source(v) for v in read_late | self.outputs}
        for loop in loops:
            for e in loop.equations:
                for v in e.invars:
                    if not isinstance(v, Literal):
                        maker = self._maker.get(self._source(v))
                        if maker is not None and inside.get(maker) is not loop:
                            kept.add(self._source(v))
        homes = {self._whole(v): home for v, home in homes.items()}
        if not loops:
            return
        self.lines.append("for (long r = 0; r < rows; ++r) {")
        for loop in loops:
            self._write(loop, kept, homes)
        self.lines.append("}")

    # --- which operations share a loop -------------------------------------------------------------------------------

    def _source(self, variable: Any) -> Any:
        """The variable whose memory another one is a view of."""
        while variable in self._views:
            variable = self._views[variable][0]
        return variable

    def _whole(self, variable: Any) -> Any:
        """The variable that another one is a view of, all of it."""
        while variable in self._views:
            source, start, width = self._views[variable]
            if start or width != width_of(source.aval.shape) or width != width_of(variable.aval.shape):
                break
            variable = source
        return variable

    def _loops(self, equations: Sequence[Any]) -> list[_Loop]:
        self._maker = {}
        loops: list[_Loop] = []
        unreadable: set[Any] = set()  # Of the last loop: what can be read only after it.
        for e in equations:
            name = e.primitive.name
            if name not in KNOWN:
                raise Unsupported(f"`{name}`")
            if self._is_view(e):
                if any(self._source(v) in {self._source(o) for o in _made(loops)} for v in e.outvars) and name in (
                    "split",
                    "slice",
                ):
                    unreadable |= set(e.outvars)
                read = e.invars[0]
                unreadable |= {v for v in e.outvars if not isinstance(read, Literal) and read in unreadable}
                continue
            width = width_of((e.invars[0] if name in REDUCED else e.outvars[0]).aval.shape)
            alone = name in ("concatenate", "pad", "cumsum")
            reads = {v for v in e.invars if not isinstance(v, Literal)}
            joins = loops and not alone and not loops[-1].alone and loops[-1].width == width and not reads & unreadable
            if not joins:
                loops.append(_Loop(width, [], alone))
                unreadable = set()
            loops[-1].equations.append(e)
            if name in REDUCED:
                unreadable |= set(e.outvars)
            self._maker |= {v: id(e) for v in e.outvars}
        return loops

    def _is_view(self, e: Any) -> bool:
        """Notes what is a view of another array, or a number."""
        name = e.primitive.name
        if name in SAME or name == "broadcast_in_dim":
            (operand, *_), (out,) = e.invars, e.outvars
            if isinstance(operand, Literal):
                self.numbers[out] = operand
                return True
            if operand in self.numbers:
                self.numbers[out] = self.numbers[operand]
                return True
            before, after = width_of(operand.aval.shape), width_of(out.aval.shape)
            if before not in (1, after) or kind_of(operand.aval.dtype) != kind_of(out.aval.dtype):
                raise Unsupported(f"`{name}` of {list(operand.aval.shape)}")
            self._views[out] = (operand, 0, before)
            return True
        if name == "iota":
            if e.params["dimension"] != len(e.outvars[0].aval.shape) - 1:
                raise Unsupported("`iota` of rows")
            return False
        if name == "split":
            if e.params["axis"] != len(e.invars[0].aval.shape) - 1:
                raise Unsupported("`split` of rows")
            start = 0
            for out in e.outvars:
                width = width_of(out.aval.shape)
                self._views[out] = (e.invars[0], start, width)
                start += width
            return True
        if name == "slice":
            strides = e.params["strides"]
            if strides is not None and set(strides) != {1}:
                raise Unsupported("`slice` with strides")
            out = e.outvars[0]
            if has_rows(e.invars[0].aval.shape) and not has_rows(out.aval.shape):
                raise Unsupported("`slice` of rows")
            self._views[out] = (e.invars[0], e.params["start_indices"][-1], width_of(out.aval.shape))
            return True
        return False

    def place(self, variable: Any) -> Place | None:
        """Where a variable lies; None for a number."""
        start, width = 0, None
        while variable not in self.places:
            if variable in self.numbers:
                return None
            variable, more, of_view = self._views[variable]
            start += more
            width = of_view if width is None else width
        at = self.places[variable]
        return at if width is None or at.width == 1 else at.shifted(start, width)

    def literal(self, variable: Any) -> str | None:
        """The number that a variable, or literal, stands for."""
        dtype = variable.aval.dtype
        stands_for: Any = variable if isinstance(variable, Literal) else self.numbers.get(variable)
        return None if stands_for is None else number(stands_for.val, dtype)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, loop: _Loop, kept: set[Any], homes: Mapping[Any, Place]) -> None:
        for v in _made([loop]):
            if self._source(v) in kept or loop.alone:
                home = homes.get(v)
                self.places[v] = home or self.new_scratch(kind_of(v.aval.dtype), width_of(v.aval.shape))
        if loop.alone:
            self._write_alone(loop.equations[0])
            return
        here = set(_made([loop]))
        before, inside, after = [], [], []
        names: dict[str, str] = {}

        def pointer(place: Place) -> str:
            row = place.row()
            if row not in names:
                names[row] = f"p{len(names)}"
                before.append(f"{place.kind}* {names[row]} = ({place.kind}*)({row});")
            return names[row]

        locals_: dict[Any, str] = {}

        def operand(v: Any) -> str:
            text = self.literal(v)
            if text is not None:
                return text
            source = self._whole(v)
            if source in here:
                return locals_[source]
            at = self.place(v)
            assert at is not None
            if at.width == 1:
                name = f"{pointer(at)}v"
                line = f"const {at.kind} {name} = *{pointer(at)};"
                if line not in before:
                    before.append(line)
                return name
            return f"{pointer(at)}[j]"

        for e in loop.equations:
            (out,) = e.outvars
            locals_[out] = f"v{len(locals_)}"
            kind = kind_of(out.aval.dtype)
            name = e.primitive.name
            if name in REDUCED:
                before.append(f"{kind} {locals_[out]} = {STARTS[name]};")
                value = REDUCED[name].format(locals_[out], operand(e.invars[0]))
                inside.append(f"{locals_[out]} = {value};")
                if out in self.places:
                    after.append(f"*{pointer(self.places[out])} = {locals_[out]};")
                continue
            text = f"{kind}(j)" if name == "iota" else expression(e, [operand(v) for v in e.invars])
            inside.append(f"const {kind} {locals_[out]} = {text};")
            if out in self.places:
                inside.append(f"{pointer(self.places[out])}[j] = {locals_[out]};")
        self.lines.append("{")
        self.lines += before
        self.lines.append("#pragma GCC ivdep")
        self.lines.append(f"for (long j = 0; j < {loop.width}; ++j) {{")
        self.lines += inside
        self.lines.append("}")
        self.lines += after
        self.lines.append("}")

    def _write_alone(self, e: Any) -> None:
        out, name = self.places[e.outvars[0]], e.primitive.name
        if name == "concatenate":
            start = 0
            for v in e.invars:
                width = width_of(v.aval.shape)
                self.copy(v, out.shifted(start, width), width)
                start += width
        elif name == "pad":
            low, high, between = map(int, e.params["padding_config"][-1])
            if between or low < 0 or high < 0:
                raise Unsupported("`pad` with gaps")
            width = width_of(e.invars[0].aval.shape)
            for start, count in ((0, low), (low + width, high)):
                if count:
                    self.copy(e.invars[1], out.shifted(start, count), count)
            self.copy(e.invars[0], out.shifted(low, width), width)
        else:  # cumsum
            at = self.place(e.invars[0])
            assert at is not None
            width, back = width_of(e.outvars[0].aval.shape), e.params["reverse"]
            if e.params["axis"] != len(e.outvars[0].aval.shape) - 1:
                raise Unsupported("`cumsum` over rows")
            index = f"{width - 1} - j" if back else "j"
            self.lines.append(
                f"{{ {out.kind} sum = 0; for (long j = 0; j < {width}; ++j) {{ "
                f"sum += {at.element(index)}; ({out.row()})[{index}] = sum; }} }}"
            )

    def copy(self, variable: Any, to: Place, width: int) -> None:
        """Writes a variable's row r to a place."""
        text = self.literal(variable)
        if text is None:
            at = self.place(variable)
            assert at is not None
            text = at.element()
        self.lines.append(f"for (long j = 0; j < {width}; ++j) ({to.row()})[j] = {to.kind}({text});")

    def put(self, variable: Any, to: Place) -> None:
        """Writes a variable of all rows to a place, unless it lies there."""
        if self.literal(variable) is None and self.place(variable) == to:
            return
        self.lines.append("for (long r = 0; r < rows; ++r)")
        self.copy(variable, to, to.width)


def _made(loops: Sequence[_Loop]) -> list[Any]:
    return [v for loop in loops for e in loop.equations for v in e.outvars]
