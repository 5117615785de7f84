"""The content of a sweep's file -> the settings of its runs, each with its resolved config.

Which fields the file has is in `sections.py`. Names that last over a resume are in `manifest.py`.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.overrides import refers, to_dict
from rnnlab.config.reading import folder_of, read_file
from rnnlab.config.schema import resolve
from rnnlab.config.texts import literal
from rnnlab.records.former_fields import renamed_paths
from rnnlab.records.run_config import read_texts, resolve_config, set_fields, without_trackers
from rnnlab.sweeps.spec.sections import SweepOptions, check_range


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run of a sweep."""

    name: str
    """The name of its folder below runs/: "0000", "0001", …"""
    overrides: dict[str, Any]
    """The values that the axes set, by dotted path, the seed included."""
    config: dict[str, Any]
    """The resolved config."""

    @functools.cached_property
    def key(self) -> str:
        """The same for the same resolved config, whatever its trackers, and for no other."""
        return config_key(self.config)


def config_key(config: Mapping[str, Any]) -> str:
    """`Setting.key` of a resolved config."""
    text = json.dumps(without_trackers(config), sort_keys=True, default=_no_json)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def load_sweep(reference: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """A sweep's file with every field present and checked.

    Args:
        reference: "path.py" or "path.py:preset".
        overrides: further ones from the command line, {path: text}, for every run.

    Raises:
        ConfigError: no such file, or a mistake in it.
    """
    sweep = resolve_sweep(read_file(reference), reference, folder_of(reference))
    if not overrides:
        return sweep
    try:
        values = read_texts(base_config(sweep), overrides)
    except ConfigError as error:
        raise ConfigError(f"base and overrides: {error}") from None
    return sweep | {"overrides": {**sweep["overrides"], **values}}


def resolve_sweep(section: Mapping[str, Any], reference: str, folder: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of a sweep's file with every field present and checked.

    Args:
        reference: the place that an error names.
        folder: where modules of one's own are, as in `import_from`.

    Raises:
        ConfigError: a mistake in it.
    """
    if isinstance(section.get("base"), Mapping) and refers(section["base"]):
        raise ConfigError(f"{reference}: base: a config with references has to be a file of its own, base='path.py'")
    section = to_dict(section)
    if "base" not in section and "task" in section:
        raise ConfigError(f"{reference}: the config of a run, not of a sweep; a sweep names it as its base")
    try:
        return resolve(SweepOptions, {"import_from": folder} | section, "")
    except ConfigError as error:
        raise ConfigError(f"{reference}: {error}") from None


def base_config(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The config that all runs of a sweep begin with, as far as it has values."""
    base = sweep["base"]
    return set_fields(read_file(base) if isinstance(base, str) else base, sweep["overrides"], complete=False)


# --- points ----------------------------------------------------------------------------------------------------------


def expand(sweep: Mapping[str, Any]) -> list[Setting]:
    """The runs of a sweep, in the order of its factors; the last, the seed, changes fastest.

    Raises:
        ConfigError: an axis that names no field or has no such value, two runs of the same config, no run at all.
    """
    base, common = sweep["base"], sweep["overrides"]
    plain = read_file(base) if isinstance(base, str) else base
    folders = [*(folder_of(base) if isinstance(base, str) else ()), *sweep["import_from"]]
    plain = {"import_from": tuple(dict.fromkeys(folders))} | dict(plain)
    settings = []
    for number, point in enumerate(_points(sweep)):
        settings.append(Setting(f"{number:04}", point, _resolved(plain, common, point)))
    first: dict[str, Setting] = {}
    for setting in settings:
        other = first.setdefault(setting.key, setting)
        if other is not setting:
            raise ConfigError(
                f"runs {other.name} ({described(other.overrides)}) and {setting.name} ({described(setting.overrides)}) "
                "are the same run: their resolved configs are equal"
            )
    if sweep["baseline"] is not None:
        _check_baseline(sweep["baseline"], settings)
    return settings


def _points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The values that the axes set in every run."""
    factors = [
        (f"product.{path}", [{path: v} for v in _values(f"product.{path}", values)])
        for path, values in sweep["product"].items()
    ]
    factors += [(f"zip[{i}]", _zipped(f"zip[{i}]", section)) for i, section in enumerate(sweep["zip"])]
    if sweep["draws"] is not None:
        factors.append(("draws", _drawn(**sweep["draws"])))
    seeds = range(sweep["seeds"]) if isinstance(sweep["seeds"], int) else sweep["seeds"]
    if seeds is not None and not seeds:
        raise ConfigError("seeds: empty; leave it out for the seed of the base")
    seeded = [{}] if seeds is None else [{"seed": seed} for seed in seeds]

    owner = {_normal(path): "overrides" for path in sweep["overrides"]}
    for where, points in [*factors, ("seeds", seeded)]:
        for path in points[0]:
            earlier = owner.setdefault(_normal(path), where)
            if earlier != where:
                raise ConfigError(f"{where}: {path} is set by {earlier} already")

    crossed = [
        dict(itertools.chain(*(p.items() for p in parts))) for parts in itertools.product(*(f[1] for f in factors))
    ]
    listed = [] if sweep["runs"] and not factors else crossed
    return [
        {**renamed_paths(point), **seed}
        for point in [*listed, *(dict(run) for run in sweep["runs"])]
        for seed in ([{}] if "seed" in point else seeded)
    ]


def _normal(path: str) -> str:
    """A section and its name are the same axis."""
    return path.removesuffix(".name")


def _values(where: str, values: Any) -> list[Any]:
    if not isinstance(values, list | tuple | range):
        raise ConfigError(f"{where}: {values!r} is not a list of values")
    if not values:
        raise ConfigError(f"{where}: an empty list; an axis has at least one value")
    return list(values)


def _zipped(where: str, section: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = {path: _values(f"{where}.{path}", values) for path, values in section.items()}
    if not columns:
        raise ConfigError(f"{where}: empty; it lists the axes that go together")
    lengths = {path: len(values) for path, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{path} has {n}" for path, n in lengths.items())
        raise ConfigError(f"{where}: axes that go together have as many values each; {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _drawn(count: int, seed: int, of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each path has a stream of its own, so another path or a larger count leaves the other draws as they are."""
    if not of:
        raise ConfigError("draws.of: empty; it says of each path what is drawn")
    columns = {}
    for path, spec in of.items():
        u = np.random.default_rng([seed, zlib.crc32(path.encode())]).random(count)
        where = f"draws.of.{path}"
        if isinstance(spec, Mapping):
            columns[path] = [_from_range(x, **check_range(where, spec)) for x in u.tolist()]
        else:
            values = _values(where, spec)
            columns[path] = [values[int(x * len(values))] for x in u.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _from_range(u: float, low: float, high: float, log: bool, integer: bool) -> float | int:
    """The value at quantile u in [0, 1) of a range."""
    if integer:  # Each whole number has the share of the unit interval around it.
        below, above = low - 0.5, high + 0.5
        value = below * (above / below) ** u if log else below + u * (above - below)
        return int(min(max(round(value), low), high))
    value = low * math.exp(u * math.log(high / low)) if log else low + u * (high - low)
    return min(max(float(f"{value:.4g}"), low), high)


# --- configs ---------------------------------------------------------------------------------------------------------


def _resolved(base: Mapping[str, Any], common: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return resolve_config(set_fields(base, {**common, **point}))
    except ConfigError as error:
        raise ConfigError(f"{_blamed(base, common, point)}{error}") from None


def _blamed(base: Mapping[str, Any], common: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """The axis that a mistake is in: the one without which the config is right; else the run is described."""

    def right(left_out: Iterable[str]) -> bool:
        try:
            resolve_config(set_fields(base, {k: v for k, v in {**common, **point}.items() if k not in left_out}))
        except ConfigError:
            return False
        return True

    culprits = [path for path in point if right([path])]
    if len(culprits) == 1:
        return f"axis {described({culprits[0]: point[culprits[0]]})}: "
    if point and right(point):
        return f"the run with {described(point)}: "
    return "base and overrides: "


def _check_baseline(baseline: Mapping[str, Any], settings: Sequence[Setting]) -> None:
    """A baseline names axes, and values that they have."""
    axes = axis_paths(settings)
    for path, value in renamed_paths(baseline).items():
        if path not in axes:
            raise ConfigError(f"baseline: {unknown('axis', path, axes)}")
        values = {described({path: s.overrides[path]}): None for s in settings if path in s.overrides}
        if described({path: value}) not in values:
            raise ConfigError(f"baseline: no run has {described({path: value})}; there are: {', '.join(values)}")


def axis_paths(settings: Iterable[Setting]) -> list[str]:
    """The paths that any of the settings sets, the seed last."""
    paths = dict.fromkeys(path for setting in settings for path in setting.overrides if path != "seed")
    return [*paths, "seed"]


def axis_value(setting: Setting, path: str) -> Any:
    """A setting's value of an axis, for a table: a number, a name, or the JSON of a section; None where its config has
    no such field."""
    node: Any = setting.config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping | list | tuple):
        return node
    override = setting.overrides.get(path)
    if isinstance(override, str):
        return override
    if override is None and isinstance(node, Mapping) and "name" in node:
        return node["name"]
    return json.dumps(node if override is None else override)


# --- words -----------------------------------------------------------------------------------------------------------


def described(overrides: Mapping[str, Any]) -> str:
    """For people: "optimizer.learning_rate=0.01, seed=3"."""
    return ", ".join(f"{path}={_text(value)}" for path, value in overrides.items()) or "nothing set"


def command(base: str, overrides: Mapping[str, Any], workdir: Path) -> str:
    """The line for a shell that makes a run by itself, into a workdir of its own.

    Args:
        base: the config's file.
        overrides: of the sweep and of the setting.
    """
    words = [f"--config.{path}={_text(value)}" for path, value in overrides.items()]
    return shlex.join(["python", "-m", "rnnlab.train", f"--config={base}", *words, f"--workdir={workdir}"])


def _text(value: Any) -> str:
    """A value as the command line reads it."""
    return value if isinstance(value, str) and literal(value) == value else repr(value)


def _no_json(value: Any) -> Any:
    raise ConfigError(f"{value!r} cannot be written to config.json; a sweep needs names and plain values")
