"""Evaluates a trained network.

    python -m rnnlab.evaluate --workdir=runs/adding
    python -m rnnlab.evaluate --workdir=runs/adding --split=validation --checkpoint=last
    python -m rnnlab.evaluate --workdir=runs/adding --test_lengths=50,100,200,400
    python -m rnnlab.evaluate --workdir=runs/speech --split=all --decode
    python -m rnnlab.evaluate --workdir=runs/wikitext2 --split=all --dynamic --dynamic_batches=200

Prints the metrics and writes them to WORKDIR/evaluation.json; with --split=all under each split's name. --test_lengths,
for a task with an option `length`, evaluates at these lengths in place of the run's own, writes them to
WORKDIR/evaluation_by_length.json and draws WORKDIR/plots/evaluation_by_length.png. For a task that names its classes,
as time_series does, WORKDIR/confusion.json counts which are taken for which, and WORKDIR/plots/confusion.png shows it.
For the task forecast, WORKDIR/plots/forecast.png shows the forecasts beside the series.
--decode, for runs of the task speech, adds the phone error rate of a Viterbi decoding, all transcripts in
WORKDIR/recognition.json, and figures of an utterance and of confused phones in WORKDIR/plots.
--dynamic, for a language model, adds dynamic_loss, dynamic_perplexity and so on: the network goes on learning from the
text, each window of --dynamic_window steps after it is scored (Krause et al., 2018). All numbers are then of
--dynamic_streams streams. Each parameter has its own rate, by its gradients on the first --dynamic_batches batches of
the training text, or with --nodynamic_rms one rate for all. Tune --dynamic_learning_rate and --dynamic_decay on
validation.
For a published network, as those in docs/results/checkpoints, all files go to runs/NAME-published; --output names
another folder.
Exit status: 0, or 2 for a mistake in the command or the workdir.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.files import write_arrays, write_text
from rnnlab.records.metrics import plain
from rnnlab.records.workdir import Workdir, check_idle, read_config
from rnnlab.tasks import Split

if TYPE_CHECKING:
    from rnnlab.training.recognition import Recognition
    from rnnlab.training.run import Run
    from rnnlab.training.state import TrainState


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a run of rnnlab.train")
    flags.DEFINE_enum("split", "test", ["validation", "test", "all"], "what to evaluate on", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    flags.DEFINE_list("test_lengths", None, "lengths of the task in place of the run's, 50,100,200", flag_values=values)
    flags.DEFINE_bool("decode", False, "recognise phones, for a run of the task speech", flag_values=values)
    _define_dynamic(values)
    cli.output_flag(values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    if values.workdir is None:
        raise ConfigError("--workdir is missing, as in --workdir=runs/adding (--help says more)")
    if values.decode and values.test_lengths is not None:
        raise ConfigError("--decode does nothing with --test_lengths; the task speech has no option length")
    _check_dynamic(values)
    workdir, which = Path(values.workdir), values.checkpoint
    splits: list[Split] = ["validation", "test"] if values.split == "all" else [values.split]
    config = read_config(workdir)
    output = cli.output_folder(workdir, values.output)

    from rnnlab.training.chosen import restore_run
    from rnnlab.training.other_lengths import read_lengths
    from rnnlab.training.setup import make_run

    lengths = None if values.test_lengths is None else read_lengths(values.test_lengths, config["task"])
    run = _dynamic_run(values, config) if values.dynamic else make_run(config, values.data_dir)
    for split in splits:
        run.check_evaluation(split)
    restored = restore_run(run, workdir, which)
    if lengths is not None:
        _by_length(run, restored.state, restored.step, config, values.data_dir, lengths, splits, output)
        return cli.FINISHED
    results: dict[Split, dict[str, Any]] = {
        s: {"step": restored.step, "split": s, **run.evaluate(restored.state, s)} for s in splits
    }
    if values.dynamic:
        _evaluate_dynamically(run, restored.state, values, results)
    confused = {} if run.task.classes is None else _confused(run, restored.state, splits)
    forecast = _forecast(run, restored.state, splits[-1])
    recognized = _recognized(run, restored.state, splits) if values.decode else {}
    for split, each in recognized.items():
        results[split] |= each.values
    written = results if values.split == "all" else results[splits[0]]
    figures: list[Path] = []
    with cli.beside_numbers():
        check_idle(output)
        write_text(Workdir(output).evaluation, json.dumps(plain(written), indent=2) + "\n")
        figures += _keep_confused(confused, output) if confused else []
        figures += _keep_forecast(forecast, output) if forecast else []
        figures += _keep(recognized, output) if recognized else []
    _print(list(results.values()), figures)
    return cli.FINISHED


DYNAMIC = ("learning_rate", "decay", "rms", "epsilon", "window", "streams", "batches")
"""The flags --dynamic_NAME."""


def _define_dynamic(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("dynamic", False, "go on learning from the text that is scored", flag_values=values)
    flags.DEFINE_float(
        "dynamic_learning_rate", None, "else 2e-6, without RMS 0.0015, a step of a window", 0, flag_values=values
    )
    flags.DEFINE_float("dynamic_decay", None, "towards the trained network; else 1e-4 a step", 0, 1, flag_values=values)
    flags.DEFINE_bool(
        "dynamic_rms", True, "a rate for each parameter, by its gradients in training", flag_values=values
    )
    flags.DEFINE_float("dynamic_epsilon", 2e-5, "beside the root of the mean squared gradient", 0, flag_values=values)
    flags.DEFINE_integer("dynamic_window", None, "steps between adaptations; else task.window", 1, flag_values=values)
    flags.DEFINE_integer("dynamic_streams", 1, "streams that the text is cut into", 1, flag_values=values)
    flags.DEFINE_integer("dynamic_batches", None, "of training text, for the rates; else all", 1, flag_values=values)


def _check_dynamic(values: flags.FlagValues) -> None:
    """Raises ConfigError for flags that would be ignored."""
    if values.dynamic and (values.decode or values.test_lengths is not None):
        other = "decode" if values.decode else "test_lengths"
        raise ConfigError(f"--dynamic is for language models, which --{other} is not for")
    ignored = next((f"dynamic_{name}" for name in DYNAMIC if values[f"dynamic_{name}"].present), None)
    if not values.dynamic and ignored:
        raise ConfigError(f"--{ignored} does nothing without --dynamic")
    for name in ("learning_rate", "decay", "epsilon"):
        if not math.isfinite(values[f"dynamic_{name}"].value or 0.0):
            raise ConfigError(f"--dynamic_{name}: {values[f'dynamic_{name}'].value} is not a finite number")
    if values.dynamic and not values.dynamic_rms and values.dynamic_batches is not None:
        raise ConfigError("--dynamic_batches does nothing with --nodynamic_rms, which needs no training text")


def _dynamic_run(values: flags.FlagValues, config: Mapping[str, Any]) -> "Run":
    from rnnlab.training.dynamic import make_dynamic_run

    return make_dynamic_run(config, values.data_dir, values.dynamic_window, values.dynamic_streams)


def _evaluate_dynamically(
    run: "Run", state: "TrainState", values: flags.FlagValues, results: Mapping[Split, dict[str, Any]]
) -> None:
    """Adds the numbers of a dynamic evaluation to those of each split."""
    from rnnlab.library.evaluating import dynamic_metrics

    names = ("learning_rate", "decay", "rms", "epsilon", "batches")
    options: dict[str, Any] = {name: values[f"dynamic_{name}"].value for name in names}
    metrics, adaptation = dynamic_metrics(run, state, list(results), **options)
    for split, result in results.items():
        result |= metrics[split]
        result["dynamic"] = adaptation | {
            "window": getattr(run.task, "window", None),
            "streams": values.dynamic_streams,
            "batches": values.dynamic_batches,
        }


def _print(results: Sequence[Mapping[str, Any]], figures: Sequence[Path]) -> None:
    """Last: the files are complete even if nobody reads the output."""
    for result in results:
        shown = {name: value for name, value in result.items() if isinstance(value, int | float | str)}
        print("  ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()))
    for figure in figures:
        print(f"figure: {figure}")


def _by_length(
    run: "Run",
    state: "TrainState",
    step: int,
    config: Mapping[str, Any],
    data_dir: str | None,
    lengths: Sequence[int],
    splits: Sequence[Split],
    output: Path,
) -> None:
    """Evaluates at other lengths, writes and draws what comes of it, and prints it."""
    from rnnlab.training.other_lengths import evaluate_at_lengths, judged_by

    evaluations = evaluate_at_lengths(run, state, config, data_dir, lengths, splits)
    trained = run.label.get("length", config["task"]["length"])  # With a curriculum, that of the checkpoint's stage.
    written: dict[str, Any] = {"step": step, "trained_length": trained, **judged_by(run.task)}
    written["evaluations"] = [plain(each) for each in evaluations]
    figures = []
    with cli.beside_numbers():
        check_idle(output)
        write_text(Workdir(output).evaluation_by_length, json.dumps(plain(written), indent=2) + "\n")
        from rnnlab.plots.lengths import evaluation_by_length

        figures = [evaluation_by_length(output)]
    _print(evaluations, figures)


def _confused(run: "Run", state: "TrainState", splits: list[Split]) -> dict[Split, Any]:
    """Counts, for each split, how many examples of a class are taken for another."""
    from rnnlab.training.outputs import confusion

    return {s: {"classes": run.task.classes, "counts": confusion(run, state, s).tolist()} for s in splits}


def _keep_confused(confused: Mapping[Split, Any], output: Path) -> list[Path]:
    """Writes the file and the figure, that of the last split, to the folder and returns the figure."""
    from rnnlab.plots import confusion

    write_text(Workdir(output).confusion, json.dumps(confused) + "\n")
    return [confusion(output)]


def _forecast(run: "Run", state: "TrainState", split: Split) -> dict[str, Any]:
    """The forecasts of a split beside the series; nothing of another task."""
    from rnnlab.tasks import Forecast
    from rnnlab.training.forecasting import forecasts

    return forecasts(run, run.task, state, split) if isinstance(run.task, Forecast) else {}


def _keep_forecast(arrays: Mapping[str, Any], output: Path) -> list[Path]:
    """Writes the arrays and the figure to the folder and returns the figure."""
    from rnnlab.plots import forecast

    write_arrays(Workdir(output).forecast_arrays, arrays, compressed=True)
    return [forecast(output)]


def _recognized(run: "Run", state: "TrainState", splits: list[Split]) -> dict[Split, "Recognition"]:
    """Recognises the phones of each split."""
    from rnnlab.training.recognition import recognize

    return {split: recognize(run, state, split) for split in splits}


def _keep(recognized: Mapping[Split, "Recognition"], output: Path) -> list[Path]:
    """Writes files and figures to the folder and returns the figures; the arrays are those of the last split."""
    from rnnlab.plots import phone_confusion, utterance

    written = {split: {**each.values, "transcripts": each.transcripts} for split, each in recognized.items()}
    write_text(Workdir(output).recognition, json.dumps(written, indent=1) + "\n")
    write_arrays(Workdir(output).recognition_arrays, list(recognized.values())[-1].arrays, compressed=True)
    return [utterance(output), phone_confusion(output)]


if __name__ == "__main__":
    cli.run(main)
