"""Shows a run or a sweep in a browser while it trains, and after.

    python -m rnnlab.watch --workdir=runs/adding              # prints an address; open it in a browser
    python -m rnnlab.watch --workdir=runs/adding --open       # opens it
    python -m rnnlab.watch --workdir=runs/gain_around_one     # a sweep: all of its runs
    ssh -L 8000:localhost:8000 cluster python -m rnnlab.watch --workdir=/shared/runs/adding --port=8000

The page shows curves, gradients, learning rate and throughput of a run, and what its diagnostics measure; of a sweep a
table of its runs with their curves. It updates by itself, needs no network, and waits for a folder that is not there
yet. Nothing is written to the folder: it may lie on a disk that machines share, and several may watch it.
It listens on this machine alone; --host=0.0.0.0 lets everybody read who reaches the machine. Ctrl-C ends it.
Exit status: 0 after Ctrl-C, 2 for a mistake in the command, a port that is in use, or a folder of something else.
"""

import contextlib
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a run of rnnlab.train or of a sweep of rnnlab.sweep")
    flags.DEFINE_string("host", "127.0.0.1", "the address to listen on", flag_values=values)
    flags.DEFINE_integer("port", 0, "the port; 0: a free one", 0, 65535, flag_values=values)
    flags.DEFINE_bool("open", False, "opens the page in a browser", flag_values=values)
    cli.parse(values, argv, __doc__)
    if not values.workdir:
        raise ConfigError("--workdir is missing: the folder of a run or a sweep, as in --workdir=runs/adding")
    # Imported here: it takes seconds, and --help needs none of it.
    import jax

    from rnnlab.watch.page import page
    from rnnlab.watch.server import PageServer, is_loopback
    from rnnlab.watch.watcher import Watcher

    jax.config.update("jax_platforms", "cpu")  # The accelerator, and its memory, are the run's.
    watcher = Watcher(Path(values.workdir))
    with PageServer(values.host, values.port, page(), watcher.answer) as server:
        if not is_loopback(values.host):
            text = f"warning: {values.host}: everybody who reaches this machine can read the page; nobody is asked who"
            print(f"{text} they are", file=sys.stderr)
        if (missing := watcher.waiting()) is not None:
            print(f"waiting: {missing}")
        with contextlib.suppress(KeyboardInterrupt):
            print(f"watching {values.workdir} at {server.url}", flush=True)
            if values.open:
                webbrowser.open_new_tab(server.url)
            server.serve_forever()
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
