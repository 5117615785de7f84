"""Trains the networks of the IRNN paper (Le, Jaitly and Hinton, 2015) and sets them beside its curves and tables.

    python -m scripts.irnn --experiment=adding --length=150 --variant=modern
    python -m scripts.irnn --experiment=pixels --variant=paper --networks=irnn --seeds=1 --budget_minutes=60
    python -m scripts.irnn --all --budget_minutes=0     # docs/REPRODUCTION.md from what is there

--experiment is adding, pixels, permuted, lm1b or timit; the configs are those of configs/irnn. Each network is a sweep
over its seeds in RUNS/CASE/NETWORK. The same command goes on where it was interrupted, or where its budget or --steps
ended it. It leaves RUNS/results/irnn_CASE.json, what is published with these runs in it, with figures beside it and, of
networks that do what they should, the best run's parameters in RUNS/results/checkpoints/. Published files (--results
and --page) change only with --update: by runs that have come to their end or to --steps, where none of that seed is
there, or a shorter or worse one. A file of another version or protocol is refused. --all trains whatever no results'
file has yet, experiment by experiment, and writes the page.
Exit status: 0 (also where the budget has ended it), 2 a mistake in the command or the data, 130 interrupted after
saving.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.texts import literal
from rnnlab.datasets.locations import data_root
from rnnlab.files import read_json
from rnnlab.files.figure_files import figure_files
from scripts.irnn.experiments import Case, all_cases, called, make_case
from scripts.irnn.publication import together
from scripts.irnn.results import (
    check_protocol,
    collect,
    is_complete,
    is_over,
    merged,
    read_results,
    results_path,
    write_results,
)
from scripts.irnn.rows import rows
from scripts.irnn.runs import Stop, config_of, sweep_of, train

ROOT = Path(__file__).resolve().parents[2]


class Command(NamedTuple):
    """The flags that hold for every case."""

    networks: list[str]
    """Empty: all."""
    seeds: int
    steps: int | None
    deadline: float | None
    runs: Path
    results: Path
    """The folder of published results."""
    page: Path
    update: bool
    """Whether that changes."""
    data_dir: str | None
    overrides: dict[str, Any]
    paper: dict[str, Any]

    @property
    def configs(self) -> Path:
        """The folder of configs as commands have it: from the current folder."""
        return Path(os.path.relpath(ROOT / "configs" / "irnn"))

    @property
    def output(self) -> Path:
        """Where results are written."""
        return self.results if self.update else self.runs / "results"

    def steps_of(self, case: Case) -> int | None:
        """Where each run of a case stops; None: at its end."""
        return self.steps or (case.experiment.paper_steps if case.variant == "paper" else None)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string("experiment", None, "adding, pixels, permuted, lm1b or timit", flag_values=values)
    flags.DEFINE_integer("length", None, "of the adding problem; 150 if not given", flag_values=values)
    flags.DEFINE_string("variant", "modern", "modern, our recipe, or paper, its protocol", flag_values=values)
    flags.DEFINE_list("networks", [], "some of the experiment's; all if empty", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "how many seeds, from 0", lower_bound=1, flag_values=values)
    where = "where each run stops, to go on with more; else paper: 200000 (adding), 300000 (pixels); modern: the end"
    flags.DEFINE_integer("steps", None, where, lower_bound=1, flag_values=values)
    flags.DEFINE_float("budget_minutes", None, "stops after so long", lower_bound=0.0, flag_values=values)
    flags.DEFINE_bool("all", False, "all experiments, and the page", flag_values=values)
    cli.path_flag(values, "runs", "runs/irnn", "folder of the runs")
    cli.path_flag(values, "results", "docs/results", "folder of the published results")
    cli.path_flag(values, "page", "docs/REPRODUCTION.md", "what --all --update writes")
    flags.DEFINE_bool("update", False, "take the runs into the published results", flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    reference, overrides, _ = cli.parse(values, argv, __doc__, _no_config)
    if reference is not None:
        _no_config(reference)
    budget = values.budget_minutes
    command = Command(
        networks=values.networks,
        seeds=values.seeds,
        steps=values.steps,
        deadline=None if budget is None else time.monotonic() + 60 * budget,
        runs=Path(values.runs),
        results=Path(values.results),
        page=Path(values.page),
        update=values.update,
        data_dir=values.data_dir,
        overrides={path: literal(text) for path, text in overrides.items()},
        paper=read_json(ROOT / "docs" / "results" / "irnn_paper.json", "restore it: it holds the paper's numbers"),
    )
    try:
        if values.all:
            if values.experiment or command.networks or command.steps or overrides:
                raise ConfigError("--all is all experiments as they are; leave out --experiment, --networks, --steps …")
            return reproduce_all(command)
        if values.experiment is None:
            raise ConfigError("--experiment is missing, as in --experiment=adding; or --all (--help says more)")
        return reproduce(make_case(values.experiment, values.variant, values.length), command)
    except KeyboardInterrupt:
        print("interrupted after saving; the same command goes on")
        return cli.INTERRUPTED


def _no_config(reference: str) -> NoReturn:
    raise ConfigError("--config: the configs are those of configs/irnn; --config.path.to.field=VALUE changes them")


# --- one case --------------------------------------------------------------------------------------------------------


def reproduce(case: Case, command: Command) -> int:
    """Trains a case's networks, one after the other, and shows what they have come to."""
    for network in command.networks:
        if network not in case.networks:
            raise ConfigError(unknown("value of --networks", network, case.networks))
    read_checked(case, command)
    if problem := case.experiment.held_back(command.data_dir):
        raise ConfigError(f"{case.experiment.name} is held back: {problem}")
    left, changed = train_all(case, command.networks or case.networks, command)
    show(case, command, changed)
    if left:
        print(f"the budget is spent; the same command goes on with {', '.join(called(n) for n in left)}")
    return cli.FINISHED


