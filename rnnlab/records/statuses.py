"""Exit statuses: the one table of what a command ends with. docs/reference/exit_statuses.md shows it."""

FINISHED, CRASHED, MISTAKE, DIVERGED, LOST, INCOMPLETE, WRONG, INTERRUPTED, UNREAD = 0, 1, 2, 3, 4, 5, 6, 130, 141
MEANINGS = {
    FINISHED: "finished; early stopping and the diverged runs of a sweep included",
    CRASHED: "a fault of rnnlab itself, or an exception in a module of your own, with a traceback",
    MISTAKE: "a mistake in the command, config or data, in one line",
    DIVERGED: "diverged: the loss or its gradient is not finite",
    LOST: "another process of the run or sweep was lost",
    INCOMPLETE: "other commands still have groups of the sweep",
    WRONG: "gradients are wrong (`rnnlab.selfcheck`, `rnnlab.accelerator_check`) or differ between compilers "
    "(`scripts/compare_compilers.py`)",
    INTERRUPTED: "interrupted, after saving: SIGINT, SIGTERM, SIGHUP",
    UNREAD: "a pipe was closed before all was printed, as a shell says it of SIGPIPE",
}
