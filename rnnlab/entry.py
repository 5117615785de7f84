"""What the command-line entries share: flags, the config's own flags, errors as one line, exit statuses."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from rnnlab.build import ConfigError, unknown

FINISHED, MISTAKE, DIVERGED, INTERRUPTED = 0, 2, 3, 130
EXIT_STATUS = {"finished": FINISHED, "stopped_early": FINISHED, "diverged": DIVERGED, "interrupted": INTERRUPTED}


def data_dir_flag(values: flags.FlagValues) -> None:
    """--data_dir, the same wherever data is read."""
    flags.DEFINE_string("data_dir", None, "data folder; else RNNLAB_DATA, else the user's cache", flag_values=values)


def help_flag(values: flags.FlagValues) -> None:
    """--help, the same everywhere."""
    flags.DEFINE_bool("help", False, "this text", short_name="h", flag_values=values)


class Words(NamedTuple):
    """A parsed command line."""

    flags: dict[str, Any]
    config: str | None
    """The value of --config."""
    overrides: dict[str, str]
    """{"path.to.field": text} of every --config.path.to.field."""


def parse(values: flags.FlagValues, argv: Sequence[str], accept_config: bool = False) -> Words:
    """Parses the flags of an entry.

    Args:
        values: the entry's flags.
        argv: without the program's name.
        accept_config: whether --config and --config.path.to.field are known too.

    Raises:
        ConfigError: an unknown flag, a stray word, a bad value.
    """
    config, overrides, rest = None, {}, []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if accept_config and word.startswith("--") and (name == "config" or name.startswith("config.")):
            if not equals:
                if not words or words[0].startswith("--"):
                    raise ConfigError(f"--{name} needs a value: --{name}=…")
                value = words.pop(0)
            if name == "config":
                config = value
            else:
                overrides[name.removeprefix("config.")] = value
        else:
            rest.append(word)
    try:
        stray = values(["rnnlab", *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        known = [f"--{name}" for name in values] + (["--config"] if accept_config else [])
        raise ConfigError(unknown("flag", f"--{error.flagname}", known)) from None
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from None
    if stray:
        raise ConfigError(f"unexpected argument {stray[0]!r}; flags are written --name=value")
    return Words(values.flag_values_dict(), config, overrides)


def show_help(module_doc: str, values: flags.FlagValues, more: str = "") -> None:
    """Prints what an entry does and takes."""
    print(module_doc.strip())
    print("\nFlags:")
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default is None else f" (default {flag.default})"
        print(f"  --{name}: {flag.help}{default}")
    if more:
        print(more)


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Calls main with the arguments and exits with its status; a ConfigError is one line on stderr and status 2."""
    try:
        status = main(sys.argv[1:])
    except ConfigError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = MISTAKE
        sys.unraisablehook = lambda _: None  # A full disk fails once more in every writer that closes at exit.
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.stdout.flush()
    sys.exit(status)
