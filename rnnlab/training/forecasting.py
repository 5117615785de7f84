"""The forecasts of a trained network over a whole split, and how it goes on alone, for a figure."""

from typing import Any

import jax
import numpy as np

from rnnlab.diagnostics.closed_loop import free_run
from rnnlab.tasks import Forecast, Split
from rnnlab.training.outputs import batches_of
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState

SHOWN = 500
"""Values that a figure shows at most."""


def forecasts(run: Run, task: Forecast, state: TrainState, split: Split) -> dict[str, np.ndarray]:
    """What a figure of a split shows, in the units of the series.

    Returns:
        `truth` and `forecast` [N, D]: the first values of the split that are forecast, and what the network says;
        with a horizon of 1 `free` [M, D], the network's own run from the end of the first window on, and `free_truth`
        [M, D]. `names` [D], `interval` in units of time, `horizon`, `split`.
    """
    scale = lambda values: np.asarray(values, np.float64) * task.deviation + task.mean  # noqa: E731
    kept: dict[str, list[np.ndarray]] = {"truth": [], "forecast": []}

    def look(outputs: Any, batch: Any) -> Any:
        return batch.targets, task.answers(batch.inputs, outputs)

    for values, rows in batches_of(run, state, split, look):
        for name, array in zip(kept, values, strict=True):  # [T, B, D] -> the windows one after the other.
            counted = np.swapaxes(array, 0, 1)[:rows, task.burn_in :]
            kept[name].append(counted.reshape(-1, counted.shape[-1]))
        if sum(map(len, kept["truth"])) >= SHOWN:
            break
    arrays = {name: scale(np.concatenate(values)[:SHOWN]) for name, values in kept.items()}
    if task.horizon == 1:
        steps = min(SHOWN, len(task.own_data[split]) - task.context)
        first = task.own_data[split][: task.context][:, None]
        network = lambda params, buffers: run.programs.structure.network(params, buffers)  # noqa: E731
        alone = jax.jit(lambda params, buffers, inputs: free_run(network(params, buffers), task, inputs, steps))
        arrays["free"] = scale(alone(state.evaluated, state.buffers, first)[:, 0])
        arrays["free_truth"] = scale(task.own_data[split][task.context : task.context + steps])
    names = {"names": np.array(task.system.names), "interval": np.array(task.system.interval)}
    return arrays | names | {"horizon": np.array(task.horizon), "split": np.array(split)}
