"""Draws how much gradient reaches each time step in several finished runs, side by side.

    python scripts/compare_gradient_flow.py --runs="IRNN=runs/adding,tanh=runs/adding-tanh" --output=flow.png

Each run is LABEL=WORKDIR, with a gradient_flow.json as rnnlab.train leaves it. Prints, per run, the factor by which the
gradient changes per step back in time, and its half-life in steps. --training draws the gradient over training step and
time step instead, of runs with --config.diagnostics=gradient_flow.
"""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from absl import flags

from rnnlab import cli, plots
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import decay_per_step
from rnnlab.plots.runs import last_forward
from rnnlab.records.workdir import Workdir, read_gradient_flow


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_list("runs", [], "LABEL=WORKDIR, separated by commas", flag_values=values)
    cli.path_flag(values, "output", "gradient_flow.png", "the figure")
    flags.DEFINE_bool("training", False, "over the whole training", flag_values=values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    if not values.runs:
        raise ConfigError('--runs is missing, as in --runs="IRNN=runs/adding" (--help says more)')
    workdirs = {}
    for item in values.runs:
        label, equals, folder = item.partition("=")
        files = Workdir(Path(folder))
        file = files.diagnostics if values.training else files.gradient_flow
        if not equals or not file.is_file():
            raise ConfigError(f"--runs: {item!r} is not LABEL=WORKDIR with a finished run in WORKDIR (no {file})")
        workdirs[label] = Path(folder)
    if values.training:
        print(plots.compare_training(workdirs, Path(values.output)))
        return cli.FINISHED
    path = plots.compare_gradient_flow(workdirs, Path(values.output))
    print("run, network: factor per step back in time, half-life in steps")
    for label, folder in workdirs.items():
        for when, layers in read_gradient_flow(folder).items():
            factor, half_life = decay_per_step(jnp.asarray(layers[last_forward(layers)]))
            print(f"{label}, {when}: {factor:.4g}, {half_life:.3g}")
    print(path)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
