"""From a resolved config to objects: devices, the tasks and programs of every stage, what the host decides with.

The only reader of the config below `training/loop.py`. The classes that it makes objects of take objects and keywords.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import lookup
from rnnlab.datasets.embeddings import Embeddings, find_embeddings, read_embeddings
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.optim.chain import waits_for_plateau
from rnnlab.parallel import devices
from rnnlab.parallel.processes import processes
from rnnlab.parallel.sharding import MODEL_AXIS
from rnnlab.records.run_config import (
    TRACED_SECTIONS,
    CurriculumOptions,
    FlightRecorderOptions,
    resolve_config,
    task_stages,
)
from rnnlab.tasks import Task, make_task
from rnnlab.training import footprint
from rnnlab.training.curriculum import Curriculum
from rnnlab.training.early_stopping import EarlyStopping
from rnnlab.training.host_state import Convergence, HostState, Intervals
from rnnlab.training.plateau import Plateau
from rnnlab.training.programs import Programs, quiet_about_length
from rnnlab.training.run import Mentioned, Run, whole_width
from rnnlab.training.structure import Structure

WIDE_LAYER = 512
"""Units from which on the backend native has one device."""


def make_run(config: ConfigDict | Mapping[str, Any], data_dir: str | None = None, mesh: Mesh | None = None) -> Run:
    """A config made ready to run. Nothing is compiled or written yet.

    Args:
        config: see `run_config.resolve_config`.
        data_dir: the data folder.
        mesh: the devices, two axes of them those of `sharding.ALL_AXES`; if not given, those that the config asks for.

    Raises:
        ConfigError: a mistake in the config or the data.
    """
    config = resolve_config(config)
    count = device_count(config)
    if mesh is None:
        devices.tune_host(config["batch_size"], count)
        mesh = devices.make_mesh(config["batch_size"], count, words_split(config))
    with quiet_about_length():
        stages, embeddings = make_stages(config, data_dir, mesh, whole_width(config["eval_batch_size"], mesh))
    model, optimizer, recorder = config["model"], config["optimizer"], config["flight_recorder"]
    return Run(
        stages,
        mesh,
        seed=config["seed"],
        eval_batch_size=config["eval_batch_size"],
        labels=stage_labels(config),
        intervals=intervals_of(config),
        sizes=sizes_of(config),
        mentioned=Mentioned(
            task=config["task"]["name"],
            cell=model["cell"]["name"],
            devices=count,
            embedding_file=model["embedding_file"],
            learning_rate=optimizer["learning_rate"],
            clip_norm=optimizer["clip_norm"],
            schedule=optimizer["schedule"],
            warmup_steps=optimizer["warmup_steps"],
        ),
        embeddings=embeddings,
        flight_recorder=None if recorder is None else FlightRecorderOptions(**recorder),
    )


# --- stages ----------------------------------------------------------------------------------------------------------


def make_stages(
    config: Mapping[str, Any], data_dir: str | None, mesh: Mesh, eval_rows: int
) -> tuple[list[Programs], Embeddings | None]:
    """The programs of every stage, none of them compiled yet, and the vectors of words that their networks begin with.
    Mistakes are found before the first step.

    Args:
        config: resolved.
        data_dir: the data folder.
        mesh: the devices.
        eval_rows: of one batch of an evaluation.

    Raises:
        ConfigError: a mistake in the config or the data, or stages that differ in what is trained.
    """
    stages, embeddings = [], None
    sections = task_stages(config)
    for stage, section in enumerate(sections):
        try:
            task = make_task(section, data_dir, config["augmentation"], (config["batch_size"], eval_rows))
            embeddings = embeddings or _pretrained(config["model"], config["seed"], task, data_dir)
            structure = Structure(
                task,
                **{name: config[name] for name in TRACED_SECTIONS},
                run_steps=config["steps"],
                word_parts=mesh.shape[MODEL_AXIS],
            )
            programs = Programs(
                structure,
                mesh,
                batch_size=config["batch_size"],
                log_every=config["log_every"],
                measures={name: lookup(DIAGNOSTICS, name, "diagnostics") for name in config["diagnostics"]},
                stops_at_spikes=config["flight_recorder"] is not None,
                embedding=None if embeddings is None else embeddings.table,
            )
        except ConfigError as error:
            if stage == len(sections) - 1:
                raise
            raise ConfigError(f"curriculum.values: stage {stage + 1}: {error}") from None
        stages.append(programs)
    if len(stages) > 1:
        _check_alike(stages, config["curriculum"]["field"])
    return stages, embeddings


def stage_labels(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each stage's value under its field's name; empty without a curriculum."""
    curriculum = config["curriculum"]
    fields = [] if curriculum is None else [curriculum["field"]]
    return [{field: section[field] for field in fields} for section in task_stages(config)]


