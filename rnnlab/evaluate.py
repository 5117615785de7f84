"""Evaluates a trained network.

    python -m rnnlab.evaluate --workdir=runs/adding
    python -m rnnlab.evaluate --workdir=runs/adding --split=validation --checkpoint=last

Prints the metrics and writes them to WORKDIR/evaluation.json.
Exit status: 0, or 2 for a mistake in the command or the workdir.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rnnlab import entry
from rnnlab.build import ConfigError
from rnnlab.metrics import plain
from rnnlab.workdir import check_words, read_config, write_file


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of a run of rnnlab.train", flag_values=values)
    flags.DEFINE_enum("split", "test", ["validation", "test"], "what to evaluate on", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    entry.data_dir_flag(values)
    given = entry.parse(values, argv, __doc__).flags
    if given["workdir"] is None:
        raise ConfigError("--workdir is missing, as in --workdir=runs/adding (--help says more)")
    workdir, which, split = Path(given["workdir"]), given["checkpoint"], given["split"]
    config = read_config(workdir)

    from rnnlab.checkpoints import restore_chosen
    from rnnlab.run import Run

    run = Run(config, given["data_dir"])
    check_words(workdir, run.task.words)
    state = run.programs.start(config["seed"])
    restored = restore_chosen(workdir, which, state)
    if run.config["curriculum"] is not None:
        run.enter(restored.host["curriculum"]["stage"])
    result = {"step": restored.step, "split": split, **run.evaluate(restored.state, split)}
    write_file(workdir / "evaluation.json", json.dumps(plain(result), indent=2) + "\n")
    print("  ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items()))
    return entry.FINISHED


if __name__ == "__main__":
    entry.run(main)
