"""docs/results/irnn_*.json: what the runs of a case have come to, read from their workdirs, kept, checked, summed up.

A file holds of every network its config and its runs. Runs of another config, or a file of another schema, are refused.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import differences
from rnnlab.files import Fields, check_fields, check_objects, read_json, read_text, write_text
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import plain, read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import DONE, SUMMARY_AGAIN, Workdir, read_config, read_gradient_flow, read_summary
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.sweeps.statistics import number
from scripts.irnn.experiments import Case
from scripts.irnn.runs import HARDWARE

SCHEMA = 1
POINTS = 400
"""At most, of a curve or of a gradient over time."""


def results_path(folder: Path, case: Case) -> Path:
    """The file of a case's results."""
    return folder / f"irnn_{case.key}.json"


# --- from workdirs ---------------------------------------------------------------------------------------------------


def collect(case: Case, folder: Path) -> dict[str, Any]:
    """The results of a network's sweep: its config, and the numbers of every run that is over or was stopped.

    Args:
        folder: the sweep's.
    """
    metric, runs = case.experiment.metric, []
    machine = read_text(folder / HARDWARE, "remove it, and the same command writes it again").strip()
    config: dict[str, Any] = {}
    flow = None
    for run in read_sweep(folder)["runs"]:
        workdir = SweepDir(folder).run(run["name"])
        summary = read_summary(workdir)
        if not run["in_sweep"] or summary is None:
            continue
        check_fields(Workdir(workdir).summary, summary, _SUMMARY, SUMMARY_AGAIN)
        if summary["status"] not in DONE and "test" not in summary["best"]:
            continue  # A signal came: the numbers follow when it goes on.
        stage = dict(summary.get("stage") or {"number": 1, "of": 1})
        if stage.pop("number") < stage.pop("of"):
            continue  # Its numbers are of a shorter task.
        config = {k: v for k, v in read_config(workdir).items() if k != "seed"}
        lines = [line for line in read_metrics(workdir) if line["split"] == "validation" and metric in line]
        lines = [line for line in lines if stage.items() <= line.items()]
        curve = [[line["step"], _short(line[metric])] for line in _thinned(lines)]
        runs.append({**_numbers(summary, metric), "hardware": machine, "curve": curve})
        flow = flow or read_flow(workdir, summary["seed"])
    return {"config": config, "gradient_flow": flow, "runs": runs}


_SUMMARY: Fields = {"seed": int, "steps": int, "best": {"step": (int, type(None)), "validation": (dict, type(None))}}
_SUMMARY = {**_SUMMARY, "convergence": (dict, type(None)), "seconds": float, "device": str, "versions": {}}


def _numbers(summary: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The fields of a summary.json that a results' file has."""
    best = summary["best"]
    return {
        "seed": summary["seed"],
        "status": summary["status"],
        "steps": summary["steps"],
        "test": plain(number((best.get("test") or {}).get(metric))),
        "best_step": best["step"],
        "validation": plain(number((best["validation"] or {}).get(metric))),
        "solved_at": (summary["convergence"] or {}).get("steps"),
        "seconds": summary["seconds"],
        "replicas": summary.get("replicas", 1),
        "device": summary["device"],
        "git_commit": summary.get("git_commit"),
        "versions": summary["versions"],
    }


def _thinned(values: Sequence[Any]) -> list[Any]:
    chosen = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(int))
    return [values[i] for i in chosen]


def _short(value: Any) -> Any:
    """To five digits."""
    return plain(float(f"{float(value):.5g}"))


def read_flow(workdir: Path, seed: int) -> dict[str, Any] | None:
    """‖∂L/∂h_t‖ of a run's last layer, untrained and trained, with its time steps t; None where it was not measured."""
    if not Workdir(workdir).gradient_flow.exists():
        return None
    measured = read_gradient_flow(workdir)
    norms = {when: list(layers.values())[-1] for when, layers in measured.items()}
    steps = _thinned(range(1, len(norms["untrained"]) + 1))
    return {"seed": seed, "t": steps} | {when: [_short(each[t - 1]) for t in steps] for when, each in norms.items()}


