"""What the command-line entries share: flags, the config's own flags, --help, errors as one line, exit statuses."""

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
from rnnlab.config.overrides import Config, field_paths, fields_named
from rnnlab.config.reading import load_file
from rnnlab.files import Unwritable, output
from rnnlab.files.path_flag import path_flag
from rnnlab.parallel import devices, environment, processes
from rnnlab.parallel.memory import allocation_failures
from rnnlab.records.provenance import source_hashes, versions
from rnnlab.records.run_config import apply_overrides, field_hints, render, resolve_config
from rnnlab.records.statuses import CRASHED, DIVERGED, FINISHED, INCOMPLETE, INTERRUPTED, LOST, MISTAKE, UNREAD

EXIT_STATUS = {
    "finished": FINISHED,
    "stopped_early": FINISHED,
    "pruned": FINISHED,
    "diverged": DIVERGED,
    "incomplete": INCOMPLETE,
    "interrupted": INTERRUPTED,
}
"""What a run or a sweep of this status ends with."""


def data_flags(values: flags.FlagValues) -> None:
    """--data_dir and --cache_dir, the same wherever data is read."""
    path_flag(values, "data_dir", None, "data folder; else RNNLAB_DATA, else the cache")
    text = "where what is made of data is kept; else beside the data if that may be written to, else the user's cache"
    path_flag(values, "cache_dir", None, text)


def process_flags(values: flags.FlagValues) -> None:
    """--coordinator, --processes and --process, wherever one run may have several processes."""
    text = "host:port where process 0 listens; SLURM, Open MPI, TPU pods and Kubernetes are recognised without it"
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    flags.DEFINE_integer("processes", None, "how many the run has", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "which one this is, from 0", lower_bound=0, flag_values=values)
    alone, launched = processes.JOIN_SECONDS, processes.LAUNCH_SECONDS
    text = f"how long it waits for the others (default {alone}, under a launcher {launched})"
    flags.DEFINE_float("join_seconds", None, text, lower_bound=0, flag_values=values)


def start_processes(values: flags.FlagValues, config: Mapping[str, Any]) -> None:
    """Joins the other processes of the run, if there are any; values: with `process_flags`, parsed."""
    account = {"config": config, "code": source_hashes(), "versions": versions()}
    processes.start(values.coordinator, values.processes, values.process, account, values.join_seconds)
    if processes.processes() > 1 and isinstance(sys.stdout, output.WatchedOutput):
        sys.stdout.keep_from_libraries()  # gloo writes there, in the middle of our lines, whom it has met.


def default_workdir(reference: str) -> Path:
    """runs/adding for "configs/adding.py", runs/adding-lstm for "configs/adding.py:lstm"."""
    file, _, preset = reference.partition(":")
    stem = Path(file).stem
    return Path("runs", f"{stem}-{preset}" if preset else stem)


def output_flag(values: flags.FlagValues) -> None:
    """--output, wherever something is found out about a run."""
    told = "folder to write to; else the workdir, or, of a published network, runs/NAME-published"
    path_flag(values, "output", None, told)


def output_folder(workdir: Path, output: str | None) -> Path:
    """Where what is found out about a run is written. Published networks stay as they are.

    Args:
        output: the value of `output_flag`.
    """
    from rnnlab.training.checkpoints import is_exported  # Here: it takes seconds to import.

    if output is not None:
        return Path(output)
    return Path("runs", f"{workdir.resolve().name}-published") if is_exported(workdir) else workdir


class Words(NamedTuple):
    """What a command line says beside the entry's own flags."""

    reference: str | None
    """The value of --config."""
    overrides: dict[str, str]
    """{"path.to.field": text} of every --config.path.to.field."""
    parameters: dict[str, str]
    """{"name": text} of the flags that `parse` takes by their prefix."""


class RunWords(NamedTuple):
    """What a command line says of a run."""

    reference: str | None
    """The value of --config."""
    config: dict[str, Any] | None
    """What that file says, changed by every --config.path.to.field, resolved."""


Base = Callable[[str], Config]
"""From the value of --config to the config whose fields are flags."""


