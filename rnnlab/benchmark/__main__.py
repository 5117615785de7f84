"""Times a training step (forward, backward, update) and a forward pass, by rnnlab and by what one would use instead.

    python -m rnnlab.benchmark
    python -m rnnlab.benchmark --cells=lstm,gru --shapes=0,2 --output=benchmark.json
    python -m rnnlab.benchmark --cells=all --shapes=0,2
    python -m rnnlab.benchmark --diagnostics --output=diagnostics_cost.json
    python -m rnnlab.benchmark --language_model --output=language_model.json
    python -m rnnlab.benchmark --speech --output=speech_steps.json
    python -m rnnlab.benchmark --sweeps --alone=8 --output=sweeps.json

The contestants take turns within one run; the table shows each one's median, the spread between turns, the ratio to
rnnlab's default backend, the share of the matrix-product rate measured in the same turn, and the temporary memory of
the compiled program. All get the same weights and inputs; a row whose losses or gradients disagree is void.
torch.nn takes part where torch is installed (extra `benchmark`). A cell that the other libraries lack is compared, in
the fused backend, with the plain scan of its own step, and with the backend `scan` where that runs the cell.

--diagnostics measures instead what watching a run costs: every diagnostic alone, all of them, and writing down what
they find, in training steps, for the adding problem (IRNN, LSTM, GRU) and pixel-by-pixel MNIST, where that is at hand.

--language_model measures a whole step of a word-level language model instead: words per second and peak memory, with
the vocabulary of WikiText-2 beside torch.nn, and with that of 1 Billion Word. --shapes then counts these:
`rnnlab.benchmark.language_model.CASES`. --speech likewise measures a whole step of a deep bidirectional LSTM over
utterances of different lengths beside torch.nn with packed sequences: `rnnlab.benchmark.speech.CASES`.

--sweeps measures 64 runs of the adding problem by one `rnnlab.sweep` and by 64 times `rnnlab.train`, whole commands:
`rnnlab.benchmark.sweeps.CASES`. That takes an hour or so on 2 cores; --alone=8 times so many of the 64 alone.
"""

import importlib.util
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.progress import Progress

from rnnlab import cli
from rnnlab.benchmark import diagnostics, language_model, speech, sweeps
from rnnlab.benchmark.cases import DEFAULT, OF_PEERS, SHAPES, Case
from rnnlab.benchmark.tables import markdown, show
from rnnlab.benchmark.worker import Worker, takes_part
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import remove, write_text
from rnnlab.files.output import make_console
from rnnlab.records.provenance import git_commit, versions

KINDS = ("rnnlab", "jax", "torch")
RATE_SECONDS = 0.3
AGREE = 1e-3
"""Largest relative difference between two contestants' losses and gradient norms, in float32 over up to 784 steps."""


def measure(case: Case, workers: list[Worker], turns: int, seconds: float) -> list[dict[str, Any]]:
    """One row per contestant: what it computed, and by turn its times in seconds and the matrix-product rate (FLOP/s)
    that the machine gave beside them."""
    rows = []
    for worker in workers:
        for name in (name for name in worker.names if takes_part(name, case)):
            prepared = worker.ask(do="prepare", name=name, case=list(case))
            rows.append({"contestant": name, "worker": worker, "step": [], "forward": []} | prepared)
    rates = []
    for _ in range(turns):
        rates.append(workers[1].ask(do="rate", seconds=RATE_SECONDS))
        for what in ("step", "forward"):
            for row in (row for row in rows if "error" not in row):
                answer = row["worker"].ask(do="time", name=row["contestant"], what=what, seconds=seconds)
                if isinstance(answer, dict):
                    row |= answer
                else:
                    row[what].append(answer)
    for worker in workers:
        worker.ask(do="forget")
    judge(rows)
    return [{k: v for k, v in row.items() if k != "worker"} | {"rates": rates} for row in rows]