def train_all(case: Case, networks: Sequence[str], command: Command) -> tuple[list[str], list[Path]]:
    """Trains networks for as long as there is time, and keeps what they come to; returns those that are not done, and
    the files that have changed."""
    stop = Stop(command.deadline, command.steps_of(case))
    left, changed = [], []
    for network in networks:
        if stop.late:
            left.append(network)
            continue
        folder = command.runs / case.key / network
        sweep = sweep_of(case, network, command.seeds, command.configs, command.overrides)
        print(f"{case.title}, {case.variant}: {called(network)}", flush=True)
        if not train(sweep, folder, command.data_dir, stop):
            left.append(network)
        changed += keep(case, network, folder, command)
    return left, list(dict.fromkeys(changed))


def keep(case: Case, network: str, folder: Path, command: Command) -> list[Path]:
    """Adds what a network's runs have come to to the results, and exports its best parameters if it does well; returns
    the files and folders that have changed."""
    from scripts.irnn.results_page import draw
    from scripts.irnn.winners import export, winner_of, wins

    measured = collect(case, folder)
    if command.update:
        measured["runs"] = [run for run in measured["runs"] if is_over(run, command.steps_of(case))]
    if not measured["runs"]:
        return []
    before = (read_checked(case, command) or {"networks": {}})["networks"]
    after = merged(case, before.get(network), measured)
    if command.update:
        say_what_stays(case, network, after, measured)
    (row,) = rows(case, {"networks": {network: after}}, command.paper)
    winner, target = None, command.output / "checkpoints" / f"{case.subject}-{network}"
    if wins(case, row) and row.steps[0] == row.whole:
        winner = winner_of(case, after, measured, folder, target)
    if winner is None and after == before.get(network) and results_path(command.output, case).exists():
        return []
    with together() as publication:
        results = write_results(
            publication.staged(results_path(command.output, case)), case, command.overrides, {**before, network: after}
        )
        for figure in draw(case, results, command.paper, publication.folder(command.output)):
            for file in figure_files(figure):
                publication.staged(command.output / file.name)
        if winner is not None:
            export(winner, publication.staged(target), command.data_dir)
    return publication.changed