def best_rates(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Model -> seed -> the run whose validation is lowest, of runs with a "model", "seed", "status" and "validation" at
    one learning rate or several. A run that did not end is left out."""
    best: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        if run["status"] in ("finished", "stopped_early"):
            seeds = best.setdefault(run["model"], {})
            if run["seed"] not in seeds or run["validation"] < seeds[run["seed"]]["validation"]:
                seeds[run["seed"]] = run
    return best


# --- files -----------------------------------------------------------------------------------------------------------


def read_results(path: Path) -> dict[str, Any] | None:
    """The content of a file; None where there is no file.

    Raises:
        ConfigError: it cannot be read, or has another schema.
    """
    if not path.exists():
        return None
    remedy = "move it away to measure anew"
    results = read_json(path, remedy, {"schema": int})
    schema = results["schema"]
    if schema != SCHEMA:
        raise ConfigError(
            f"{path} is of another version (schema {schema}, not {SCHEMA}): not mixed in; move it away to measure anew"
        )
    check_fields(path, results, {"overrides": {}, "networks": {}}, remedy)
    for network, content in results["networks"].items():
        where = f"networks.{network}"
        check_fields(path, content, {"config": {}, "gradient_flow": object, "runs": list}, remedy, where)
        check_objects(path, content["runs"], _RUN, remedy, f"{where}.runs")
    return results


_RUN = {"seed": int, "status": str, "steps": int, "test": object, "best_step": object, "validation": object}
_RUN |= {"solved_at": (int, type(None)), "seconds": float, "replicas": int, "hardware": str, "curve": list}
_RUN |= {"git_commit": (str, type(None))}


def check_protocol(path: Path, results: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that a file's networks were trained by the configs there are now.

    Args:
        configs: network -> its resolved config.

    Raises:
        ConfigError: one was not; the line names the first difference.
    """
    for network, entry in results["networks"].items():
        if network not in configs:
            raise ConfigError(f"{path} holds the network {network!r}, which the experiment does not have; move it away")
        try:
            old = resolve_config(entry["config"] | {"seed": 0})  # It gets the fields that have been added since.
            changed = differences(_as_json(old), _as_json({**configs[network], "seed": 0}))
        except ConfigError as error:
            changed = [str(error)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ConfigError(
                f"{path} holds {network} of another protocol ({changed[0]}{more}): not mixed in; move it away to "
                "measure anew"
            )


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config))


def merged(case: Case, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """A network's runs of before and now, by seed; the longer one of two counts, of two of a length the better one by
    validation, of two alike the old one. The gradients are those of a run that counts."""
    if old is None:
        return dict(new)
    runs = {run["seed"]: run for run in old["runs"]}
    flows = {flow["seed"]: flow for flow in [old["gradient_flow"]] if flow}
    for run in new["runs"]:
        if run["seed"] not in runs or _replaces(case, runs[run["seed"]], run):
            runs[run["seed"]] = run
            flows.pop(run["seed"], None)
            if (flow := new["gradient_flow"]) and flow["seed"] == run["seed"]:
                flows[run["seed"]] = flow
    return {
        "config": new["config"],
        "gradient_flow": flows[min(flows)] if flows else None,
        "runs": [runs[seed] for seed in sorted(runs)],
    }


def _replaces(case: Case, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a run counts instead of another of its seed."""
    if new["steps"] != old["steps"]:
        return new["steps"] > old["steps"]
    values = [case.experiment.better * number(run["validation"], math.nan) for run in (old, new)]
    worst = [run["status"] == "diverged" or not math.isfinite(v) for run, v in zip((old, new), values, strict=True)]
    return not worst[1] and (worst[0] or values[1] > values[0])


def is_over(run: Mapping[str, Any], steps: int | None) -> bool:
    """Whether a run has come to its end, or to this step."""
    return run["status"] in DONE or run["steps"] >= (steps or math.inf)


def write_results(path: Path, case: Case, overrides: Mapping[str, Any], networks: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a case's file, its networks in the order of the experiment; returns what it holds."""
    results = {
        "schema": SCHEMA,
        "experiment": case.experiment.name,
        "length": case.length,
        "variant": case.variant,
        "metric": case.experiment.metric,
        "overrides": dict(overrides),
        "networks": {name: networks[name] for name in case.networks if name in networks},
    }
    write_text(path, json_text(results))
    return results


def json_text(results: Mapping[str, Any]) -> str:
    """JSON for people: a list of numbers is one line, and so is one of pairs."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text)
    return re.sub(r"\],\s+\[", "], [", text) + "\n"


def is_complete(network: Mapping[str, Any], seeds: int, steps: int | None) -> bool:
    """Whether a file's network has all seeds, each over or at this step."""
    runs = {run["seed"]: run for run in network["runs"]}
    return all(seed in runs and is_over(runs[seed], steps) for seed in range(seeds))
