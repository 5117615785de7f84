"""Rules by which a kernel runs the operations of a step, segment by segment (`axes`).

Every operation that a step may have stands here; a step with another is run by another backend.
"""

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from rnnlab.engine.halves import ROWS, Half, Unsupported, width_of
from rnnlab.engine.kernel.axes import Axis, Cuts, Value, without_padding

Joined = Callable[[jax.Array, Any, float], jax.Array]
"""`Team.joined`: of a sum over a program's columns, that of all programs."""


def link(equation: Any, cuts: Cuts, key: Callable[[Any], Hashable]) -> None:
    """Says where the columns of an equation's arrays are cut. key: of a variable, which is added."""
    name = equation.primitive.name
    operands = [(key(a), width_of(a.aval.shape)) for a in equation.invars if not isinstance(a, Literal)]
    results = [(key(a), width_of(a.aval.shape)) for a in equation.outvars]
    if name in ELEMENTWISE or name in IDENTITY or name in RESHAPED:
        (result, width), *_ = results
        for operand, other in operands:
            _need(other in (1, width) and (other == width or name not in ("reshape", "squeeze")), equation)
            if width == other > 1:
                cuts.link(operand, result)
    elif name in ("concatenate", "split"):
        pieces, (whole, _) = (operands, results[0]) if name == "concatenate" else (results, operands[0])
        axis = equation.params["dimension" if name == "concatenate" else "axis"]
        _need(axis == 1 and len(pieces) == len(equation.invars if name == "concatenate" else results), equation)
        start = 0
        for piece, width in pieces:
            cuts.link(piece, whole, 0, start, width)
            start += width
    elif name == "slice":
        (operand, width), (result, kept) = operands[0], results[0]
        strides = equation.params["strides"]
        _need(strides is None or set(strides) == {1}, equation)
        start = equation.params["start_indices"][-1]
        _need(kept == width or equation.invars[0].aval.shape[0] == equation.outvars[0].aval.shape[0], equation)
        cuts.link(result, operand, 0, start, kept)
    elif name == "pad":
        low, high, between = equation.params["padding_config"][-1]
        _need(between == 0 and low >= 0 and high >= 0, equation)
        _need(all(each == (0, 0, 0) for each in equation.params["padding_config"][:-1]), equation)
        (operand, width), (result, _) = operands[0], results[0]
        cuts.link(operand, result, 0, low, width)
    elif name in REDUCED:
        _need(equation.params["axes"] == (len(equation.invars[0].aval.shape) - 1,), equation)


def check(equation: Any) -> None:
    """Raises Unsupported for an equation that has no rule here."""
    _need(equation.primitive.name in KNOWN, equation)


def _need(condition: bool, equation: Any) -> None:
    if not condition:
        shapes = ", ".join(str(list(a.aval.shape)).replace(str(ROWS), "B") for a in equation.invars)
        name = equation.primitive.name
        why = ", and within a kernel columns cannot be shifted" if name in RUNNING else ""
        raise Unsupported(f"`{name}` of {shapes}{why}")


def run_half(
    half: Half,
    values: dict[Any, Value],
    axes: Mapping[Any, Axis],
    exchange: Callable[[int, list[Value]], Sequence[Value]],
    joined: Joined,
) -> Callable[[Any], Any]:
    """Runs a half of a step within a kernel. values: of the free variables and of the inputs from the start. exchange:
    that of `Stages`. Returns what reads a variable, or a number."""
    stages = half.stages
    late, outputs = iter(half.jaxpr.invars[stages.early :]), iter(half.jaxpr.outvars)

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for number, equations in enumerate(half.inside):
        for equation in equations:
            of_inputs = [None if isinstance(v, Literal) else axes[v] for v in equation.invars]
            results = [axes[v] for v in equation.outvars]
            operands = [read(v) for v in equation.invars]
            values.update(zip(equation.outvars, evaluate(equation, operands, of_inputs, results, joined), strict=True))
        if number < len(stages.sent):
            brought = exchange(number, [read(next(outputs)) for _ in range(stages.sent[number])])
            values.update(zip((next(late) for _ in range(stages.received[number])), brought, strict=True))
    return read


