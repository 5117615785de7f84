"""A training step and a forward pass of one layer by all contestants, in turns: measured, judged and summarized."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rnnlab.benchmark.cases import DEFAULT, Case
from rnnlab.benchmark.worker import Worker, takes_part

RATE_SECONDS = 0.3
AGREE = {"highest": 1e-3, "tf32": 1e-2, "tf32x3": 1e-3, "bfloat16": 0.1}
"""Largest relative difference between two contestants' losses and gradient norms, over up to 1024 steps."""


def measure(case: Case, workers: Sequence[Worker], turns: int, seconds: float) -> list[dict[str, Any]]:
    """One row per contestant: what it computed, and by turn its times in seconds and the matrix-product rate (FLOP/s)
    that the machine gave beside them."""
    rows = []
    for worker in workers:
        for name in (name for name in worker.names if takes_part(name, case)):
            prepared = worker.ask(do="prepare", name=name, case=list(case))
            rows.append({"contestant": name, "worker": worker, "step": [], "forward": []} | prepared)
    rates, rater = [], next((worker for worker in workers if "plain scan" in worker.names), workers[0])
    for _ in range(turns):
        rates.append(rater.ask(do="rate", seconds=RATE_SECONDS))
        for what in ("step", "forward"):
            for row in (row for row in rows if "error" not in row):
                answer = row["worker"].ask(do="time", name=row["contestant"], what=what, seconds=seconds)
                if isinstance(answer, dict):
                    row |= answer
                else:
                    row[what].append(answer)
    for worker in workers:
        worker.ask(do="forget")
    judge(rows, AGREE[case.precision])
    return [{k: v for k, v in row.items() if k != "worker"} | {"rates": rates} for row in rows]


def judge(rows: list[dict[str, Any]], agree: float = AGREE["highest"]) -> None:
    """Marks as void the rows that computed something else than the majority (the median)."""
    sound = [row for row in rows if "error" not in row]
    for quantity in ("loss", "gradient"):
        if sound:
            values = [row[quantity] for row in sound if math.isfinite(row[quantity])]
            middle = statistics.median(values) if values else math.nan
            for row in sound:
                if not abs(row[quantity] - middle) <= agree * abs(middle):
                    row["error"] = f"void: its {quantity} is {row[quantity]:.6g}, the others' {middle:.6g}"


def summarize(case: Case, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds medians, spreads, ratios (above 1: rnnlab's default is faster) and shares of the matrix-product rate."""
    base = next((row for row in rows if row["contestant"] == DEFAULT and "error" not in row), None)
    for row in rows:
        row |= {"cell": case.cell, "shape": case.shape(), "precision": case.precision}
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
