"""The part that all commands share: flags, fields of a config as flags, --help, errors as one line, exit statuses."""

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.field_flags import define_fields, field_texts
from rnnlab.config.help import render
from rnnlab.config.overrides import Config, field_paths, fields_named
from rnnlab.config.reading import load_file
from rnnlab.config.references import READY, read_reference, ready_configs
from rnnlab.files import Unwritable, output
from rnnlab.files.cache import cache_root
from rnnlab.files.figure_files import FORMATS, VARIABLE, asked_formats, checked_formats
from rnnlab.files.path_flag import path_flag
from rnnlab.parallel import devices, environment, kept_programs, messages, processes
from rnnlab.parallel.memory import allocation_failures
from rnnlab.records.provenance import source_hashes, versions
from rnnlab.records.run_config import RunOptions, apply_overrides, field_hints, resolve_config
from rnnlab.records.statuses import CRASHED, DIVERGED, FINISHED, INCOMPLETE, INTERRUPTED, LOST, MISTAKE, UNREAD

EXIT_STATUS = {
    "finished": FINISHED,
    "stopped_early": FINISHED,
    "pruned": FINISHED,
    "diverged": DIVERGED,
    "incomplete": INCOMPLETE,
    "interrupted": INTERRUPTED,
}
"""Status of a run or a sweep -> exit status of its command."""


def data_flags(values: flags.FlagValues) -> None:
    """Defines --data_dir and --cache_dir, which every command that reads data has."""
    path_flag(values, "data_dir", None, "data folder; else RNNLAB_DATA, else the cache")
    text = "where what is made of data is kept, else beside the data if that may be written to, else the user's cache; "
    text += "and compiled programs, else the user's cache"
    path_flag(values, "cache_dir", None, text)


def figure_flag(values: flags.FlagValues) -> None:
    """Defines --format, which every command that draws has."""
    text = f"formats of figures beside their PNG, of {','.join(FORMATS)}; else {VARIABLE}"
    flags.DEFINE_list("format", None, text, flag_values=values)


def process_flags(values: flags.FlagValues) -> None:
    """Defines --coordinator, --processes, --process and --join_seconds, for a run or a sweep of several processes."""
    text = "host:port where process 0 listens; SLURM, Open MPI, TPU pods and Kubernetes are recognised without it"
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    text = "how many there are; 1: this one is alone, whatever a launcher has started beside it"
    flags.DEFINE_integer("processes", None, text, lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "which one this is, from 0", lower_bound=0, flag_values=values)
    alone, launched = processes.JOIN_SECONDS, processes.LAUNCH_SECONDS
    text = f"how long it waits for the others (default {alone}, under a launcher {launched})"
    flags.DEFINE_float("join_seconds", None, text, lower_bound=0, flag_values=values)


def start_processes(values: flags.FlagValues, **what: Any) -> None:
    """Joins the other processes of the run, if there are any.

    Args:
        values: parsed, with `process_flags` among them.
        what: has to be the same in all of them, under the name that a line for people has for it.
    """
    account = {**what, "code": source_hashes(), "versions": versions()}
    processes.start(values.coordinator, values.processes, values.process, account, values.join_seconds)
    if processes.processes() == 1:
        return
    if isinstance(sys.stdout, output.WatchedOutput):
        sys.stdout.keep_from_libraries()  # gloo writes there, in the middle of our lines.
    messages.watch(_end_after)


def _end_after(reason: str) -> None:
    """Ends this process, which may wait for one that has ended."""
    output.complain(f"error: {reason}; the same command on all of them resumes from the last checkpoint")
    os._exit(LOST)


def default_workdir(reference: str) -> Path:
    """runs/adding for "configs/adding.py" and "rnnlab:adding", runs/adding-lstm for "configs/adding.py:lstm"."""
    _, file, preset = read_reference(reference)
    return Path("runs", f"{file.stem}-{preset}" if preset else file.stem)


def output_flag(values: flags.FlagValues) -> None:
    """--output, wherever something is found out about a run."""
    description = "folder to write to; else the workdir, or, of a published network, runs/NAME-published"
    path_flag(values, "output", None, description)


def output_folder(workdir: Path, output: str | None) -> Path:
    """Where what is found out about a run is written. Published networks stay as they are.

    Args:
        output: the value of `output_flag`.
    """
    from rnnlab.training.chosen import is_exported  # Here: it takes seconds to import.

    if output is not None:
        return Path(output)
    return Path("runs", f"{workdir.resolve().name}-published") if is_exported(workdir) else workdir