def evaluate(
    equation: Any, operands: Sequence[Any], axes: Sequence[Any], results: Sequence[Axis], joined: Joined
) -> list[Value]:
    """The results of an equation. operands: values, or numbers; axes, results: theirs, None for a number."""
    name, params = equation.primitive.name, equation.params
    if name in ELEMENTWISE:
        count = len(results[0].segments)
        return [Value([functools.partial(_element, equation, operands, count, number) for number in range(count)])]
    if name in IDENTITY:
        return [operands[0]]
    if name in RESHAPED:
        return [_spread(operands[0], results[0], equation.outvars[0].aval.dtype)]
    if name == "concatenate":
        return [Value([make for operand in operands for make in operand.taken(range(len(operand)))])]
    if name == "split":
        values, first = [], 0
        for axis in results:
            numbers = range(first, first + len(axis.segments))
            values.append(Value(operands[0].taken(numbers)))
            first = numbers.stop
        return values
    if name == "slice":
        start, width = params["start_indices"][-1], results[0].width
        kept = [n for n, each in enumerate(axes[0].segments) if start <= each.start < start + width]
        return [Value(operands[0].taken(kept))]
    if name == "pad":
        low, pieces = params["padding_config"][-1][0], iter(operands[0].taken(range(len(operands[0]))))
        makers = []
        for each in results[0].segments:
            inside = low <= each.start < low + axes[0].width
            empty = functools.partial(_filled, operands[1], (1, each.padded), equation.outvars[0].aval.dtype)
            makers.append(next(pieces) if inside else empty)
        return [Value(makers)]
    if name in REDUCED:
        return [Value([functools.partial(_reduced, REDUCED[name], operands[0], axes[0], joined)])]

    def steps(each: Any) -> jax.Array:
        columns = lax.broadcasted_iota(jnp.int32, (1, each.padded), 1) + each.offset
        return (columns + each.start).astype(params["dtype"])

    return [Value([functools.partial(steps, each) for each in results[0].segments])]  # iota


def _reduced(rule: Any, operand: Value, axis: Axis, joined: Joined) -> jax.Array:
    reduce, join, empty = rule
    cleared = without_padding(operand, axis, empty).arrays()
    sums = [reduce(a, axis=1, keepdims=True) for a in cleared if a.shape[1] > 1]
    wide = [joined(functools.reduce(join, sums), reduce, empty)] if sums else []
    return functools.reduce(join, [*wide, *(a for a in cleared if a.shape[1] == 1)])


def _element(equation: Any, operands: Sequence[Any], count: int, number: int) -> jax.Array:
    """A segment of what an equation makes element by element."""
    picked = [a[number if len(a) == count else 0] if isinstance(a, Value) else a for a in operands]
    shapes = [a.shape for a in picked if getattr(a, "ndim", 0) == 2]
    shape = np.broadcast_shapes(*shapes) if shapes else (1, 1)
    avals = [a.aval for a in equation.invars]
    full = [_filled(a, shape, aval.dtype) for a, aval in zip(picked, avals, strict=True)]
    if equation.primitive.name in _WRITTEN:
        return _WRITTEN[equation.primitive.name](*full)
    if equation.primitive.name == "integer_pow":
        return _power(full[0], equation.params["y"])
    return equation.primitive.bind(*full, **equation.params)


def _power(a: jax.Array, exponent: int) -> jax.Array:
    if exponent < 0:
        return 1 / _power(a, -exponent)
    result = jnp.ones_like(a) if exponent == 0 else a
    for _ in range(exponent - 1):
        result = result * a
    return result


def _sign(a: jax.Array) -> jax.Array:
    one = jnp.ones_like(a)
    return jnp.where(a > 0, one, jnp.where(a < 0, -one, a))


def _expm1(a: jax.Array) -> jax.Array:
    return jnp.tanh(0.5 * a) * (jnp.exp(a) + 1)


def _sinh(a: jax.Array) -> jax.Array:
    grown = _expm1(jnp.abs(a))
    return _sign(a) * 0.5 * jnp.where(jnp.isinf(grown), grown, grown + grown / (grown + 1))


def _asinh(a: jax.Array) -> jax.Array:
    size = jnp.abs(a)
    small = jnp.minimum(size, 1e9)  # Above, asinh is ln 2 |a|, and a² may be too large.
    wide = jnp.log(jnp.maximum(size, 1.0)) + math.log(2)
    narrow = jnp.log1p(small + small * small / (1 + jnp.sqrt(1 + small * small)))
    return _sign(a) * jnp.where(size > small, wide, narrow)