def say_what_stays(case: Case, network: str, after: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """A line for every run that is not published."""
    published = {run["seed"]: run for run in after["runs"]}
    for run in measured["runs"]:
        other = published[run["seed"]]
        if other is not run and other != run:
            texts = [f"{each['validation']} after {each['steps']} steps" for each in (other, run)]
            print(
                f"{called(network)}, seed {run['seed']}: validation {texts[0]} stays published; this run has {texts[1]}"
            )


def read_checked(case: Case, command: Command) -> dict[str, Any] | None:
    """A case's results, the published ones and, unless these are to be changed, those of our own runs; None where there
    are none.

    Raises:
        ConfigError: not all are of the configs there are now.
    """
    checked = None
    for folder in dict.fromkeys((command.results, command.output)):
        path = results_path(folder, case)
        results = read_results(path)
        if results is not None:
            networks = [name for name in results["networks"] if name in case.networks]
            configs = {name: config_of(case, name, command.configs, command.overrides) for name in networks}
            check_protocol(path, results, configs)
            before = checked["networks"] if checked else {}
            merged_networks = {
                name: merged(case, before.get(name), network) for name, network in results["networks"].items()
            }
            checked = {**results, "networks": before | merged_networks}
    return checked


def show(case: Case, command: Command, changed: Sequence[Path]) -> None:
    """Prints the table, and which files have changed."""
    from scripts.irnn.results_page import table

    results = read_checked(case, command)
    if results is None:
        print("nothing has been trained yet")
        return
    print(f"{case.title}, {case.variant}: {case.experiment.unit}\n")
    print(table(rows(case, results, command.paper)))
    say_changes(changed, command.output)
    if results_path(command.output, case).exists() and not command.update:
        print(f"{command.results} is as it was; --update takes these runs in")


def say_changes(changed: Sequence[Path], folder: Path) -> None:
    """The files that were written with something new in them."""
    print(*dict.fromkeys(changed)) if changed else print(f"nothing new; {folder} is as it was")


# --- all of them -----------------------------------------------------------------------------------------------------


def reproduce_all(command: Command) -> int:
    """Trains what no file has, goes on where an experiment is held back, and writes the page."""
    from scripts.irnn.results_page import write_page

    results_by_case: dict[str, Any] = {}
    problems: dict[str, str] = {}
    held_back: dict[str, str | None] = {}
    changed: list[Path] = []
    for case in all_cases():
        try:
            results = read_checked(case, command)
        except ConfigError as error:
            problems[case.key] = problem_line(error, command)
            print(f"{case.key} is left out: {error}", flush=True)
            continue
        missing = missing_of(case, results, command)
        name = case.experiment.name
        if missing and name not in held_back:
            held_back[name] = case.experiment.held_back(command.data_dir)
            if held_back[name]:
                print(f"{name} is held back: {held_back[name]}", flush=True)
        if missing and held_back[name]:
            problems[case.key] = problem_line(f"held back: {held_back[name]}", command)
        elif missing and not Stop(command.deadline).late:
            try:
                changed += train_all(case, missing, command)[1]
            except ConfigError as error:
                problems[case.key] = problem_line(error, command)
                print(f"{case.key} is left out: {error}", flush=True)
            results = read_checked(case, command)
        if results is not None:
            results_by_case[case.key] = results
    page = command.page if command.update else command.output / command.page.name
    changed += write_page(page, command.results, command.output, results_by_case, problems, command.paper)
    say_changes(changed, page)
    return cli.FINISHED


def missing_of(case: Case, results: Mapping[str, Any] | None, command: Command) -> list[str]:
    """The networks of a case of which the results lack a seed or steps."""
    networks = {} if results is None else results["networks"]
    steps = command.steps_of(case)
    return [n for n in case.networks if n not in networks or not is_complete(networks[n], command.seeds, steps)]


def problem_line(problem: ConfigError | str, command: Command) -> str:
    """A line for the page, without the folders of this machine."""
    folders = {str(data_root(command.data_dir)): "DATA", f"{Path.cwd()}{os.sep}": "", f"{Path.home()}{os.sep}": "~/"}
    text = str(problem)
    for folder, name in folders.items():
        text = text.replace(folder, name)
    return text


if __name__ == "__main__":
    cli.run(main)
