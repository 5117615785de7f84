"""The operations of a step in C++, element by element; a step with another is run by another backend."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnlab.engine.halves import Unsupported

KINDS = {"float32": "float", "float64": "double", "bool": "bool", "int32": "int32_t", "int64": "int64_t"}
"""The types of arrays that a step may have, and theirs in C++."""


def kind_of(dtype: Any) -> str:
    """The C++ type of arrays of a type.

    Raises:
        Unsupported: there is none here.
    """
    name = np.dtype(dtype).name
    if name not in KINDS:
        raise Unsupported(f"an array of {name}")
    return KINDS[name]


def number(value: Any, dtype: Any) -> str:
    """A number as C++ writes it."""
    kind, value = kind_of(dtype), np.asarray(value).item()
    if kind == "bool":
        return "1" if value else "0"
    if kind in ("int32_t", "int64_t"):
        return str(value)
    if np.isnan(value):
        text = "NAN"
    elif np.isinf(value):
        text = "INFINITY" if value > 0 else "(-INFINITY)"
    else:
        text = f"{float(value)!r}"
    return f"{kind}({text})"


def expression(equation: Any, operands: Sequence[str]) -> str:
    """The value of an elementwise equation. operands: its inputs' expressions."""
    name, params = equation.primitive.name, equation.params
    kind = kind_of(equation.outvars[0].aval.dtype)
    if name == "select_n":
        if len(operands) != 3:
            raise Unsupported("`select_n` of more than two")
        return f"({operands[0]} ? {operands[2]} : {operands[1]})"
    if name == "convert_element_type":
        return f"{kind}({operands[0]} != 0)" if kind == "bool" else f"{kind}({operands[0]})"
    if name == "integer_pow":
        return _power(operands[0], params["y"], kind)
    if name == "abs" and kind.startswith("int"):
        return f"abs({operands[0]})"
    if name == "not":
        return f"(!{operands[0]})" if kind == "bool" else f"(~{operands[0]})"
    if name in _BINARY:
        return f"{kind}({operands[0]} {_BINARY[name]} {operands[1]})"
    if name in _CALLS:
        return f"{_CALLS[name]}({', '.join(operands)})"
    return _WRITTEN[name](kind, *operands)


def _power(a: str, exponent: int, kind: str) -> str:
    if exponent == 0:
        return f"{kind}(1)"
    product = f"({' * '.join([a] * abs(exponent))})"
    return product if exponent > 0 else f"({kind}(1) / {product})"


_BINARY = {
    "add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "lt": "<", "ge": ">=", "le": "<=",
    "eq": "==", "ne": "!=", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_CALLS = {
    "max": "maximum_", "min": "minimum_", "sign": "sign_", "tanh": "tanh_", "exp": "exp_", "logistic": "logistic_",
    "clamp": "clamped_", "exp2": "exp2", "expm1": "expm1", "log": "log", "log1p": "log1p", "sin": "sin", "cos": "cos",
    "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "atan2": "atan2", "sinh": "sinh", "cosh": "cosh",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "sqrt": "sqrt", "cbrt": "cbrt", "pow": "pow", "rem": "fmod",
    "floor": "floor", "ceil": "ceil", "abs": "fabs", "erf": "erf", "erfc": "erfc",
}  # fmt: skip
_WRITTEN: dict[str, Callable[..., str]] = {
    "neg": lambda kind, a: f"(-{a})",
    "square": lambda kind, a: f"({a} * {a})",
    "one_minus_square": lambda kind, a: f"(({kind}(1) + {a}) * ({kind}(1) - {a}))",
    "log2": lambda kind, a: f"{kind}(log({a}) * {kind}(1.4426950408889634))",
    "rsqrt": lambda kind, a: f"({kind}(1) / {kind}(sqrt({a})))",
    "is_finite": lambda kind, a: f"bool({a} - {a} == 0)",
}
ELEMENTWISE = frozenset({*_BINARY, *_CALLS, *_WRITTEN, "select_n", "convert_element_type", "integer_pow", "not"})
"""All that makes each element of those in its place."""
SAME = frozenset({"reduce_precision", "stop_gradient", "copy", "copy_p", "reshape", "squeeze", "expand_dims"})
"""They change nothing of an array but its shape, or nothing at all; `reduce_precision` stands where JAX keeps one for
the pullback."""
REDUCED = {"reduce_sum": "{0} + {1}", "reduce_max": "maximum_({0}, {1})", "reduce_min": "minimum_({0}, {1})"}
"""Over the columns."""
STARTS = {"reduce_sum": "0", "reduce_max": "-INFINITY", "reduce_min": "INFINITY"}
KNOWN = ELEMENTWISE | SAME | {*REDUCED, "broadcast_in_dim", "concatenate", "split", "slice", "pad", "iota", "cumsum"}


def check(equation: Any) -> None:
    """Raises Unsupported for an equation that has no rule here."""
    name = equation.primitive.name
    if name not in KNOWN:
        raise Unsupported(f"`{name}`")
    for variable in (*equation.invars, *equation.outvars):
        kind_of(variable.aval.dtype)
