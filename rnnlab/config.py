"""Configs: read from a file, changed by the command line, resolved against the code's signatures, compared.

A resolved config has every field of the run, of its declared type; it dies in `loop.py`.
"""

import ast
import contextlib
import copy
import importlib.util
import inspect
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from rnnlab.averaging import AveragingSpec
from rnnlab.build import (
    ConfigError,
    NonNegative,
    NonNegativeInt,
    OneOf,
    PositiveInt,
    UnknownField,
    fields_of,
    resolve,
    subsection,
    unknown,
)
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.network import ModelSpec
from rnnlab.optimizers import OptimizerSpec, common_options
from rnnlab.penalties import PenaltySpec
from rnnlab.tasks import AugmentationSpec, TaskSpec


def early_stopping_options(
    *, metric: str = "loss", patience: PositiveInt | None = None, min_change: NonNegative = 0.0
) -> dict[str, Any]:
    """Which validation metric is watched (smaller is better for a loss or an error, larger for an accuracy or share),
    and after how many evaluations without an improvement by more than min_change the run stops (None: never). The best
    checkpoint is that of its best value, by however little."""
    return {"metric": metric, "patience": patience, "min_change": min_change}


EarlyStoppingSpec = Annotated[Mapping[str, Any], early_stopping_options]


def curriculum_options(
    *,
    field: str,
    values: tuple[int | float, ...],
    steps: tuple[PositiveInt, ...] | None = None,
    metric: str | None = None,
    threshold: float | None = None,
    at_most: PositiveInt | None = None,
) -> dict[str, Any]:
    """A number of the task that is raised in stages (Bengio et al., 2009). The task's own value is the last stage.

    field: its name in the task's section. values: the stages before the last. steps: the step at which each next stage
    begins, one for each of values; or metric and threshold: it begins at the first evaluation of the stage (every
    eval_every steps) in which this validation metric reaches the threshold from the worse side, and after at_most steps
    of the stage if that comes first (None: never).
    """
    return {
        "field": field,
        "values": values,
        "steps": steps,
        "metric": metric,
        "threshold": threshold,
        "at_most": at_most,
    }


CurriculumSpec = Annotated[Mapping[str, Any], curriculum_options]


def flight_recorder_options(*, steps: PositiveInt = 10, at_most: PositiveInt = 3) -> dict[str, Any]:
    """A recording of each spike, a gradient of more than 10 times the usual norm, and of a loss or gradient that is not
    finite, with the `steps` updates before it; spikes so close together count as one. The last
    at_most recordings are kept; `python -m rnnlab.diagnose --workdir=… --replay` looks at them."""
    return {"steps": steps, "at_most": at_most}


FlightRecorderSpec = Annotated[Mapping[str, Any], flight_recorder_options]
DiagnosticName = Annotated[str, OneOf("diagnostic", tuple(DIAGNOSTICS))]


def _run_fields(
    *,
    task: TaskSpec,
    model: ModelSpec,
    optimizer: OptimizerSpec,
    penalties: PenaltySpec = {},  # noqa: B006  (never changed)
    averaging: AveragingSpec | None = None,
    early_stopping: EarlyStoppingSpec = {},  # noqa: B006
    augmentation: AugmentationSpec = {},  # noqa: B006
    curriculum: CurriculumSpec | None = None,
    diagnostics: tuple[DiagnosticName, ...] = (),
    diagnostics_every: PositiveInt = 100,
    flight_recorder: FlightRecorderSpec | None = None,
    steps: PositiveInt,
    batch_size: PositiveInt = 16,
    seed: NonNegativeInt = 0,
    log_every: PositiveInt = 100,
    eval_every: PositiveInt = 1000,
    eval_batch_size: PositiveInt = 500,
    checkpoint_every: PositiveInt = 1000,
    devices: PositiveInt | None = None,
) -> None:
    """The fields of a run.

    diagnostics: what is measured of a training step, every diagnostics_every steps. steps: updates of
    the whole run. batch_size: of all devices together. log_every, eval_every, checkpoint_every, diagnostics_every: in
    steps. devices: how many to split the batch over; None takes the most that divide it.
    """