def _acosh(a: jax.Array) -> jax.Array:
    over = jnp.clip(a, -1.0, 1e9) - 1
    wide = jnp.log(jnp.maximum(a, 1.0)) + math.log(2)
    return jnp.where(a > 1e9, wide, jnp.log1p(over + jnp.sqrt(over * (over + 2))))


def _cbrt(a: jax.Array) -> jax.Array:
    size = jnp.abs(a)
    usual = jnp.where((size > 0) & (size < np.inf), size, 1.0)
    root = jnp.exp(jnp.log(usual) / 3)
    root = root - (root - usual / (root * root)) / 3  # A step of Newton's: the exponential of a rounded number is off.
    return jnp.where(usual == size, _sign(a) * root, a)


_WRITTEN: dict[str, Any] = {
    "sign": _sign,  # Triton has none; the others Mosaic has not, or not with each jax.
    "expm1": _expm1,
    "sinh": _sinh,
    "cosh": lambda a: 0.5 * (jnp.exp(a) + jnp.exp(-a)),
    "asin": lambda a: jnp.arctan2(a, jnp.sqrt((1 + a) * (1 - a))),
    "acos": lambda a: jnp.arctan2(jnp.sqrt((1 + a) * (1 - a)), a),
    "atan": lambda a: jnp.arctan2(a, jnp.ones_like(a)),
    "asinh": _asinh,
    "acosh": _acosh,
    "atanh": lambda a: 0.5 * (jnp.log1p(a) - jnp.log1p(-a)),
    "cbrt": _cbrt,
    "log2": lambda a: jnp.log(a) / math.log(2),
    "one_minus_square": lambda a: (1 + a) * (1 - a),
}
"""Operations made of others that all compilers have."""


def _filled(a: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """An array, or a number, of this shape."""
    if isinstance(a, Value):
        a = a[0]
    if getattr(a, "ndim", 0) == 2:
        return a if a.shape == shape else jnp.broadcast_to(a, shape)
    return lax.full(shape, np.asarray(a).item(), dtype)


def _spread(operand: Any, axis: Axis, dtype: Any) -> Value:
    """A value whose axes of one element became, or were, more."""

    def segment(number: int) -> jax.Array:
        count = len(operand) if isinstance(operand, Value) else 1
        one = operand[number if count == len(axis.segments) else 0] if isinstance(operand, Value) else operand
        rows = one.shape[0] if getattr(one, "ndim", 0) == 2 else 1
        return _filled(one, (rows, axis.segments[number].padded), dtype)

    return Value([functools.partial(segment, number) for number in range(len(axis.segments))])


IDENTITY = frozenset({"reduce_precision", "stop_gradient", "copy", "copy_p"})
"""They change no number of the type that it has; `reduce_precision` stands where JAX keeps one for the pullback."""

RESHAPED = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims"})

REDUCED: dict[str, Any] = {
    "reduce_sum": (jnp.sum, jnp.add, 0.0),
    "reduce_max": (jnp.max, jnp.maximum, -np.inf),
    "reduce_min": (jnp.min, jnp.minimum, np.inf),
}
"""Over the columns: in a segment, of two segments, and what is in the padding."""

# fmt: off
ELEMENTWISE = frozenset({
    "add", "add_any", "sub", "mul", "div", "neg", "sign", "max", "min", "abs", "select_n", "gt", "ge", "lt", "le", "eq",
    "ne", "and", "or", "not", "xor", "exp", "exp2", "expm1", "log", "log1p", "tanh", "sin", "cos", "tan", "asin",
    "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "logistic", "sqrt", "rsqrt", "cbrt", "square",
    "one_minus_square", "log2", "integer_pow", "pow", "rem", "floor", "ceil", "is_finite", "clamp",
    "convert_element_type",
})
# fmt: on
"""All that makes each element of those in its place, and that Triton and Mosaic have, or `_WRITTEN`."""

RUNNING = frozenset({"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"})
"""Along the units: each column of those before it."""

KNOWN = ELEMENTWISE | IDENTITY | RESHAPED | {*REDUCED, "concatenate", "split", "slice", "pad", "iota"}
