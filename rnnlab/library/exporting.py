"""A network to hand on: a folder with its weights as safetensors, its config, its numbers and a card for people."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import to_json
from rnnlab.files import write_bytes, write_text
from rnnlab.files.markdown import markdown_table
from rnnlab.library.folders import named_folder
from rnnlab.nn.network import Network
from rnnlab.records.run_config import without_trackers
from rnnlab.records.workdir import Workdir, read_summary
from rnnlab.training.checkpoints import Restored
from rnnlab.training.chosen import export_parameters
from rnnlab.training.run import Run


def export(
    workdir: Path, config: Mapping[str, Any], run: Run, restored: Restored, network: Network, output: str | Path
) -> Path:
    """See `LoadedRun.export`."""
    folder = named_folder(output)
    source, target = Workdir(workdir), Workdir(folder)
    if target.config.exists() and not target.tensors.exists():
        raise ConfigError(f"{folder} holds a run; take another folder, so that both stay")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name one, which is made if missing")
    export_parameters(restored, target.tensors)
    # Folders of this machine, and who was told of the run, are of no use elsewhere.
    write_text(target.config, to_json({**without_trackers(config), "import_from": ()}))
    for path, copied in ((source.summary, target.summary), (source.vocabulary, target.vocabulary)):
        if path.exists():
            write_bytes(copied, path.read_bytes())
    write_text(target.card, model_card(config, read_summary(workdir), restored.step, network, run.task))
    return folder


def model_card(
    config: Mapping[str, Any], summary: Mapping[str, Any] | None, step: int, network: Network, task: Any
) -> str:
    """The text of the card: what the network is, what it was trained on, its numbers, how it is opened.

    Args:
        config: resolved.
        summary: of the run, if it has one.
        step: of the checkpoint.
        network, task: of the run.
    """
    cell, name = config["model"]["cell"]["name"], config["task"]["name"]
    inputs = "[T, B] tokens" if network.vocabulary else f"[T, B, {network.in_features}] numbers"
    outputs = f"[B, {task.out_features}]" if task.readout == "last" else f"[T, B, {task.out_features}]"
    parts = [
        f"---\nlibrary_name: rnnlab\ntags: [rnn, {cell}, {name}]\n---\n",
        f"# {cell} on {name}\n",
        f"A recurrent network of rnnlab, step {step} of {config['steps']}. Input {inputs}, time first; output "
        f"{outputs}.\n",
        f"```\n{network}\n```\n",
        "## Use\n",
        '```python\nimport rnnlab\n\nrun = rnnlab.load("FOLDER")  # this one\noutputs = run.predict(x)\n```\n',
        "`model.safetensors` has each array under its path in the network; `config.json` has every field of the run. "
        f"Evaluation needs the data of the task {name}.\n",
    ]
    if summary is not None:
        rows = list(_numbers(summary))
        parts += ["## Numbers\n", markdown_table(["split", "metric", "value"], rows)] if rows else []
        parts += ["## Training\n", markdown_table(["", ""], list(_training(config, summary)))]
    return "\n".join(parts)


def _numbers(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    for split in ("validation", "test"):
        for metric, value in (summary.get("best", {}).get(split) or {}).items():
            yield [split, metric, f"{value:.6g}" if isinstance(value, float) else str(value)]


def _training(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[list[str]]:
    optimizer = config["optimizer"]
    yield ["status", f"{summary['status']} after {summary.get('steps')} steps, {summary.get('seconds')} s"]
    yield ["optimizer", f"{optimizer['name']}, learning rate {optimizer['learning_rate']:g}"]
    yield ["batch", f"{config['batch_size']} rows, seed {config['seed']}"]
    yield ["task", ", ".join(f"{k} {v}" for k, v in config["task"].items() if k != "name" and v is not None)]
    yield ["device", str(summary.get("device"))]
    yield ["versions", ", ".join(f"{k} {v}" for k, v in (summary.get("versions") or {}).items())]
    if summary.get("git_commit"):
        yield ["commit", str(summary["git_commit"])]
