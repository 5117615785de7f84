"""The stages of a curriculum, or the one stage there is: the task and the programs of each, from a resolved config."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.embeddings import Embeddings, find_embeddings, read_embeddings
from rnnlab.records.run_config import task_stages
from rnnlab.tasks import Task, make_task
from rnnlab.training.programs import Programs


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
            programs = Programs(
                config["model"],
                config["optimizer"],
                task,
                mesh,
                batch_size=config["batch_size"],
                run_steps=config["steps"],
                log_every=config["log_every"],
                averaging=config["averaging"],
                penalties=config["penalties"],
                diagnostics=config["diagnostics"],
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


def _check_alike(stages: list[Programs], field: str) -> None:
    """Raises a ConfigError where the state of a stage is not that of the last; field: the curriculum's."""
    *earlier, last = [_shapes(programs) for programs in stages]
    for stage, each in enumerate(earlier, 1):
        for name in (n for n in sorted(each | last) if each.get(n) != last.get(n)):
            raise ConfigError(
                f"curriculum.field: task.{field} changes what is trained: {name} is {each.get(name, 'absent')} in "
                f"stage {stage}, {last.get(name, 'absent')} in the last"
            )


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


def _shapes(programs: Programs) -> dict[str, str]:
    """The shape of every array of a state: "params/readout/kernel" -> "float32[8, 1]"."""
    state = jax.eval_shape(lambda: programs.start(0))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
