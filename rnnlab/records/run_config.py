"""Configs: read from a file, changed by the command line, resolved against the fields that the code declares.

A resolved config has every field of the run, of its declared type; it dies in `training/loop.py`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rnnlab.config.bounds import NameIn, NonNegative, NonNegativeInt, PositiveInt
from rnnlab.config.errors import ConfigError, UnknownField, unknown
from rnnlab.config.fields import fields_of
from rnnlab.config.numbers import split_numbers
from rnnlab.config.outside import folders_of, is_outside, look_in
from rnnlab.config.overrides import Config, copied, field_paths, fields_named, set_paths, to_dict
from rnnlab.config.schema import resolve
from rnnlab.config.texts import annotation_at, literal, typed
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.nn.options import ModelOptions
from rnnlab.optim.averaging import AveragingOptions
from rnnlab.optim.chain import OptimizerOptions, OptimizerSpec
from rnnlab.optim.penalties import PenaltyOptions
from rnnlab.records.former_fields import renamed_fields, renamed_paths
from rnnlab.records.trackers import TrackerName
from rnnlab.tasks import AugmentationOptions, TaskSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStoppingOptions:
    """When a run ends before its last step. The best checkpoint is that of the best value, by however little."""

    metric: str = "loss"
    """The validation metric that is watched: less is better for a loss or an error, more for an accuracy or share."""
    patience: PositiveInt | None = None
    """After how many evaluations without an improvement the run ends; None: never."""
    min_change: NonNegative = 0.0
    """An improvement is one by more than this."""
    when_solved: bool = False
    """Whether the run ends at the first evaluation that solves its task, as summary.json counts it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumOptions:
    """A number of the task that is raised in stages (Bengio et al., 2009). The task's own value is the last stage. The
    next stage begins at given steps, or when a metric reaches a threshold."""

    field: str
    """Its name in the task's section."""
    values: tuple[int | float, ...]
    """The stages before the last."""
    steps: tuple[PositiveInt, ...] | None = None
    """The step at which each next stage begins, one for each of values."""
    metric: str | None = None
    """The next stage begins at the first evaluation of the stage (every eval_every steps) in which this validation
    metric reaches the threshold from the worse side."""
    threshold: float | None = None
    """With metric: the value at which the next stage begins."""
    at_most: PositiveInt | None = None
    """With metric: the next stage begins after so many steps of the stage, if that comes first; None: never."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlightRecorderOptions:
    """A recording of each spike, a gradient of more than 10 times the usual norm, and of a loss or gradient that is not
    finite. `python -m rnnlab.diagnose --workdir=… --replay` looks at them."""

    steps: PositiveInt = 10
    """How many updates before a spike are recorded; spikes so close together count as one."""
    at_most: PositiveInt = 3
    """How many recordings are kept, the last ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """How the trackers call the run. Accounts, servers and modes are those of the tools' own environment variables, as
    WANDB_MODE and MLFLOW_TRACKING_URI."""

    project: str | None = None
    """W&B's project, MLflow's experiment; None: WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, else rnnlab."""
    name: str | None = None
    """The run's name, of a sweep the part before /0000; None: the name of its folder."""
    group: str | None = None
    """W&B's group, MLflow's tag group; None: in a sweep the name of its folder, else none."""
    tags: tuple[str, ...] = ()
    """W&B's tags; in MLflow each is a tag whose value is true."""


