"""Dynamic evaluation: the metrics of a network that goes on learning from the text that it is scored on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rnnlab.tasks import Split
from rnnlab.training.dynamic import evaluate_dynamically, gradient_statistics, make_adaptation
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState


def dynamic_metrics(
    run: Run,
    state: TrainState,
    splits: Sequence[Split],
    *,
    learning_rate: float | None = None,
    decay: float | None = None,
    rms: bool = True,
    epsilon: float = 2e-5,
    batches: int | None = None,
) -> tuple[dict[Split, dict[str, float]], dict[str, Any]]:
    """The metrics of each split, "dynamic_loss" and so on, and how the network adapted.

    Args:
        run: of `make_dynamic_run`.
        state: of the trained network.
        splits: validation, test or both.
        learning_rate, decay, rms, epsilon: as of `Adaptation`; a rate and a decay that are None follow from the window.
        batches: of training text, from which each parameter has its rate; None: all.
    """
    adaptation = make_adaptation(getattr(run.task, "window", 1), learning_rate, decay, rms, epsilon)
    statistics = gradient_statistics(run, state, batches) if rms else None
    metrics = {}
    for split in splits:
        dynamic = evaluate_dynamically(run, state, split, adaptation, statistics)
        metrics[split] = {f"dynamic_{name}": value for name, value in dynamic.items()}
    return metrics, dataclasses.asdict(adaptation)