def judge(rows: list[dict[str, Any]]) -> None:
    """Marks as void the rows that computed something else than the majority (the median)."""
    sound = [row for row in rows if "error" not in row]
    for quantity in ("loss", "gradient"):
        if sound:
            values = [row[quantity] for row in sound if math.isfinite(row[quantity])]
            middle = statistics.median(values) if values else math.nan
            for row in sound:
                if not abs(row[quantity] - middle) <= AGREE * abs(middle):
                    row["error"] = f"void: its {quantity} is {row[quantity]:.6g}, the others' {middle:.6g}"


def summarize(case: Case, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds medians, spreads, ratios (above 1: rnnlab's default is faster) and shares of the matrix-product rate."""
    base = next((row for row in rows if row["contestant"] == DEFAULT and "error" not in row), None)
    for row in rows:
        row |= {"cell": case.cell, "shape": case.shape()}
        if "error" in row:
            continue
        for what, products in (("step", case.step_products()), ("forward", case.forward_products())):
            middle = statistics.median(row[what])
            row[f"{what}_median"] = middle
            row[f"{what}_spread"] = (max(row[what]) - min(row[what])) / middle
            shares = (products / time / rate for time, rate in zip(row[what], row["rates"], strict=True))
            row[f"{what}_share"] = statistics.median(shares)
        if base is not None and "step_median" in base:
            # Turn by turn: neighbours in time saw the same machine.
            for what in ("step", "forward"):
                pairs = zip(row[what], base[what], strict=True)
                row[f"{what}_ratio"] = statistics.median(theirs / ours for theirs, ours in pairs)
    return rows


def parse_list(text: str, allowed: Sequence[str], flag: str) -> list[str]:
    """The members of a comma-separated flag, checked; all of them if it is empty."""
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen:
        if part not in allowed:
            raise ConfigError(unknown(f"value of --{flag}", part, allowed))
    return chosen or list(allowed)


def watch(turns: int, seconds: float, data_dir: str | None, output: Path | None, console: Console) -> int:
    """--diagnostics; returns the exit status."""
    results: list[dict[str, Any]] = []
    for name, config in diagnostics.RUNS.items():
        console.print(f"measuring {name}")
        try:
            results.append({"run": name} | diagnostics.measure(config, turns, seconds, data_dir))
        except ConfigError as error:  # No data: the other runs are measured.
            console.print(f"{name}: {error}", markup=False)
            results.append({"run": name, "error": str(error)})
        if output is not None:
            save(output, results, turns, diagnostics.markdown(results))
    if output is not None:
        save(output, results, turns, diagnostics.markdown(results), over=True)
    console.print(diagnostics.markdown(results), markup=False)
    return cli.FINISHED if any("error" not in row for row in results) else cli.MISTAKE


def measure_whole(
    kind: Any, cases: Sequence[Any], arguments: Sequence[Any], turns: int, output: Path | None, console: Console
) -> int:
    """--language_model, --speech or --sweeps, whose module is `kind`; returns the exit status."""
    results: list[dict[str, Any]] = []
    for case in cases:
        console.print(f"measuring {case.shape()}", highlight=False)
        results += kind.measure(case, *arguments)
        if output is not None:
            save(output, results, turns, kind.markdown(results))
    if output is not None:
        save(output, results, turns, kind.markdown(results), over=True)
    console.print(kind.markdown(results), markup=False, soft_wrap=True)
    for row in (row for row in results if "error" in row):
        console.print(f"{row['shape']} {row.get('contestant', '')}: {row['error']}", markup=False)
    return cli.FINISHED if any("error" not in row for row in results) else cli.MISTAKE


def save(path: Path, results: list[dict[str, Any]], turns: int, table: str, over: bool = False) -> None:
    """Writes the JSON file, and the table beside it; until all is measured, and where nothing could be, to
    NAME-unfinished: what an earlier measurement has left stays as it was."""
    unfinished = path.with_name(f"{path.stem}-unfinished{path.suffix}")
    over = over and any("error" not in row for row in results)
    path = path if over else unfinished
    record = {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": versions(),
        "git_commit": git_commit(),
        "turns": turns,
        "results": results,
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    write_text(path.with_suffix(".md"), table)
    if over:
        remove(unfinished)
        remove(unfinished.with_suffix(".md"))


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    text = f"of {', '.join(CELLS)}; all, or nothing, for every one of them"
    flags.DEFINE_string("cells", ",".join(OF_PEERS), text, flag_values=values)
    numbered = ", ".join(f"{i} {Case('gru', *shape).shape()}" for i, shape in enumerate(SHAPES))
    flags.DEFINE_string("shapes", "", f"numbers of (T, B, D, H): {numbered}; all if empty", flag_values=values)
    flags.DEFINE_integer("turns", 5, "how often each contestant is timed", lower_bound=1, flag_values=values)
    flags.DEFINE_float("seconds", 0.5, "how long, at least, each time", lower_bound=0.0, flag_values=values)
    flags.DEFINE_bool("diagnostics", False, "what watching a run costs, and nothing else", flag_values=values)
    flags.DEFINE_bool("language_model", False, "steps of language models, and nothing else", flag_values=values)
    flags.DEFINE_bool("speech", False, "steps of deep networks over utterances, and nothing else", flag_values=values)
    flags.DEFINE_bool("sweeps", False, "a sweep beside the same runs alone, and nothing else", flag_values=values)
    text = "with --sweeps: how many of a sweep's runs are timed alone"
    flags.DEFINE_integer("alone", 64, text, lower_bound=1, flag_values=values)
    text = "JSON file; a table and (of the layers alone) the figure are put beside it as .md and .png"
    cli.path_flag(values, "output", None, text)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    cells = parse_list("" if values.cells == "all" else values.cells, list(CELLS), "cells")
    chosen = [kind for kind in (language_model, speech, sweeps) if values[kind.__name__.rpartition(".")[2]].value]
    if len(chosen) > 1:
        raise ConfigError("--language_model, --speech and --sweeps: one at a time")
    allowed = chosen[0].CASES if chosen else SHAPES
    shapes: list[Any] = [allowed[int(i)] for i in parse_list(values.shapes, [*map(str, range(len(allowed)))], "shapes")]

    # Whole numbers in a file or a pipe too.
    console = make_console(highlight=True, soft_wrap=False, width=None if sys.stdout.isatty() else 150)
    output = Path(values.output) if values.output else None
    if values.diagnostics:
        return watch(values.turns, values.seconds, values.data_dir, output, console)
    if sweeps in chosen:
        return measure_whole(sweeps, shapes, [values.alone], 1, output, console)
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        console.print("torch is not installed: it takes no part (pip install 'rnnlab[benchmark]')")
    if chosen:
        arguments = values.turns, values.seconds, has_torch
        return measure_whole(chosen[0], shapes, arguments, values.turns, output, console)
    workers = [Worker(kind) for kind in KINDS if kind != "torch" or has_torch]
    from rnnlab.plots import benchmark_ratios  # After the check of the words: it takes a second to import.

    rate = workers[1].ask(do="rate", seconds=3.0)
    if isinstance(rate, dict):
        raise ConfigError(f"JAX does not run here: {rate['error']}")
    console.print(f"matrix product rate: {rate / 1e9:.0f} GFLOP/s (float32, 2048 x 2048)")
    results: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        cases = [Case(cell, *shape) for shape in shapes for cell in cells]
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.cell} {case.shape()}")
            results += summarize(case, measure(case, workers, values.turns, values.seconds))
            if output is not None:  # After every case: a run takes a while.
                save(output, results, values.turns, markdown(results))
            progress.advance(task)
    if output is not None:
        save(output, results, values.turns, markdown(results), over=True)
    for worker in workers:
        worker.close()
    show(results, console)
    if output is not None:
        console.print(f"{output}, {output.with_suffix('.md')}, {benchmark_ratios(output)}")
    return cli.FINISHED if any("error" not in row for row in results) else cli.MISTAKE


if __name__ == "__main__":
    cli.run(main)