DiagnosticName = Annotated[str, NameIn("diagnostic", DIAGNOSTICS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The fields of a run."""

    task: TaskSpec
    """The examples, the loss and the metrics."""
    model: ModelOptions
    """The network."""
    optimizer: OptimizerSpec
    """The update rule, its learning rate, and what is done to gradients and weights."""
    penalties: PenaltyOptions = PenaltyOptions()
    """Terms that are added to the loss."""
    averaging: AveragingOptions | None = None
    """A running mean of the parameters, which evaluation uses; None: none."""
    early_stopping: EarlyStoppingOptions = EarlyStoppingOptions()
    """The metric that chooses the best checkpoint, and when a run ends early."""
    augmentation: AugmentationOptions = AugmentationOptions()
    """Random changes of training examples."""
    curriculum: CurriculumOptions | None = None
    """A number of the task that is raised in stages; None: none."""
    diagnostics: tuple[DiagnosticName, ...] = ()
    """Measures of a training step, taken every diagnostics_every steps."""
    diagnostics_every: PositiveInt = 100
    """How often diagnostics are taken."""
    flight_recorder: FlightRecorderOptions | None = None
    """Recordings of spikes and of what is not finite; None: none."""
    steps: PositiveInt
    """Updates of the whole run. All that ends in _every is in steps, too."""
    batch_size: PositiveInt = 16
    """Rows of all devices together."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, of fresh training examples and of all noise."""
    log_every: PositiveInt = 100
    """How often the means of training are written."""
    eval_every: PositiveInt = 1000
    """How often the validation split is evaluated."""
    eval_batch_size: PositiveInt = 500
    """Rows of all devices together in evaluation."""
    checkpoint_every: PositiveInt = 1000
    """How often the state is saved, beside each new best and the last."""
    trackers: tuple[TrackerName, ...] = ()
    """Where the numbers go beside the workdir: wandb, mlflow, package.module:Name; they may change at each resume."""
    tracking: TrackingOptions = TrackingOptions()
    """How trackers call the run."""
    devices: PositiveInt | None = None
    """How many to split the batch over; None takes the most that divide it."""
    import_from: tuple[str, ...] = ()
    """Folders that have the modules of names `package.module:Name`, looked in after PYTHONPATH; at first that of the
    config's file."""


def apply_overrides(config: Config, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The config as a plain dict with `{"task.length": "400"}` set as `set_fields` does."""
    return set_fields(config, read_texts(config, overrides))


def read_texts(config: Config, texts: Mapping[str, str]) -> dict[str, Any]:
    """{path: value} of {path: text}, each as its field's type has it; see `config.texts`."""
    hint_of = field_hints(config, texts)
    return {path: typed(text, hint_of(path)) for path, text in texts.items()}


def field_hints(config: Config, texts: Mapping[str, str]) -> Callable[[str], Any]:
    """From a path to the annotation of its field, None for an unknown one, in a config with {path: text} set."""
    values = {path: literal(text) for path, text in texts.items()}
    changed = set_fields(config, values, complete=False)
    return lambda path: annotation_at(RunOptions, changed, path)


def set_fields(config: Config, overrides: Mapping[str, Any], complete: bool = True) -> dict[str, Any]:
    """The same with values in place of texts; see `config.overrides.set_paths`. Names of earlier versions are those of
    today afterwards."""
    return set_paths(renamed_fields(copied(config)), renamed_paths(overrides), _KEPT_BY_NAME, complete)


_KEPT_BY_NAME = {
    "model.cell": ("features",),
    "optimizer": tuple(fields_of(OptimizerOptions)),
}
"""Fields that mean the same under every name of a section, so a new name keeps them."""


def resolve_config(config: Config) -> dict[str, Any]:
    """The config with every field present and checked; the same again for one that is resolved already.

    Raises:
        ConfigError: anything wrong with it, in one line that says where.
    """
    plain = renamed_fields(to_dict(config))
    folders = plain.get("import_from", ())
    if folders:
        look_in([folders] if isinstance(folders, str) else folders)
    try:
        resolved = resolve(RunOptions, plain, "")
    except UnknownField as error:
        if paths := fields_named(error.name, _paths_without(config, error)):
            raise ConfigError(
                f"unknown field {error.path + error.name!r}; did you mean {' or '.join(paths)}?"
            ) from None
        raise
    optimizer = resolved["optimizer"]
    if optimizer.get("nesterov") and optimizer.get("momentum", 0.0) is None:
        raise ConfigError("optimizer.nesterov: needs optimizer.momentum")
    if resolved["model"]["normalization"]["cell"] == "batch" and resolved["batch_size"] == 1:
        raise ConfigError("batch_size: 1 row has no variance; model.normalization.cell='batch' needs at least 2")
    if resolved["curriculum"] is not None:
        resolved["curriculum"] |= {"values": _stage_values(resolved)}
    return resolved | {"import_from": folders_of(resolved)}


def without_trackers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config without the fields that say who is told of the run, and without the folders of trackers'
    modules: they make it no other run."""
    rest = {name: value for name, value in config.items() if name not in ("trackers", "tracking")}
    return rest | {"import_from": folders_of(rest)} if any(map(is_outside, config.get("trackers", ()))) else rest


def _paths_without(config: Config, error: UnknownField) -> list[str]:
    """The paths of all fields of a config without one that is unknown; none where it has more mistakes."""
    rest = section = to_dict(config)
    for part in error.path.split(".")[:-1]:
        section = section[part]
    del section[error.name]
    try:
        return field_paths(resolve_config(rest))
    except ConfigError:
        return []


def task_stages(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The task's section in every stage of the curriculum of a resolved config; without one, the one section."""
    curriculum, task = config["curriculum"], config["task"]
    earlier = [] if curriculum is None else [task | {curriculum["field"]: value} for value in curriculum["values"]]
    return [*earlier, task]


def _stage_values(config: Mapping[str, Any]) -> tuple[int | float, ...]:
    """The curriculum's values in the type of the task's field, after all checks that need no task."""
    curriculum, task = config["curriculum"], config["task"]
    field, values, steps = curriculum["field"], curriculum["values"], curriculum["steps"]
    numbers = sorted(k for k, v in task.items() if isinstance(v, int | float) and not isinstance(v, bool))
    if field not in task:
        raise ConfigError(f"curriculum.field: {unknown('field', field, numbers, 'task.')}")
    if field not in numbers:
        listed = ", ".join(f"task.{name}" for name in numbers)
        raise ConfigError(f"curriculum.field: task.{field} is {task[field]!r}, not a number; numbers: {listed}")
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
            checked.append(resolve(RunOptions, {**config, "task": section}, "")["task"][field])
        except ConfigError as error:
            raise ConfigError(f"curriculum.values: stage {number}: {error}") from None
    for number, (value, following) in enumerate(itertools.pairwise([*checked, task[field]]), 1):
        if value == following:
            last = f" (the last stage is task.{field} itself)" if number == len(checked) else ""
            raise ConfigError(f"curriculum.values: stages {number} and {number + 1} are both {value}{last}")
    return tuple(checked)


TRACED_SECTIONS = ("model", "optimizer", "averaging", "penalties")
"""The sections whose numbers enter the compiled programs as arrays, where their fields are marked so."""


def traced_numbers(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """The structure of these sections of a resolved config, and their numbers; see `split_numbers`."""
    return split_numbers({name: config[name] for name in TRACED_SECTIONS}, RunOptions)