def _check_alike(stages: list[Programs], field: str) -> None:
    """Raises a ConfigError where the state of a stage is not that of the last; field: the curriculum's."""
    *earlier, last = stages
    for stage, programs in enumerate(earlier, 1):
        if difference := state_difference(programs, last):
            name, here, there = difference
            raise ConfigError(
                f"curriculum.field: task.{field} changes what is trained: {name} is {here} in stage {stage}, {there} "
                "in the last"
            )


def state_difference(programs: Programs, others: Programs) -> tuple[str, str, str] | None:
    """The first array, by name, of which the states of two programs have not the same: its name, and what it is in
    either, as "float32[8, 1]" or "absent"; None where the states are alike."""
    shapes, theirs = _shapes(programs), _shapes(others)
    for name in sorted(shapes | theirs):
        if shapes.get(name) != theirs.get(name):
            return name, shapes.get(name, "absent"), theirs.get(name, "absent")
    return None


def _shapes(programs: Programs) -> dict[str, str]:
    """The shape of every array of a state: "params/readout/kernel" -> "float32[8, 1]"."""
    leaves = jax.tree_util.tree_leaves_with_path(programs.shapes)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def device_count(config: Mapping[str, Any]) -> int | None:
    """How many devices a run asks for; None: as many as divide its batch.

    Wide layers run faster by the backend native on one device, whose threads share the rows: each of several would read
    and pack all of a matrix, and they would sum as large a gradient. docs/performance.md has both in its tables.
    """
    model = config["model"]
    wide = model["cell"]["features"] >= WIDE_LAYER and model["recurrence"]["backend"] == "native"
    splits = words_split(config) not in (None, 1)
    if config["devices"] is None and wide and not splits and processes() == 1:
        return 1
    return config["devices"]


def words_split(config: Mapping[str, Any]) -> int | None:
    """How many devices are to share the words of the softmax; None: as many as is fast."""
    model, softmax = config["model"], config["model"]["softmax"]
    if softmax is None:
        return 1
    needs_all = config["optimizer"]["name"] == "adafactor" or (softmax["tied"] and not model["embedding_trained"])
    return 1 if needs_all and softmax["split"] is None else softmax["split"]


def _pretrained(model: Mapping[str, Any], seed: int, task: Task, data_dir: str | None) -> Embeddings | None:
    """The vectors of the task's words, if the model has a file of them."""
    if model["embedding_file"] is None:
        return None
    if task.words is None:
        raise ConfigError("model.embedding_file: this task has no words")
    if model["embedding"] is None:
        raise ConfigError("model.embedding_file: needs model.embedding, the vectors' dimension")
    path = find_embeddings(model["embedding_file"], data_dir)
    return read_embeddings(path, task.words, model["embedding"], seed=seed)


# --- what the host decides with ---------------------------------------------------------------------------------------


def intervals_of(config: Mapping[str, Any]) -> Intervals:
    """When a resolved config wants what."""
    every = config["diagnostics_every"] if config["diagnostics"] else None
    return Intervals(config["steps"], config["log_every"], config["eval_every"], config["checkpoint_every"], every)


def sizes_of(config: Mapping[str, Any]) -> footprint.Sizes:
    """The fields of a resolved config that a line about memory names."""
    model, features = config["model"], config["model"]["cell"].get("features")
    return footprint.Sizes(
        batch={name: config[name] for name in ("batch_size", "eval_batch_size")},
        lengths={f"task.{n}": config["task"][n] for n in ("length", "window", "longest") if n in config["task"]},
        network=({} if features is None else {"model.cell.features": features})
        | ({} if model["layers"] == 1 else {"model.layers": model["layers"]}),
        embedding={} if model["embedding"] is None else {"model.embedding": model["embedding"]},
    )


def make_host_state(
    config: Mapping[str, Any], solved: tuple[str, float] | None, sign: Callable[[str, str], float]
) -> HostState:
    """The memory of a run's host as it begins.

    Args:
        solved: of the task; see `Convergence`.
        sign: (metric, path of the field that names it) -> 1 for a metric of which more is better, else -1.

    Raises:
        ConfigError: a metric that the task does not have.
    """
    watched, curriculum, metric = config["early_stopping"], config["curriculum"], config["early_stopping"]["metric"]
    better = sign(metric, "early_stopping.metric")
    stopping = EarlyStopping(metric, better, watched["patience"], watched["min_change"])
    named = (curriculum or {}).get("metric")
    options = None if curriculum is None else CurriculumOptions(**curriculum)
    stages = Curriculum(options, 1.0 if named is None else sign(named, "curriculum.metric"))
    plateau = None
    if waits_for_plateau(config["optimizer"]):
        schedule = {name: value for name, value in config["optimizer"]["schedule"].items() if name != "name"}
        plateau = Plateau(metric, better, **schedule)
    convergence = Convergence(solved, 1.0 if solved is None else sign(solved[0], "task"))
    if watched["when_solved"] and solved is None:
        raise ConfigError(
            f"early_stopping.when_solved: the task {config['task']['name']} has no value that counts as solved"
        )
    return HostState(intervals_of(config), stopping, stages, convergence, plateau, watched["when_solved"])