def parse_run(values: flags.FlagValues, argv: Sequence[str], doc: str | None) -> RunWords:
    """Parses the flags of an entry that takes --config=FILE of a run, and resolves that config; see `parse`."""
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
    """Parses the flags of an entry. --help, which all have, prints what the entry does and takes.

    Args:
        values: the entry's own flags; they have their values afterwards.
        argv: without the program's name.
        doc: the entry's docstring, for --help.
        base: what --config=FILE is read by; None: the entry has no --config.
        parameters: the prefix of flags that the entry checks itself, such as slurm for --slurm.time=60.

    Raises:
        ConfigError: an unknown flag, a stray word, a bad value, a mistake in the config.
        SystemExit: with status 0, after the help.
    """
    flags.DEFINE_bool("help", False, "this text", short_name="h", flag_values=values)
    if base is not None:
        text = "FILE.py or FILE.py:ARGUMENT, for its get_config(ARGUMENT); --config.path.to.field=VALUE sets a field"
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
    except (flags.Error, ValueError) as error:  # ValueError: of --noflag=x, and of a flagfile that is not a text.
        raise ConfigError(" ".join(str(error).split())) from None
    if stray:
        raise ConfigError(f"unexpected argument {stray[0]!r}; flags are written --name=value")
    entered: dict[str, Any] = {n: v for n, v in values.flag_values_dict().items() if "." not in n and n != "config"}
    if entered.get("cache_dir"):
        os.environ["RNNLAB_CACHE"] = os.path.abspath(
            os.path.expanduser(entered["cache_dir"])
        )  # Of other processes too.
    if entered["help"]:
        _show_help(doc or "", values)
        if base is not None and reference is not None:
            config = resolve_config(apply_overrides(base(reference), overrides))
            print(f"\nFields of {reference}:\n{render(config)}")
        raise SystemExit(FINISHED)
    return Words(reference, overrides, others)


def present_flags(values: flags.FlagValues) -> list[str]:
    """The names of the entry's own flags that stand on the command line."""
    return [name for name in _names(values) if values[name].present and name != "config"]


def _unknown_flag(name: str, values: flags.FlagValues, base: Base | None, reference: str | None) -> str:
    """The line that says what is nearest to a flag that an entry does not have."""
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
    """A block that writes what a command leaves beside the numbers that it prints: where it cannot, one line on stderr
    says so, and the command goes on."""
    try:
        yield
    except Unwritable as error:
        output.complain(f"warning: {error}")


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Calls main with the arguments and exits with its status; a ConfigError is one line on stderr and status 2, and so
    is whatever comes of devices that JAX cannot make.

    One of several processes that fails ends at once: what runs at exit would wait for the others, which wait for it.
    """
    output.open_closed_streams()
    environment.settle()
    with output.watched() as printed:
        status = _status(main, printed)
    if status in (MISTAKE, CRASHED, LOST) and processes.processes() > 1:
        processes.leave(status)
    sys.exit(status)


def _status(main: Callable[[Sequence[str]], int], printed: output.WatchedOutput) -> int:
    """Of main, after it has said what went wrong."""
    try:
        with devices.failures(), allocation_failures():
            status = main(sys.argv[1:])
    except SystemExit as end:  # After --help.
        status = end.code if isinstance(end.code, int) else FINISHED
    except ConfigError as error:
        output.complain(f"error: {' '.join(str(error).split())}")
        status = MISTAKE
        sys.unraisablehook = lambda _: None  # A full disk fails once more in every writer that closes at exit.
    except KeyboardInterrupt:
        output.complain("interrupted")
        status = INTERRUPTED
    except processes.LostProcess as error:
        output.complain(f"error: {error}")
        status = LOST
    except Exception as error:
        if error is printed.failure:
            status = FINISHED  # Until the output is looked at, below.
        elif isinstance(error, OSError) and error.filename is not None:
            # Of a folder or file that is another user's, or gone: whichever of the readers and writers met it first.
            output.complain(f"error: {os.fsdecode(error.filename)}: {error.strerror or error}")
            status = MISTAKE
        elif processes.processes() == 1:
            raise
        else:
            traceback.print_exc()
            status = CRASHED
    with contextlib.suppress(OSError):
        printed.flush()
    if printed.failure is None or status != FINISHED:
        return status
    if isinstance(printed.failure, BrokenPipeError):
        return UNREAD
    output.complain(f"error: cannot write to standard output: {printed.failure.strerror or printed.failure}")
    return MISTAKE
