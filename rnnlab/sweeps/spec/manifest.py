"""sweep.json: which runs a sweep has, under which names, in which groups. It outlasts changes of the sweep's file.

A run is known by its resolved config: it keeps its name and its folder wherever it stands in the file, and when rnnlab
gets a new field, which has its default in what was there before. Runs that the file no longer has stay, marked
`"in_sweep": false`, and so does a group all of whose runs the sweep still has.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files import check_fields, check_objects, damaged, read_json, write_text
from rnnlab.files.locks import alone
from rnnlab.records.folders import SweepDir
from rnnlab.records.provenance import git_commit, versions
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import Workdir, is_done, read_config
from rnnlab.sweeps.spec.groups import Group, split_groups
from rnnlab.sweeps.spec.space import Setting, axis_paths, axis_value, command, config_key


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep as it stands: its runs under the names that they keep."""

    settings: list[Setting]
    groups: dict[str, Group]
    """The groups by the names of their folders below groups/."""
    added: int
    """Runs that the workdir did not know; all of them where the sweep is new."""
    gone: int
    """Runs that the file has no longer, whose folders and rows stay."""
    new: bool
    """Whether there was no sweep in the workdir."""


def make_plan(workdir: Path, settings: Sequence[Setting], at_most: int | None = None) -> Plan:
    """Matches settings with what sweep.json knows; writes nothing.

    Args:
        at_most: replicas in a group that is made now.

    Raises:
        ConfigError: sweep.json cannot be read, or is gone while runs are there.
    """
    manifest = _read(workdir)
    names = _names(workdir, manifest, {setting.key for setting in settings})
    free = _free(run["name"] for run in manifest["runs"])
    named = [dataclasses.replace(s, name=names.get(s.key) or f"{next(free):04}") for s in settings]
    by_name = {setting.name: setting for setting in named}

    groups, placed = {}, set()
    for name, group in manifest["groups"].items():
        if all(member in by_name for member in group["runs"]):
            groups[name] = Group(tuple(by_name[member] for member in group["runs"]), group["alone"])
            placed.update(group["runs"])
    rest = [s for s in named if s.name not in placed and not is_done(SweepDir(workdir).run(s.name))]
    free = _free(manifest["groups"])
    for group in split_groups(rest, at_most):
        groups[f"{next(free):03}"] = group
    keys = {setting.key for setting in named}
    return Plan(
        settings=named,
        groups=groups,
        added=sum(key not in names for key in keys),
        gone=sum(run["name"] not in by_name for run in manifest["runs"]),
        new=not manifest["runs"],
    )


def open_sweep(
    workdir: Path, sweep: Mapping[str, Any], settings: Sequence[Setting], at_most: int | None = None
) -> Plan:
    """`make_plan`, and sweep.json written accordingly; one process at a time, so that all agree on the names.

    A base that is not a file becomes one, base.py, for the commands of the runs.

    Raises:
        ConfigError: as `make_plan`; or the folder cannot be written to.
    """
    with alone(SweepDir(workdir).manifest_lock):
        plan, manifest = make_plan(workdir, settings, at_most), _read(workdir)
        base = sweep["base"]
        if not isinstance(base, str):
            base = str(SweepDir(workdir).base)
            write_text(SweepDir(workdir).base, _BASE.format(sweep["base"]))
        here = {s.name for s in plan.settings}
        shared = plan.settings[0].config
        runs = []
        for run in (run for run in manifest["runs"] if run["name"] not in here):
            config = _config(workdir, manifest, run)
            beside = {} if config is None else {"config": _changes(shared, config)}
            runs.append(run | {"in_sweep": False} | beside)
        paths = axis_paths(plan.settings)
        for s in plan.settings:
            runs.append(
                {
                    "name": s.name,
                    "in_sweep": True,
                    "key": s.key,
                    "config": _changes(shared, s.config),
                    "overrides": s.overrides,
                    "axes": {path: axis_value(s, path) for path in paths},
                    "command": command(base, _of_command(sweep, s), SweepDir(workdir).run(s.name)),
                }
            )
        origin = {"versions": versions(), "git_commit": git_commit()}
        if plan.settings and all(is_done(SweepDir(workdir).run(s.name)) for s in plan.settings):
            origin |= {name: manifest[name] for name in origin if name in manifest}  # Nothing is trained any more.
        written = {
            "sweep": dict(sweep),
            "axes": paths,
            "config": shared,
            "runs": sorted(runs, key=lambda run: int(run["name"])),
            "groups": {
                name: {"runs": [s.name for s in group.settings], "alone": group.alone}
                for name, group in plan.groups.items()
            },
            **origin,
        }
        write_text(SweepDir(workdir).manifest, json.dumps(written, indent=1) + "\n")
    return plan


