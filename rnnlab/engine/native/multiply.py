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
        return self.emitter.new_scratch(self.switches.real, self.padded(columns)).shifted(0, columns)

    def operand(self, place: Place, rows: int, of_state: bool, pairs: bool) -> Place:
        """A value as a product takes it: times the state's mask, rounded."""
        lines = self.emitter.lines
        masks = of_state and self.switches.state_mask and not self.transposed
        if not masks and not self.switches.rounds and place.width == rows and place.kind == self.switches.real:
            return place
        value = f"{self.switches.real}({place.element()})"
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

    def times(self, name: str, value: Place) -> Place:
        """Code for a value times a matrix, or times its transpose; where the product lies."""
        matrix, number = self.program.matrices[name], self.numbers[name]
        inner, columns = (matrix.columns, matrix.rows) if self.transposed else (matrix.rows, matrix.columns)
        value = self.operand(value, inner, matrix.of_state, self.in_pairs(name))
        out = self.room(columns)
        each = f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {columns}; ++j) ({out.row()})[j]"
        if matrix.kernel.ndim == 1:
            self.emitter.lines.append(f"{each} = ({value.row()})[j] * matrix{number}[j];")
        elif matrix.kernel.ndim == 2:
            self._multiply(value, f"matrix{number}", inner, columns, out)
        else:
            self._by_heads(matrix, f"matrix{number}", value, out)
        if not self.transposed and matrix.offset is not None:
            self.emitter.lines.append(f"{each} += offset{number}[j];")
        if self.transposed and matrix.of_state and self.switches.state_mask:
            self.emitter.lines.append(f"{each} *= state_mask[(first + r) * state_width + j % state_width];")
        return out

    def _by_heads(self, matrix: Matrix, packed: str, value: Place, out: Place) -> None:
        """Each head's part of a value by its block. Of the products, the parts lie side by side, and in each of them
        the heads; a head's block has its parts side by side."""
        heads, rows, columns = matrix.kernel.shape
        sizes = (matrix.parts, columns), (1, rows)
        (parts_in, inner), (parts_out, width) = sizes if self.transposed else sizes[::-1]
        piece, result = self.room(inner), self.room(width)

        def each(parts: int, size: int, left: str, right: str) -> str:
            part = size // parts
            loops = (
                f"for (long r = 0; r < rows; ++r) for (long p = 0; p < {parts}; ++p) for (long j = 0; j < {part}; ++j)"
            )
            whole, own = f"[p * {heads * part} + head * {part} + j]", f"[p * {part} + j]"
            return f"{loops} {left.format(whole=whole, own=own)} = {right.format(whole=whole, own=own)};"

        self.emitter.lines += [
            f"for (long head = 0; head < {heads}; ++head) {{",
            each(parts_in, inner, f"({piece.row()}){{own}}", f"({value.row()}){{whole}}"),
        ]
        self._multiply(piece, f"{packed} + head * {inner * self.padded(width)}", inner, width, result)
        self.emitter.lines += [each(parts_out, width, f"({out.row()}){{whole}}", f"({result.row()}){{own}}"), "}"]

    def _multiply(self, value: Place, packed: str, inner: int, columns: int, out: Place) -> None:
        operand, stride = value.base, value.stride
        if value.kind == "uint16_t":
            inner = (inner + 1) // 2
            operand, stride = f"(const uint32_t*){value.base}", str(inner)
        arguments = operand, stride, "rows", packed, str(inner), str(columns), out.base, out.stride
        self.emitter.lines.append(f"multiply({', '.join(arguments)});")


def value_place(emitter: Emitter, variable: Any, width: int) -> Place:
    """Where the value that meets a matrix lies, with all its columns."""
    at = None if emitter.literal(variable) is not None else emitter.place(variable)
    if at is not None and at.width == width:
        return at
    copy = emitter.new_scratch(kind_of(variable.aval.dtype), width)
    emitter.put(variable, copy)
    return copy
