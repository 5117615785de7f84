"""Diagnoses a network: where its gradients vanish and explode, and what that does to training.

    python -m rnnlab.diagnose --workdir=runs/adding                 # the best checkpoint of a run
    python -m rnnlab.diagnose --config=configs/adding.py:lstm       # as it is initialised
    python -m rnnlab.diagnose --atlas                               # cells, initialisers and scales, before training
    python -m rnnlab.diagnose --workdir=runs/adding --html          # everything about a run as one page
    python -m rnnlab.diagnose --workdir=runs/adding --replay        # what blew up, and what would have held it

Measures on --rows rows of the validation split, in double precision: the gradient's half-life and reach (horizon),
singular values and eigenvalues of step Jacobians and of their products (jacobians), Lyapunov exponents (lyapunov), the
gradient of the recurrent kernel split by lag and by gate (lags), the bias of truncated backpropagation (truncation),
histograms of gates, activations and states (values), and of a run of the task forecast the Lyapunov exponents of the
network that runs on its own forecasts (closed_loop). Where asked for, --measure=newton: how many Newton iterations run
all steps at once. --config.path.to.field=VALUE sets fields of --config, as for rnnlab.train.
Writes diagnosis.json and figures in plots/ to the workdir, and to TensorBoard where it has events. For a published
network it writes to runs/NAME-published, for --config to runs/FILE-PRESET-untrained, for --atlas atlas.json and
atlas.png to runs/atlas; --output names another folder. --html writes report.html, which holds its figures and opens
without a network. For a run it measures only what --measure names, and shows earlier measurements.
--replay repeats the updates before the last spike or divergence (or the one that --recording names) from the flight
recorder (--config.flight_recorder.steps=10 in training): as they were, and with clipping, a smaller gain, a bound on
the spectral norm and a lower rate. It writes replay.json and plots/replay.png.
A measurement that fails is one line with its reason, in diagnosis.json too; the others are kept. In a network with
parameters or states that are not finite, the layers that are finite are measured.
Exit status: 0 if anything was measured, 2 for a mistake in the command, config or data, or if nothing could be.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from rnnlab import cli
from rnnlab.config.bounds import LARGEST_INT
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import Unwritable, write_text
from rnnlab.files.output import make_console
from rnnlab.parallel.memory import allocation_failures
from rnnlab.records.workdir import Workdir, check_idle, read_config

if TYPE_CHECKING:
    from rnnlab.training.run import Run
    from rnnlab.training.state import TrainState

ROWS, ATLAS_ROWS = 8, 16
_SIZES = {"measure", "rows", "jacobians", "exponents", "lags"}
FLAGS: dict[str, set[str]] = {
    "--atlas": {"atlas", "output", "rows"},
    "--replay": {"replay", "workdir", "output", "recording", "data_dir", "cache_dir"},
    "--html without --measure": {"html", "workdir", "output", "checkpoint", "data_dir", "cache_dir"},
    "--workdir": {"workdir", "output", "checkpoint", "html", "data_dir", "cache_dir", *_SIZES},
    "--config": {"output", "html", "data_dir", "cache_dir", *_SIZES},
}
"""Job -> the flags that it heeds."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a run of rnnlab.train")
    flags.DEFINE_string("checkpoint", "best", "of --workdir: best, last, or a step", flag_values=values)
    flags.DEFINE_bool("atlas", False, "the atlas of initialisations", flag_values=values)
    cli.output_flag(values)
    flags.DEFINE_list("measure", None, "what to measure, as in jacobians,lags; else all", flag_values=values)
    rows = f"rows of the batch; else {ROWS}, of --atlas {ATLAS_ROWS}"
    flags.DEFINE_integer("rows", None, rows, 1, LARGEST_INT, flag_values=values)
    flags.DEFINE_integer("jacobians", 9, "time steps with full Jacobians", 1, LARGEST_INT, flag_values=values)
    flags.DEFINE_integer("exponents", None, "leading Lyapunov exponents; else all", 1, LARGEST_INT, flag_values=values)
    lags = "lags with a part of their own; else all, or, where T is above 1000, a million / T of them"
    flags.DEFINE_integer("lags", None, lags, 1, LARGEST_INT, flag_values=values)
    flags.DEFINE_bool("replay", False, "of --workdir: a recording of its flight recorder", flag_values=values)
    flags.DEFINE_integer("recording", None, "of --replay: its update; else the last", flag_values=values)
    flags.DEFINE_bool("html", False, "report.html, one page of all that the folder holds", flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    reference, config = cli.parse_run(values, argv, __doc__)
    if values.replay and not values.workdir:
        raise ConfigError("--replay: needs --workdir, the folder of a run with a flight recorder")
    chosen = [name for name in ("workdir", "atlas") if values[name].value] + (["config"] if reference else [])
    if len(chosen) != 1:
        what = " and ".join(f"--{name}" for name in chosen) if chosen else "none"
        raise ConfigError(f"one of --workdir, --config and --atlas says what to diagnose; given: {what}")
    _check_flags(values)
    if values.atlas:
        return _atlas(Path(values.output or "runs/atlas"), values.rows or ATLAS_ROWS)
    if reference is None or config is None:
        workdir = Path(values.workdir)
        config = read_config(workdir)
        output = cli.output_folder(workdir, values.output)
        if values.replay:
            return _replay(config, workdir, output, values)
    else:
        workdir, default = None, cli.default_workdir(reference)
        output = Path(values.output or default.with_name(f"{default.name}-untrained"))
    command = shlex.join(["python", "-m", "rnnlab.diagnose", *argv])
    # A page of a run shows what was measured before, and so needs no checkpoint.
    status = cli.FINISHED
    if not values.html or workdir is None or values.measure:
        status = _diagnose(config, workdir, output, values, command)
    if values.html:
        _page(config, workdir, output, command)
    return status


def _check_flags(values: flags.FlagValues) -> None:
    """Raises ConfigError where a flag would be ignored."""
    if values.atlas or values.replay:
        what = "--atlas" if values.atlas else "--replay"
    elif values.workdir:
        what = "--html without --measure" if values.html and not values.measure else "--workdir"
    else:
        what = "--config"
    for name in cli.present_flags(values):
        if name not in FLAGS[what] | {"format"}:
            others = ", ".join(other for other, names in FLAGS.items() if name in names)
            raise ConfigError(f"--{name} does nothing with {what}; it goes with {others}")


def _page(config: dict[str, Any], workdir: Path | None, output: Path, command: str) -> None:
    from rnnlab import plots

    run = output if workdir is None else workdir
    with cli.beside_numbers():  # Earlier figures are shown all the same.
        check_idle(output)
        for folder in dict.fromkeys((run, output)):
            files = Workdir(folder)
            for path, draw in {files.diagnostics: plots.observed, files.diagnosis: plots.diagnosis}.items():
                if path.exists():
                    draw(folder, output)
    try:
        check_idle(output)
        print(f"page: {plots.page(output, config, [command], run)}")
    except Unwritable as error:
        raise ConfigError(f"{error}; --output names another folder") from None
    if not any(Workdir(folder).diagnosis.exists() for folder in (output, run)):
        print("it holds no diagnosis; the command without --html measures it, or --measure=… with it")


def _atlas(output: Path, rows: int) -> int:
    from rnnlab.diagnostics.atlas import atlas_table, measure_atlas, too_many_rows
    from rnnlab.plots.atlas import atlas

    console = make_console(soft_wrap=False)
    with allocation_failures(too_many_rows(rows)):
        result = measure_atlas(batch=rows, progress=lambda name: console.print(f"measuring {name}"))
    console.print(atlas_table(result))
    with cli.beside_numbers():
        check_idle(output)
        write_text(output / "atlas.json", json.dumps(result) + "\n")
        console.print(f"figure: {atlas(output / 'atlas.json')}")
    return cli.FINISHED


def _diagnose(
    config: dict[str, Any], workdir: Path | None, output: Path, values: flags.FlagValues, command: str
) -> int:
    import jax

    from rnnlab import plots
    from rnnlab.diagnostics.diagnosed import notes, plain_arrays
    from rnnlab.diagnostics.diagnosis import MEASURES, in_double, measures_of, subject_of
    from rnnlab.records.metrics import write_figures
    from rnnlab.training.setup import make_run

    for name in values.measure or ():
        if name not in MEASURES:
            raise ConfigError(f"--measure: {unknown('measure', name, MEASURES)}")
    console = make_console()
    run = make_run(config | {"diagnostics": ()}, values.data_dir)
    names = values.measure or measures_of(run.task)
    rows, size = values.rows or ROWS, run.task.size("validation")
    if size is not None and rows > size:
        if values.rows:
            console.print(f"--rows={rows}: the validation split has {size} rows, and all of them are taken")
        rows = size
    run.check_sample(rows)
    state, step = _state(run, workdir, values.checkpoint)
    broken = _not_finite(state.evaluated, step)
    batch = run.sample(rows)  # In single precision, so that the examples are those of training.
    result: dict[str, Any] = {
        "step": step,
        "rows": batch.inputs.shape[1],
        "seed": config["seed"],
        "command": command,
    }
    result["problems"] = []
    keeps = True
    result |= _measured_before(output, result, names) if workdir is not None else {}
    with jax.enable_x64(True):
        network = run.programs.structure.network(*in_double((state.evaluated, state.buffers)))
        sizes = values.jacobians, values.exponents, values.lags
        subject = subject_of(network, run.task, in_double(batch), *sizes, broken)
        for problem in subject.broken:
            console.print(problem, markup=False)
        result["problems"] += subject.broken
        for name in names:
            console.print(f"measuring {name}")
            try:
                result[name] = plain_arrays(MEASURES[name](subject))
            except (ConfigError, MemoryError, jax.errors.JaxRuntimeError) as error:
                reason = str(error).strip().partition("\n")[0] or "out of memory"
                result["problems"].append(f"{name}: {reason}")
                console.print(f"left out: {name}: {reason}", markup=False)
            keeps = keeps and _keep(output, result)
    measured = any(name in result for name in names)
    if measured:
        table = _table(result)
        console.print(table if table.row_count else table.title)
        for note in notes(result):
            console.print(note, markup=False)
    if keeps:
        with cli.beside_numbers():
            check_idle(output)
            figures = plots.diagnosis(output)
            console.print(f"figures in {output / 'plots'}: {', '.join(path.name for path in figures) or 'none'}")
            write_figures(output, step, figures)
    if not measured:
        print("error: nothing could be measured", file=sys.stderr)
    return cli.FINISHED if measured else cli.MISTAKE


def _state(run: "Run", workdir: Path | None, checkpoint: str) -> tuple["TrainState", int]:
    """The state of a checkpoint and its step; without a workdir the initial state and 0."""
    from rnnlab.training.chosen import restore_run

    if workdir is None:
        return run.programs.start(run.seed), 0
    restored = restore_run(run, workdir, checkpoint)
    return restored.state, restored.step


def _not_finite(params: Any, step: int) -> tuple[str, ...]:
    """One line that names the parameters that are not finite; none where all are."""
    import jax
    import jax.numpy as jnp

    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not bool(jnp.isfinite(leaf).all())
    ]
    return (f"parameters of step {step} are not finite: {', '.join(names)}",) if names else ()


