"""Trains a network and evaluates it.

    python -m rnnlab.train --config=configs/adding.py --workdir=runs/adding
    python -m rnnlab.train --config=configs/adding.py:lstm --workdir=runs/lstm --config.task.length=400

--config names a file and, after a colon, one of its presets. Every field is a flag, as in
--config.optimizer.learning_rate=3e-4; with --config, --help lists them all with their values.
The same command on the same workdir resumes.
Exit status: 0 finished, 2 a mistake in the command, config or data, 3 diverged, 130 interrupted after saving.
"""

from collections.abc import Sequence

from absl import flags

from rnnlab import entry
from rnnlab.build import ConfigError
from rnnlab.config import apply_overrides, load_file, render, resolve_config


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run; made if missing, resumed if not", flag_values=values)
    entry.data_dir_flag(values)
    entry.help_flag(values)
    given, reference, overrides = entry.parse(values, argv, accept_config=True)
    config = None
    if reference is not None:
        config = resolve_config(apply_overrides(load_file(reference), overrides))
    if given["help"]:
        assert __doc__
        entry.show_help(__doc__, values, f"\nFields of {reference}:\n{render(config)}" if config else "")
        return entry.FINISHED
    if config is None:
        raise ConfigError("--config is missing, as in --config=configs/adding.py (--help says more)")
    if given["workdir"] is None:
        raise ConfigError("--workdir is missing, as in --workdir=runs/adding (--help says more)")
    from rnnlab.loop import train_and_evaluate  # After the checks: it takes seconds to import.

    summary = train_and_evaluate(config, given["workdir"], given["data_dir"])
    return entry.EXIT_STATUS[summary["status"]]


if __name__ == "__main__":
    entry.run(main)
