"""Writes a trained network to a folder to be handed on.

    python -m rnnlab.export --workdir=runs/adding --output=adding-irnn
    python -m rnnlab.export --workdir=runs/adding --checkpoint=last --output=adding-irnn-last

The folder has model.safetensors (each array under its path in the network), config.json, summary.json and a model card,
README.md, made of the run's numbers. rnnlab.load and every command that takes --workdir open it; it cannot be resumed.
Exit status: 0, or 2 for a mistake in the command or the workdir.
"""

from collections.abc import Sequence

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a run of rnnlab.train")
    cli.path_flag(values, "output", None, "folder to write to, made if missing")
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    cli.data_flags(values)
    cli.parse(values, argv, __doc__)
    for name, example in {"workdir": "runs/adding", "output": "adding-irnn"}.items():
        if values[name].value is None:
            raise ConfigError(f"--{name} is missing, as in --{name}={example} (--help says more)")
    from rnnlab.library import load

    run = load(values.workdir, values.checkpoint, values.data_dir)
    print(f"step {run.step} of {run.workdir} is in {run.export(values.output)}")
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