class Words(NamedTuple):
    """The part of a command line that is about the config."""

    reference: str | None
    """The value of --config."""
    overrides: dict[str, str]
    """{"path.to.field": text} of every --config.path.to.field."""
    parameters: dict[str, str]
    """{"name": text} of the flags that `parse` takes by their prefix."""


class RunWords(NamedTuple):
    """The part of a command line that is about the config of a run."""

    reference: str | None
    """The value of --config."""
    config: dict[str, Any] | None
    """The config of that file, changed by every --config.path.to.field, resolved."""


Base = Callable[[str], Config]
"""From the value of --config to the config whose fields are flags."""


def parse_run(values: flags.FlagValues, argv: Sequence[str], doc: str | None) -> RunWords:
    """Parses the flags of a command that takes --config=FILE of a run, and resolves that config; see `parse`."""
    base = functools.cache(load_file)  # A file runs once.
    words = parse(values, argv, doc, base)
    if words.reference is not None:
        config = resolve_config(apply_overrides(base(words.reference), words.overrides))
        return RunWords(words.reference, config)
    for path in words.overrides:
        raise ConfigError(f"--config.{path} changes a config; --config is missing, as in --config=configs/adding.py")
    return RunWords(None, None)


def parse(
    values: flags.FlagValues,
    argv: Sequence[str],
    doc: str | None,
    base: Base | None = None,
    parameters: str | None = None,
) -> Words:
    """Parses the flags of a command. --help, which every command has, prints its docstring and its flags.

    Args:
        values: the command's own flags; they have their values afterwards.
        argv: without the program's name.
        doc: the command's docstring, for --help.
        base: reads --config=FILE; None: the command has no --config.
        parameters: the prefix of flags that the command checks itself, such as slurm for --slurm.time=60.

    Raises:
        ConfigError: an unknown flag, a stray word, a bad value, a mistake in the config.
        SystemExit: with status 0, after the help.
    """
    flags.DEFINE_bool("help", False, "this text", short_name="h", flag_values=values)
    if base is not None:
        text = "FILE.py or FILE.py:ARGUMENT, for its get_config(ARGUMENT); --config.path.to.field=VALUE sets a field; "
        text += f"in place of FILE.py, one of rnnlab's: {', '.join(READY + name for name in ready_configs())}"
        flags.DEFINE_string("config", None, text, flag_values=values)

    def hints(reference: str | None, texts: Mapping[str, str]) -> Callable[[str], Any]:
        return (lambda path: None) if base is None or reference is None else field_hints(base(reference), texts)

    reference = None
    try:
        words = values.read_flags_from_files(argv)
        if base is not None:
            reference = define_fields(values, words, "config", hints)
        if parameters is not None:
            define_fields(values, words, parameters, _any_text)
        stray = values(["rnnlab", *words])[1:]
        overrides = {} if base is None else field_texts(values, "config", hints)
        others = {} if parameters is None else field_texts(values, parameters, _any_text)
    except flags.UnrecognizedFlagError as error:
        raise ConfigError(_unknown_flag(error.flagname, values, base, reference)) from None
    except ConfigError:
        raise
    except (flags.Error, ValueError) as error:  # ValueError: --noflag=x, or a flagfile that is not a text.
        raise ConfigError(" ".join(str(error).removeprefix("ERROR:: ").split())) from None
    if stray:
        raise ConfigError(f"unexpected argument {stray[0]!r}; flags are written --name=value")
    for name in _names(values):
        # To absl NaN is within every bound, and a budget of it never ends. Without one a command has its own check.
        bounds: Any = values[name].parser
        if values[name].value != values[name].value and getattr(bounds, "lower_bound", None) is not None:
            raise ConfigError(f"--{name}: {values[name].value} is not {bounds.syntactic_help}")
    if "cache_dir" in values and values.cache_dir:
        os.environ["RNNLAB_CACHE"] = os.path.abspath(values.cache_dir)  # Processes that this one starts read it, too.
    if "format" in values:
        if values.format is not None:  # As with the cache, processes that this one starts read it, too.
            os.environ[VARIABLE] = ",".join(checked_formats("--format", values.format))
        asked_formats()  # Fails before the work, not after it.
    if values.help:
        _show_help(doc or "", values)
        if base is not None and reference is not None:
            config = resolve_config(apply_overrides(base(reference), overrides))
            print(f"\nFields of {reference}:\n{render(config, RunOptions)}")
        raise SystemExit(FINISHED)
    if "cache_dir" in values:
        kept_programs.keep(cache_root() / "programs")
    return Words(reference, overrides, others)


