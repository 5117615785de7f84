"""C++ code for the products of a step."""

from typing import Any

from rnnlab.engine.contract import Matrix
from rnnlab.engine.native.emit import Emitter, Place
from rnnlab.engine.native.program import Program
from rnnlab.engine.native.rules import kind_of
from rnnlab.engine.native.source import Buffer, Switches


def in_pairs(switches: Switches, matrix: Matrix) -> bool:
    """Whether a matrix is multiplied in pairs of bfloat16."""
    return switches.pairs and matrix.kernel.ndim == 2


class Products:
    """Code of products."""

    def __init__(self, program: Program, switches: Switches, emitter: Emitter, transposed: bool):
        self.program, self.switches, self.emitter, self.transposed = program, switches, emitter, transposed
        self.numbers = program.matrix_numbers

    def buffers(self) -> list[Buffer]:
        """The matrices, packed, and what is added to their products."""
        real, buffers = self.switches.real, []
        for name, number in self.numbers.items():
            kind = "uint32_t" if self.in_pairs(name) else real
            buffers.append(Buffer(f"matrix{number}", kind))
            if self.program.matrices[name].offset is not None and not self.transposed:
                buffers.append(Buffer(f"offset{number}", real))
        return buffers

    def in_pairs(self, name: str) -> bool:
        """Whether a matrix is multiplied in pairs of bfloat16."""
        return in_pairs(self.switches, self.program.matrices[name])

    def padded(self, columns: int) -> int:
        return -(-columns // self.switches.panel) * self.switches.panel

    def room(self, columns: int) -> Place:
        """Memory for a product, which writes whole vectors."""
        place = self.emitter.new_scratch(self.switches.real, self.padded(columns))
        return place.shifted(0, columns)

    def operand(self, place: Place, rows: int, of_state: bool, pairs: bool) -> Place:
        """A value as a product takes it: times the state's mask, rounded."""
        lines = self.emitter.lines
        masks = of_state and self.switches.state_mask and not self.transposed
        if not masks and not self.switches.rounds and place.width == rows and place.kind == self.switches.real:
            return place
        value = f"{self.switches.real}(({place.row()})[{'j' if place.width > 1 else '0'}])"
        if masks:
            value = f"{value} * state_mask[(first + r) * state_width + j % state_width]"
        loop = f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {rows}; ++j)"
        if pairs:
            halves = self.emitter.new_scratch("uint16_t", rows + rows % 2)
            lines.append(f"{loop} ({halves.row()})[j] = bits16({value}) >> 16;")
            if rows % 2:
                lines.append(f"for (long r = 0; r < rows; ++r) ({halves.row()})[{rows}] = 0;")
            return halves
        copy = self.emitter.new_scratch(self.switches.real, rows)
        if self.switches.rounds:
            value = f"rounded_({value})"
        lines.append(f"{loop} ({copy.row()})[j] = {value};")
        return copy

    def forward(self, name: str, value: Place) -> Place:
        """Code for a value times a matrix; where the product lies."""
        matrix, number = self.program.matrices[name], self.numbers[name]
        inner, columns, lines = matrix.rows, matrix.columns, self.emitter.lines
        value = self.operand(value, inner, matrix.of_state, self.in_pairs(name))
        out = self.room(columns)
        if matrix.kernel.ndim == 1:
            self._diagonal(value, f"matrix{number}", out, columns)
        elif matrix.kernel.ndim == 2:
            self._multiply(value, f"matrix{number}", inner, columns, out)
        else:
            heads, rows, width = matrix.kernel.shape
            part = width // matrix.parts
            piece = self.room(width)
            lines.append(f"for (long head = 0; head < {heads}; ++head) {{")
            self._multiply(value, f"matrix{number}", rows, width, piece, heads=True)
            lines.append(
                f"for (long r = 0; r < rows; ++r) for (long p = 0; p < {matrix.parts}; ++p) for (long j = 0; "
                f"j < {part}; ++j) ({out.row()})[p * {heads * part} + head * {part} + j] = "
                f"({piece.row()})[p * {part} + j];"
            )
            lines.append("}")
        if matrix.offset is not None:
            lines.append(
                f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {columns}; ++j) "
                f"({out.row()})[j] += offset{number}[j];"
            )
        return out

    def back(self, name: str, du: Place) -> Place:
        """Code for du times the matrix transposed; where it lies."""
        matrix, number = self.program.matrices[name], self.numbers[name]
        inner, columns, lines = matrix.columns, matrix.rows, self.emitter.lines
        du = self.operand(du, inner, matrix.of_state, self.in_pairs(name))
        out = self.room(columns)
        if matrix.kernel.ndim == 1:
            self._diagonal(du, f"matrix{number}", out, columns)
        elif matrix.kernel.ndim == 2:
            self._multiply(du, f"matrix{number}", inner, columns, out)
        else:
            heads, rows, width = matrix.kernel.shape
            part = width // matrix.parts
            piece, dpiece = self.room(width), self.room(rows)
            lines.append(f"for (long head = 0; head < {heads}; ++head) {{")
            lines.append(
                f"for (long r = 0; r < rows; ++r) for (long p = 0; p < {matrix.parts}; ++p) for (long j = 0; "
                f"j < {part}; ++j) ({piece.row()})[p * {part} + j] = "
                f"({du.row()})[p * {heads * part} + head * {part} + j];"
            )
            self._multiply(piece, f"matrix{number}", width, rows, dpiece, head_of_matrix=True)
            lines.append(
                f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {rows}; ++j) "
                f"({out.row()})[head * {rows} + j] = ({dpiece.row()})[j];"
            )
            lines.append("}")
        if matrix.of_state and self.switches.state_mask:
            lines.append(
                f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {columns}; ++j) "
                f"({out.row()})[j] *= state_mask[(first + r) * state_width + j % state_width];"
            )
        return out

    def _diagonal(self, value: Place, matrix: str, out: Place, columns: int) -> None:
        self.emitter.lines.append(
            f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {columns}; ++j) "
            f"({out.row()})[j] = ({value.row()})[j] * {matrix}[j];"
        )

    def _multiply(
        self,
        value: Place,
        matrix: str,
        inner: int,
        columns: int,
        out: Place,
        heads: bool = False,
        head_of_matrix: bool = False,
    ) -> None:
        if value.kind == "uint16_t":
            half, over = (inner + 1) // 2, (inner + 1) // 2
            self.emitter.lines.append(
                f"multiply((const uint32_t*){value.base}, {over}, rows, {matrix}, {half}, {columns}, {out.base}, "
                f"{out.stride});"
            )
            return
        start = f" + head * {inner}" if heads else ""
        if heads or head_of_matrix:
            matrix = f"{matrix} + head * {inner} * {self.padded(columns)}"
        self.emitter.lines.append(
            f"multiply({value.base}{start}, {value.stride}, rows, {matrix}, {inner}, {columns}, {out.base}, "
            f"{out.stride});"
        )


def value_place(emitter: Emitter, variable: Any, width: int) -> Place:
    """Where the value that meets a matrix lies, with all its columns."""
    place = None if emitter.literal(variable) is not None else emitter.place(variable)
    if place is not None and place.width == width:
        return place
    copy = emitter.new_scratch(kind_of(variable.aval.dtype), width)
    emitter.put(variable, copy)
    return copy
