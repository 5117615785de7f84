"""Trackers: the tools that show runs side by side, such as W&B. TRACKERS is the table by which configs name them.

What a tracker does is in `tracker.py`, what a run sends when in `sending.py`. A tool's package is imported only where a
run names it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rnnlab.config.bounds import NameIn
from rnnlab.config.outside import Table, look_in
from rnnlab.config.schema import build
from rnnlab.records.trackers.mlflow_tracker import MLflow
from rnnlab.records.trackers.tracker import RunIdentity, Tracker
from rnnlab.records.trackers.wandb_tracker import Wandb

TRACKERS: Table[Callable[[], Tracker]] = Table(
    {"wandb": Wandb, "mlflow": MLflow},
    "a rnnlab.records.trackers.Tracker",
    lambda product: isinstance(product, Tracker),
)

TrackerName = Annotated[str, NameIn("tracker", TRACKERS)]


def make_trackers(config: Mapping[str, Any]) -> dict[str, Tracker]:
    """The trackers of a resolved config, by their names.

    Raises:
        ConfigError: the package of one is not installed, or one from outside the project is none.
    """
    if config["trackers"]:
        look_in(config["import_from"])
    return {name: build(TRACKERS, name, "trackers") for name in config["trackers"]}


__all__ = ["TRACKERS", "RunIdentity", "Tracker", "TrackerName", "make_trackers"]