def present_flags(values: flags.FlagValues) -> list[str]:
    """The names of the command's own flags that stand on the command line."""
    return [name for name in _names(values) if values[name].present and name != "config"]


def _unknown_flag(name: str, values: flags.FlagValues, base: Base | None, reference: str | None) -> str:
    """The line that says what is nearest to a flag that a command does not have."""
    paths = []
    with contextlib.suppress(ConfigError):
        if base is not None and reference is not None:
            paths = fields_named(name, field_paths(resolve_config(base(reference))))
    if paths:
        listed = " or ".join(f"--config.{path}" for path in paths)
        return f"unknown flag '--{name}'; did you mean {listed}? Fields of a config are flags"
    if base is None and name.partition(".")[0] in ("config", "noconfig") and "workdir" in values:
        return f"--{name}: this command takes the config of the run in --workdir as it is; rnnlab.train sets fields"
    return unknown("flag", f"--{name}", [f"--{each}" for each in _names(values)])


def _any_text(reference: str | None, texts: Mapping[str, str]) -> Callable[[str], Any]:
    return lambda path: str


def _names(values: flags.FlagValues) -> list[str]:
    """The flags without their one-letter aliases and the fields of a config."""
    return sorted(name for name in values if values[name].name == name and "." not in name)


def _show_help(doc: str, values: flags.FlagValues) -> None:
    print(doc.strip())
    print("\nFlags:")
    for name in _names(values):
        flag = values[name]
        default = "" if flag.default is None else f" (default {flag.default})"
        print(f"  --{name}: {flag.help}{default}")


@contextlib.contextmanager
def beside_numbers() -> Iterator[None]:
    """Encloses the writing of files that a command leaves beside the numbers that it prints. Where a file cannot be
    written, one line on stderr says so, and the command goes on."""
    try:
        yield
    except Unwritable as error:
        output.complain(f"warning: {error}")


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Calls main with the arguments and exits with its status. A ConfigError, and a device that JAX cannot make, is one
    line on stderr and status 2.

    One of several processes that fails ends at once: an exit handler would wait for the others, which wait for it.
    `absl.app.run` cannot take its place: it answers a mistake with the whole help text and status 1.
    """
    output.open_closed_streams()
    environment.settle()
    with output.watched() as printed:
        status, reason = _status(main, printed)
    if status in (MISTAKE, CRASHED, LOST) and processes.processes() > 1:
        messages.announce(reason)
        processes.leave(status)
    sys.exit(status)


def _status(main: Callable[[Sequence[str]], int], printed: output.WatchedOutput) -> tuple[int, str]:
    """Calls main, prints what went wrong, and returns the exit status and, in one line, the reason."""
    reason = ""
    try:
        with devices.failures(), allocation_failures():
            status = main(sys.argv[1:])
    except SystemExit as end:  # After --help.
        status = end.code if isinstance(end.code, int) else FINISHED
    except (ConfigError, processes.LoneFailure) as error:
        output.complain(f"error: {(reason := ' '.join(str(error).split()))}")
        status = MISTAKE
        sys.unraisablehook = lambda _: None  # A full disk fails once more in every writer that closes at exit.
    except KeyboardInterrupt:
        output.complain("interrupted")
        status = INTERRUPTED
    except processes.LostProcess as error:
        output.complain(f"error: {(reason := str(error))}")
        status = LOST
    except Exception as error:
        if error is printed.failure:
            status = FINISHED  # The failure of the output counts below.
        elif isinstance(error, OSError) and error.filename is not None:
            # Any reader or writer may meet a file that is gone or belongs to another user.
            output.complain(f"error: {(reason := f'{os.fsdecode(error.filename)}: {error.strerror or error}')}")
            status = MISTAKE
        elif processes.processes() == 1:
            raise
        else:
            traceback.print_exc()
            status, reason = CRASHED, " ".join(f"{type(error).__name__}: {error}".split())
    with contextlib.suppress(OSError):
        printed.flush()
    if printed.failure is None or status != FINISHED:
        return status, reason
    if isinstance(printed.failure, BrokenPipeError):
        return UNREAD, reason
    reason = f"cannot write to standard output: {printed.failure.strerror or printed.failure}"
    output.complain(f"error: {reason}")
    return MISTAKE, reason