def _keep(output: Path, result: dict[str, Any]) -> bool:
    """Writes diagnosis.json, or prints that it cannot be written; returns whether it was written."""
    try:
        check_idle(output)
        write_text(Workdir(output).diagnosis, json.dumps(result) + "\n")
    except Unwritable as error:
        print(f"warning: {error}; --output names another folder", file=sys.stderr)
        return False
    return True


def _measured_before(output: Path, result: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The measurements of an earlier diagnosis of the same checkpoint and rows that this one does not repeat."""
    from rnnlab.diagnostics.diagnosed import read_diagnosis

    if not Workdir(output).diagnosis.exists():
        return {}
    try:
        before = read_diagnosis(Workdir(output).diagnosis)
    except ConfigError as error:
        print(f"warning: {error}", file=sys.stderr)
        return {}
    if any(before.get(name) != result[name] for name in ("step", "rows", "seed")):
        return {}
    return {name: value for name, value in before.items() if name not in {*result, *names}}


def _replay(config: dict[str, Any], workdir: Path, output: Path, values: flags.FlagValues) -> int:
    from rnnlab.plots.replayed import replay as draw
    from rnnlab.training.flight_recorder import read_recording
    from rnnlab.training.replay import described, interventions_table, replay

    console = make_console()
    recording = read_recording(workdir, values.recording)
    result = replay(recording, config, values.data_dir, lambda text: console.print(text, markup=False))
    for line in described(result):
        console.print(line, markup=False)
    console.print(interventions_table(result))
    with cli.beside_numbers():
        check_idle(output)
        write_text(Workdir(output).replay, json.dumps(result) + "\n")
        console.print(f"figure: {draw(output)}")
    return cli.FINISHED


def _table(result: dict[str, Any]) -> Any:
    """The measurements, a column for each layer and direction."""
    from rich.table import Table

    from rnnlab.diagnostics.diagnosed import table_rows

    layers, rows = table_rows(result)
    table = Table("", title=f"step {result['step']}, {result['rows']} rows of the validation split")
    for layer in layers:
        table.add_column(layer, justify="right")
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    cli.run(main)
