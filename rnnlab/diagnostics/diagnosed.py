"""What a diagnosis came to: as plain JSON, read back, as a table of its layers and as notes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.files import read_json


def plain_arrays(value: Any) -> Any:
    """Arrays as nested lists of six digits, for JSON; strings stand for what is not finite."""
    if isinstance(value, Mapping):
        return {name: plain_arrays(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_arrays(each) for each in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return plain_arrays(np.asarray(value).tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else str(value)
    return value


DIAGNOSE_AGAIN = "remove it and diagnose again"


def read_diagnosis(path: Path) -> dict[str, Any]:
    """The object in a diagnosis.json, whose fields are not looked at.

    Raises:
        ConfigError: it is not there, or damaged.
    """
    return read_json(path, DIAGNOSE_AGAIN)


def table_rows(result: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The layers and directions of a diagnosis, and what was measured on them: (name, a text for each)."""
    layers = list(dict.fromkeys(n for measured in _measured(result) for n in measured if n.startswith("layer")))
    rows = []
    for name, cell in _COLUMNS.items():
        cells = []
        for layer in layers:
            try:
                cells.append(cell(result, layer))
            except KeyError:  # It was not measured.
                cells.append("")
        if any(cells):
            rows.append((name, cells))
    return layers, rows


def notes(result: Mapping[str, Any]) -> list[str]:
    """The notes beside the numbers of a diagnosis."""
    return [measured["note"] for measured in _measured(result) if "note" in measured]


def _measured(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in result.values() if isinstance(each, Mapping)]


def _short(value: Any) -> str:
    return f"{float(value):.4g}"


def _horizon_text(horizon: Mapping[str, Any], layer: str) -> str:
    reach, longest = horizon[layer]["horizon"], horizon["longest_dependency"]
    return str(reach) if longest is None else f"{reach} of {longest}"


def _exponent_text(result: Mapping[str, Any], layer: str) -> str:
    if "lyapunov" in result:
        mean, error = (result["lyapunov"][layer][name][0] for name in ("mean", "error"))
    else:
        mean, error = (result["newton"][layer][name] for name in ("exponent", "error"))
    return f"{float(mean):.4g} ± {float(error):.2g}"


def _newton_text(measured: Mapping[str, Any]) -> str:
    """As "4 full, 18 diagonal"; with a + where a row had not converged."""
    words = []
    for kind, each in measured["kinds"].items():
        words.append(f"{each['iterations']}{'' if float(each['converged']) == 1 else '+'} {kind}")
    return ", ".join(words)


def _needed(cosines: list[Any]) -> str:
    """After how many steps back the gradient so far points where the whole one does, to a cosine of 0.9."""
    enough = next((lag for lag, cosine in enumerate(cosines) if float(cosine) >= 0.9), None)
    last = len(cosines) - 1  # The part of all that is further back.
    return "none" if enough is None else f"{last} or more" if enough == last else str(enough)


_COLUMNS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "gradient's factor per step back": lambda r, layer: _short(r["horizon"][layer]["factor"]),
    "its half-life, steps": lambda r, layer: _short(r["horizon"][layer]["half_life"]),
    "its horizon, of the longest dependency": lambda r, layer: _horizon_text(r["horizon"], layer),
    "largest Lyapunov exponent": lambda r, layer: _exponent_text(r, layer),
    "Newton iterations, of the steps": lambda r, layer: (
        f"{_newton_text(r['newton'][layer])}, of {r['newton'][layer]['steps']}"
    ),
    "largest |eigenvalue| of J": lambda r, layer: (
        f"{max(abs(complex(*map(float, v))) for row in r['jacobians'][layer]['eigenvalues'] for v in row):.4g}"
    ),
    "steps back to a cosine of 0.9 with ∂L/∂R": lambda r, layer: _needed(r["lags"][layer]["cosine"]),
}
