"""Small sets of labelled series in the archive's .ts format."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

CLASSES = ("rise", "fall", "flat")


def write_ts(
    path: Path, series: Iterable[tuple[np.ndarray, str]], classes: tuple[str, ...] = CLASSES, header: str = ""
) -> None:
    """A file of series [T, D] with their classes; header: lines more."""
    rows = [":".join([*(",".join(f"{v:.6f}" for v in channel) for channel in each.T), label]) for each, label in series]
    top = f"# Written by a test.\n@problemName test\n{header}@classLabel true {' '.join(classes)}\n@data\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(top + "".join(f"{row}\n" for row in rows), encoding="utf-8")


def ramps(count: int, steps: tuple[int, int], channels: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Series of steps[0] to steps[1] steps whose first channel rises, falls or stays, all with noise."""
    draw = np.random.default_rng(seed)
    series = []
    for number in range(count):
        label = number % 3
        length = int(draw.integers(steps[0], steps[1] + 1))
        values = 0.3 * draw.normal(size=(length, channels)) + 5
        values[:, 0] += np.linspace(-2, 2, length) * (1, -1, 0)[label]
        series.append((values, CLASSES[label]))
    return series


def write_set(folder: Path, name: str = "Ramps", count: int = 30, steps: tuple[int, int] = (5, 8)) -> None:
    """FOLDER/NAME/NAME_TRAIN.ts and NAME_TEST.ts of two channels."""
    for split, seed in (("TRAIN", 0), ("TEST", 1)):
        write_ts(folder / name / f"{name}_{split}.ts", ramps(count, steps, 2, seed))
