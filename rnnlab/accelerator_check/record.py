"""The files that a check leaves: check.json, check.md and figures in a folder, written anew after every part."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.accelerator_check.correctness import TOLERANCE, refused
from rnnlab.accelerator_check.parts import PRECISIONS
from rnnlab.config.errors import ConfigError
from rnnlab.engine.measured import entries_of
from rnnlab.files import write_text
from rnnlab.files.markdown import markdown_table
from rnnlab.files.reading import read_json
from rnnlab.records.provenance import git_commit, versions

STAGES = ("correctness", "timing", "sweeps", "training")
CASES = 40
"""At most so many in a figure: a page's height."""


class Record:
    """The results so far, by stage and part."""

    def __init__(self, folder: Path, device: Mapping[str, Any]):
        """Reads what an earlier command has left.

        Raises:
            ConfigError: it is of another device or of other versions, or damaged.
        """
        self.folder, self.path = folder, folder / "check.json"
        self.content: dict[str, Any] = {"device": dict(device), "versions": versions(), "git_commit": git_commit()}
        self.content |= {stage: {} for stage in STAGES} | {"seconds": 0.0}
        if not self.path.exists():
            return
        kinds = {"device": {}, "versions": {}, "seconds": float} | {stage: {} for stage in STAGES}
        earlier = read_json(self.path, "restore it, or take another --output", kinds)
        for what in ("device", "versions"):
            if earlier[what] != self.content[what]:
                before, now = (", ".join(map(str, each[what].values())) for each in (earlier, self.content))
                raise ConfigError(f"--output: {folder} has a check with {before}; here is {now}; take another folder")
        self.content = earlier | {"git_commit": self.content["git_commit"]}

    def has(self, stage: str, part: str) -> bool:
        return part in self.content[stage]

    def put(self, stage: str, part: str, result: Any, seconds: float) -> None:
        """Adds a part's result and writes it."""
        self.content[stage][part] = result
        self.content["seconds"] += seconds
        self.write()

    def write(self) -> None:
        """Writes all files but the figures.

        Raises:
            Unwritable: they cannot be written.
        """
        write_text(self.path, json.dumps(self.content, indent=1) + "\n")
        self._write_page()
        write_text(self.folder / "backends.json", json.dumps({"entries": self.entries()}, indent=1) + "\n")

    def _write_page(self) -> None:
        figures = [path.name for path in sorted(self.folder.glob("timing_*.png"))]
        write_text(self.folder / "check.md", markdown(self.content, figures))

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """All rows of a stage whose parts have several."""
        return [row for rows in self.content[stage].values() for row in rows]

    def entries(self) -> list[dict[str, Any]]:
        """The lines for the engine's table of measured backends."""
        device = self.content["device"]
        return [] if device["platform"] == "cpu" else entries_of(device["kind"], self.rows("timing"))

    def wrong(self) -> list[dict[str, Any]]:
        """Parts that a device computes wrongly, or fails to compute."""
        return [row for row in self.rows("correctness") if not (row.get("right") or refused(row))]

    def draw(self) -> list[Path]:
        """Draws the figures of what there is, of step times: one for each precision and 40 cases."""
        from rnnlab.plots import benchmark_ratios

        paths = []
        timed = [row for row in self.rows("timing") if "step_ratio" in row]
        for precision in dict.fromkeys(row["precision"] for row in timed):
            cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for row in timed:
                if row["precision"] == precision:
                    cases.setdefault((row["cell"], row["shape"]), []).append(row)
            for page, first in enumerate(range(0, len(cases), CASES), 1):
                rows = [row for case in list(cases.values())[first : first + CASES] for row in case]
                path = self.folder / f"timing_{precision}{f'_{page}' if page > 1 else ''}.json"
                write_text(path, json.dumps({"results": rows}, indent=1) + "\n")
                paths.append(benchmark_ratios(path))
        self._write_page()
        return paths


# --- words -----------------------------------------------------------------------------------------------------------


OF_CORRECTNESS = f"""\
How far loss and all gradients are from double precision on the host, in parts of an array's largest element: right up
to {", ".join(f"{bound:g} ({name})" for name, bound in TOLERANCE.items() if name in PRECISIONS)}. On a CPU kernels are
interpreted. Refused: a backend says that it does not take the cell; check.json has its words.
"""
OF_TIMING = """\
Forward, backward and update of one layer, the median over turns. `rnnlab fused` is the default backend. –: not timed;
check.json says why.
"""


def markdown(content: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The page of a check."""
    device, parts = content["device"], ["# Check of an accelerator\n"]
    memory = "" if device["bytes"] is None else f", {device['bytes'] / 2**30:.0f} GiB"
    numbers = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    driver = f"; driver {device['driver']}" if device.get("driver") else ""
    parts.append(f"{device['count']} × {device['kind']} ({device['platform']}{memory}); {numbers}{driver}\n")
    if rows := [row for part in content["correctness"].values() for row in part]:
        parts.append(f"## Correctness\n\n{OF_CORRECTNESS}\n{_correctness(rows)}")
    if rows := [row for part in content["timing"].values() for row in part]:
        parts.append(f"## A training step, ms\n\n{OF_TIMING}\n{_timing(rows)}")
        parts += [f"![times over those of rnnlab fused]({name})\n" for name in figures]
    if content["sweeps"]:
        lines = [[part, *_sweep(row)] for part, row in content["sweeps"].items()]
        parts.append("## Sweeps\n\n" + markdown_table(["replicas", "seconds", "updates a second, of all"], lines))
    if content["training"]:
        lines = [[part, "; ".join(f"{k} {v}" for k, v in row.items())] for part, row in content["training"].items()]
        parts.append("## Training\n\n" + markdown_table(["config", "came to"], lines))
    return "\n".join(parts)


def _correctness(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a backend and precision: how far it is from double precision, in parts of an array's largest element, and
    what failed."""
    lines = []
    for pair in dict.fromkeys((row["backend"], row["precision"]) for row in rows):
        each = [row for row in rows if (row["backend"], row["precision"]) == pair]
        ran = [row for row in each if "apart" in row]
        worst = max(ran, key=lambda row: row["apart"], default=None)
        words = "" if worst is None else f"{worst['apart']:.1e} ({worst['cell']}, {worst['where']})"
        middle = f"{statistics.median(row['apart'] for row in ran):.1e}" if ran else ""
        wrong = [row["cell"] for row in each if not (row.get("right") or refused(row))]
        no = [row["cell"] for row in each if refused(row)]
        lines.append([*pair, str(len(ran)), middle, words, ", ".join(wrong) or "none", ", ".join(no) or "none"])
    return markdown_table(["backend", "precision", "cells", "median", "worst", "wrong", "refused"], lines)


def _timing(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a case, a column a contestant."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    cases: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        words = "–" if "step_median" not in row else f"{row['step_median'] * 1e3:.3g}"
        cases.setdefault((row["cell"], row["shape"], row["precision"]), {})[row["contestant"]] = words
    lines = [[*case, *(times.get(name, "") for name in names)] for case, times in cases.items()]
    return markdown_table(["cell", "(T, B, D, H)", "precision", *names], lines)


def _sweep(row: Mapping[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"], ""]
    return [f"{row['seconds']:.1f}", f"{row['runs'] * row['steps'] / row['seconds']:.0f}"]
