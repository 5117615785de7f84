"""MLflow. Which server or store say its own settings, MLFLOW_TRACKING_URI above all."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.records.trackers.tracker import RunIdentity, flat, import_package, numbers

STATUSES = {"diverged": "FAILED", "crashed": "FAILED", "interrupted": "KILLED", "paused": "SCHEDULED"}
"""Status of a run -> that of MLflow; others are FINISHED."""
_METRICS_AT_ONCE, _PARAMS_AT_ONCE, _LONGEST_PARAM = 1000, 100, 6000
"""MLflow's limits."""


class MLflow:
    """A run of MLflow: its config as parameters, its numbers as metrics, its figures as artifacts."""

    def __init__(self) -> None:
        self._mlflow: Any = import_package("mlflow", "mlflow")

    def start(self, run: RunIdentity) -> str:
        self._client = self._mlflow.MlflowClient()
        if run.id is not None:
            self._id = run.id
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        tags = dict.fromkeys(run.tags, "true") | {"workdir": str(run.workdir)}
        tags |= {"group": run.group} if run.group else {}
        tags |= {"mlflow.source.git.commit": run.git_commit} if run.git_commit else {}
        self._id = self._client.create_run(self._experiment(run.project), run_name=run.name, tags=tags).info.run_id
        Param = self._mlflow.entities.Param
        params = [Param(_allowed(path), str(value)[:_LONGEST_PARAM]) for path, value in flat(run.config)]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + _PARAMS_AT_ONCE])
        return self._id

    def _experiment(self, project: str | None) -> str:
        """The id of the experiment of a name, which is made if missing."""
        name = project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "rnnlab"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self._client.create_experiment(name)
            except self._mlflow.MlflowException:  # Another process has just made it.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return experiment.experiment_id

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._log(step, {f"{split}/{name}": value for name, value in values.items()})

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        Metric, now = self._mlflow.entities.Metric, int(1000 * time.time())
        metrics = [Metric(_allowed(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[first : first + _METRICS_AT_ONCE])

    def figures(self, step: int, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._id, str(path), "figures")

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        self._log(summary.get("steps", 0), numbers(summary))
        self._client.set_tag(self._id, "status", status)
        self._client.set_terminated(self._id, STATUSES.get(status, "FINISHED"))


def _allowed(name: str) -> str:
    """A name without what MLflow refuses in one."""
    return re.sub(r"[^\w/ .:-]", "_", name)