def load_file(reference: str) -> ConfigDict:
    """The config that a file's `get_config(preset)` returns, its references as they are: what is set later counts for
    them, too.

    Args:
        reference: "path.py" or "path.py:preset".

    Raises:
        ConfigError: no such file, no such preset, or an error while it runs.
    """
    plain = read_file(reference)
    if "base" in plain and "task" not in plain:
        raise ConfigError(f"{reference}: the file of a sweep, for python -m rnnlab.sweep; this takes a run's")
    try:
        return ConfigDict(plain)
    except Exception as error:
        raise ConfigError(f"{reference}: {type(error).__name__}: {error}") from None


def read_file(reference: str) -> dict[str, Any]:
    """The same as plain dicts, whose keys may be paths such as "model.cell.features", as in a sweep's file.

    Without a preset `get_config` is called without one. A file that has no PRESETS takes any that `get_config` does.
    """
    path, _, preset = reference.partition(":")
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):
        beside = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise ConfigError(unknown("config", path, beside or [str(p) for p in sorted(Path("configs").glob("*.py"))]))
    spec = importlib.util.spec_from_file_location(f"rnnlab_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config: {path} is not a Python file; a config is one, as configs/adding.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        presets = getattr(module, "PRESETS", None)
        parameters = list(inspect.signature(module.get_config).parameters.values())
        if preset and (not parameters if presets is None else preset not in presets):
            raise ConfigError(unknown(f"preset of {path}", preset, presets or ()))
        if not preset and parameters and parameters[0].default is inspect.Parameter.empty:
            known = f"; known: {', '.join(sorted(map(str, presets)))}" if presets else ""
            raise ConfigError(f"{path}: names no preset; get_config needs one, as in {path}:NAME{known}")
        config = module.get_config(preset) if preset else module.get_config()
        if not isinstance(config, ConfigDict | dict):
            raise ConfigError(f"{path}: get_config returned {type(config).__name__}; it must return a ConfigDict")
        return _with_references(config)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # Whatever a user's file raises: one line that names the file.
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from None


def apply_overrides(config: ConfigDict | Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """The config as a plain dict with `{"task.length": "400"}` set as `set_fields` does; values are Python literals,
    else strings."""
    return set_fields(config, {path: literal(text) for path, text in overrides.items()})


def set_fields(config: ConfigDict | Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config as a plain dict with `{"task.length": 400}` set.

    A field that refers to another (`FieldReference`) changes with it, and the other with it, unless it is computed.
    A name given to a section (`model.cell.name=lstm`, or `model.cell=lstm`) that had another one starts that section
    anew, since its fields belong to the old name.

    Raises:
        ConfigError: a path that leads through something that is no section.
    """
    plain = _with_references(config)
    # A section's name comes before its fields, whatever their order on the command line.
    order = sorted(overrides, key=lambda path: path.removesuffix(".name").count("."))
    for path, value in ((path, overrides[path]) for path in order):
        *parents, last = path.split(".")
        node: dict[str, Any] = plain
        for depth, part in enumerate(parents):
            child: Any = _value(node.get(part))
            if child is None:
                child = {}
            elif isinstance(child, str):
                child = {"name": child}
            elif not isinstance(child, dict):
                raise ConfigError(f"{'.'.join(parents[: depth + 1])}: {child!r} is not a section; cannot set {path}")
            node[part] = child
            node = child
        if isinstance(value, str) and isinstance(node.get(last), dict):
            parents, node, last = [*parents, last], node[last], "name"
        if last == "name" and _value(node.get("name")) != value:
            kept = {k: v for k, v in node.items() if k in _KEPT_BY_NAME.get(".".join(parents), ())}
            node.clear()
            node.update(kept)
        if isinstance(node.get(last), FieldReference):
            node[last].set(value, type_safe=False)  # `resolve_config` checks types, and says where.
        else:
            node[last] = to_dict(value) if isinstance(value, Mapping) else value
    return to_dict(plain)


_KEPT_BY_NAME = {
    "model.cell": ("features",),
    "optimizer": tuple(fields_of(common_options)),
}
"""Fields that mean the same under every name of a section, so a new name keeps them."""


def literal(text: str) -> Any:
    """What a text on the command line stands for."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None, "inf": float("inf")}.get(text.lower(), text)


def to_dict(config: ConfigDict | Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested plain dicts, with the values of references; path: where they stand in the config.

    Raises:
        ConfigError: a required placeholder without a value, or a computed reference that fails.
    """
    plain = {}
    for key, value in _items(config):
        where = f"{path}.{key}" if path else str(key)
        try:
            value = value.get() if isinstance(value, FieldReference) else value
        except RequiredValueError:
            raise ConfigError(f"{where}: a required placeholder without a value") from None
        except Exception as error:  # Whatever a computed one meets in what it is computed of.
            raise ConfigError(f"{where}: cannot be computed: {type(error).__name__}: {error}") from None
        plain[key] = to_dict(value, where) if isinstance(value, ConfigDict | Mapping) else value
    return plain


def refers(config: ConfigDict | Mapping[str, Any]) -> bool:
    """Whether a config has a reference."""
    return any(
        isinstance(value, FieldReference) or (isinstance(value, ConfigDict | Mapping) and refers(value))
        for _, value in _items(config)
    )


def _with_references(config: ConfigDict | Mapping[str, Any], copied: dict[int, Any] | None = None) -> dict[str, Any]:
    """Nested plain dicts of its own whose references refer to each other as they did; copied: `deepcopy`'s memory."""
    copied = {} if copied is None else copied
    plain = {}
    for key, value in _items(config):
        if isinstance(value, FieldReference):
            value = copy.deepcopy(value, copied)
        plain[key] = _with_references(value, copied) if isinstance(value, ConfigDict | Mapping) else value
    return plain


def _items(config: ConfigDict | Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return config.items(preserve_field_references=True) if isinstance(config, ConfigDict) else config.items()


def _value(value: Any) -> Any:
    """What a reference refers to; None where that cannot be computed yet."""
    with contextlib.suppress(Exception):
        return value.get() if isinstance(value, FieldReference) else value


def resolve_config(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The config with every field present and checked; the same again for one that is resolved already.

    Raises:
        ConfigError: anything wrong with it, in one line that says where.
    """
    try:
        resolved = resolve(_run_fields, to_dict(config), "")
    except UnknownField as error:
        if paths := fields_named(error.name, _paths_without(config, error)):
            raise ConfigError(
                f"unknown field {error.path + error.name!r}; did you mean {' or '.join(paths)}?"
            ) from None
        raise
    optimizer = resolved["optimizer"]
    if optimizer.get("nesterov") and optimizer["momentum"] is None:
        raise ConfigError("optimizer.nesterov: needs optimizer.momentum")
    if resolved["model"]["normalization"]["cell"] == "batch" and resolved["batch_size"] == 1:
        raise ConfigError("batch_size: 1 row has no variance; model.normalization.cell='batch' needs at least 2")
    if resolved["curriculum"] is not None:
        resolved["curriculum"] |= {"values": _stage_values(resolved)}
    return resolved


def _paths_without(config: ConfigDict | Mapping[str, Any], error: UnknownField) -> list[str]:
    """The paths of all fields of a config without one that is unknown; none where it has more mistakes."""
    rest = section = to_dict(config)
    for part in error.path.split(".")[:-1]:
        section = section[part]
    del section[error.name]
    try:
        return field_paths(resolve_config(rest))
    except ConfigError:
        return []


def field_paths(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The paths of a config's fields and sections: ["task", "task.name", …]."""
    paths = []
    for name, value in config.items():
        paths.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            paths += field_paths(value, f"{prefix}{name}.")
    return paths


def fields_named(name: str, paths: Iterable[str]) -> list[str]:
    """Up to three of the paths that end in a name, or in several with dots between them; the shortest first."""
    ending = [path for path in paths if f".{path}".endswith(f".{name}")]
    return sorted(ending, key=lambda path: (path.count("."), path))[:3]


def task_stages(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The task's section in every stage of the curriculum of a resolved config; without one, the one section."""
    curriculum, task = config["curriculum"], config["task"]
    earlier = [] if curriculum is None else [task | {curriculum["field"]: value} for value in curriculum["values"]]
    return [*earlier, task]


def _stage_values(config: Mapping[str, Any]) -> tuple[int | float, ...]:
    """The curriculum's values in the type of the task's field, after all checks that need no task."""
    curriculum, task = config["curriculum"], config["task"]
    field, values, steps = curriculum["field"], curriculum["values"], curriculum["steps"]
    known = sorted(k for k, v in task.items() if isinstance(v, int | float) and not isinstance(v, bool))
    if field not in task:
        raise ConfigError(f"curriculum.field: {unknown('field', field, known, 'task.')}")
    if field not in known:
        numbers = ", ".join(f"task.{name}" for name in known)
        raise ConfigError(f"curriculum.field: task.{field} is {task[field]!r}, which is no number; numbers: {numbers}")
    if not values:
        raise ConfigError(f"curriculum.values: empty; it lists the stages before the last (task.{field}={task[field]})")
    if (steps is None) == (curriculum["metric"] is None):
        raise ConfigError("curriculum: needs either steps or metric and threshold, and not both")
    if (curriculum["metric"] is None) != (curriculum["threshold"] is None):
        raise ConfigError("curriculum.threshold: goes with curriculum.metric, each needs the other")
    if steps is not None:
        if curriculum["at_most"] is not None:
            raise ConfigError("curriculum.at_most: goes with curriculum.metric; curriculum.steps says all by itself")
        if len(steps) != len(values):
            raise ConfigError(
                f"curriculum.steps: {len(steps)} steps for {len(values)} values; each value needs the step at which "
                "the next stage begins"
            )
        if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise ConfigError(f"curriculum.steps: {steps} do not ascend")
    checked = []
    for number, section in enumerate(task_stages(config)[:-1], 1):
        try:
            checked.append(resolve(_run_fields, {**config, "task": section}, "")["task"][field])
        except ConfigError as error:
            raise ConfigError(f"curriculum.values: stage {number}: {error}") from None
    for number, (value, following) in enumerate(itertools.pairwise([*checked, task[field]]), 1):
        if value == following:
            last = f" (the last stage is task.{field} itself)" if number == len(checked) else ""
            raise ConfigError(f"curriculum.values: stages {number} and {number + 1} are both {value}{last}")
    return tuple(checked)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """One entry "path: old -> new" for every field in which two resolved configs differ."""
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        where = f"{path}.{key}" if path else key
        a, b = old.get(key, _MISSING), new.get(key, _MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, where)
        elif a != b:
            found.append(f"{where}: {a} -> {b}")
    return found


class _Missing:
    def __repr__(self) -> str:
        return "(absent)"


_MISSING = _Missing()


def to_json(config: Mapping[str, Any]) -> str:
    """The text of config.json."""
    return json.dumps(config, indent=2) + "\n"


def render(config: Mapping[str, Any]) -> str:
    """The override flag of every field of a resolved config with its value, a line each, for --help; of a section that
    is off, its fields too."""
    return "\n".join(_flags(config, _run_fields, ""))


def _flags(section: Mapping[str, Any], factory: Callable[..., Any] | None, path: str) -> list[str]:
    """factory: the function whose parameters are the section's fields; None where its name says which."""
    hints = {} if factory is None else fields_of(factory)
    lines = []
    for key, value in section.items():
        inner = subsection(hints[key].hint) if key in hints else None
        if isinstance(value, Mapping):
            lines += _flags(value, inner, f"{path}{key}.")
        else:
            off = f" (a section: {', '.join(fields_of(inner))})" if value is None and inner is not None else ""
            lines.append(f"  --config.{path}{key}={value}{off}")
    return lines