def _of_command(sweep: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """The overrides in the command of one run; code from outside the project may lie beside the sweep's file alone."""
    folders = setting.config["import_from"]
    return {**({"import_from": folders} if folders else {}), **sweep["overrides"], **setting.overrides}


def read_sweep(workdir: Path) -> dict[str, Any]:
    """The object that `open_sweep` wrote.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = SweepDir(workdir).manifest
    if not path.exists():
        raise ConfigError(f"{workdir} is not the workdir of a sweep: it has no sweep.json")
    manifest = read_json(path, _LOST, {"runs": list, "groups": {}})
    check_objects(path, manifest["runs"], _RUN, _LOST, "runs")
    for run in manifest["runs"]:
        if not run["name"].isdecimal():
            raise damaged(path, f"has a run of the name {run['name']!r}", _LOST)
    names = {run["name"] for run in manifest["runs"]}
    for name, group in manifest["groups"].items():
        check_fields(path, group, {"runs": list, "alone": (str, type(None))}, _LOST, f"groups.{name}")
        if not name.isdecimal() or not names.issuperset(map(str, group["runs"])):
            raise damaged(path, f"has a group {name!r} of runs that there are not", _LOST)
    return manifest


_LOST = "restore it from a copy, or take another --workdir: nothing else says which run is which"
_RUN = {"name": str, "in_sweep": bool, "key": str, "axes": {}, "command": str}


def _read(workdir: Path) -> dict[str, Any]:
    """sweep.json, or what stands for it before the first time."""
    if SweepDir(workdir).manifest.exists():
        return read_sweep(workdir)
    if Workdir(workdir).config.exists():
        raise ConfigError(f"{workdir} holds a run of rnnlab.train; take another --workdir for the sweep")
    runs = SweepDir(workdir).runs
    if runs.is_dir() and any(runs.iterdir()):
        raise ConfigError(f"{runs} has runs, but no sweep.json says which; take another --workdir")
    return {"runs": [], "groups": {}}


def _names(workdir: Path, manifest: Mapping[str, Any], keys: Collection[str]) -> dict[str, str]:
    """The names of the runs that sweep.json knows, by the keys that they have today."""
    names = {run["key"]: run["name"] for run in manifest["runs"]}
    for run in manifest["runs"]:
        config = _config(workdir, manifest, run) if run["key"] not in keys else None
        if config is not None:
            names.setdefault(config_key(config), run["name"])
    return names


def _config(workdir: Path, manifest: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of a run that sweep.json knows, with fields that are newer than it; None where it is not known, or has
    a field or a value that exists no more."""
    try:
        if "config" in run:
            return resolve_config({**manifest["config"], **run["config"]})
        return read_config(SweepDir(workdir).run(run["name"]))  # The sweep is older than configs in sweep.json.
    except ConfigError:
        return None


def _changes(shared: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a config that are not as in another."""
    return {name: value for name, value in config.items() if name not in shared or shared[name] != value}


_BASE = '''"""The base of this folder's sweep."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict({!r})
'''


def _free(names: Iterable[str]) -> Iterator[int]:
    """Numbers above those that are names already."""
    return itertools.count(max((int(name) for name in names), default=-1) + 1)
