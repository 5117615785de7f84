"""The lines with which a run begins or goes on: what it is, what it lacks, and what may surprise."""

from collections.abc import Iterator

from rnnlab.optim.schedules import check_length, check_schedule
from rnnlab.parallel import devices
from rnnlab.training.host_state import HostState
from rnnlab.training.run import Mentioned, Run
from rnnlab.training.state import TrainState


def opening_lines(run: Run, host: HostState, state: TrainState, planned: int | None) -> Iterator[str]:
    """For people, a line each. planned: how long a run that is resumed was to be; None for a new one."""
    step, steps, structure, mentioned = int(state.step), run.intervals.steps, run.programs.structure, run.mentioned
    yield (
        f"{mentioned.task}, {mentioned.cell}, "
        f"{structure.word_leaves.count(state.params):,} parameters, {structure.backend} backend, "
        f"{devices.describe(run.mesh)}, steps {step} to {steps}"
    )
    here = run.mesh.local_devices
    idle = devices.idle_cores(run.batch_size, len(here)) if mentioned.devices is None else None
    if idle is not None and here[0].platform == "cpu":
        yield idle
    if run.embeddings is not None:
        coverage = run.embeddings.coverage
        yield (
            f"{mentioned.embedding_file} has {coverage.present:,} of the task's "
            f"{coverage.present + coverage.missing:,} words ({coverage.share:.1%}); the others are drawn"
        )
    for warning in filter(None, _warnings(mentioned, host, step, steps, planned)):
        yield f"warning: {warning}"
    if run.label:
        yield run.described_stage()
    if never := host.curriculum.never(steps):
        listed = ", ".join(map(str, never))
        yield f"curriculum.steps: no stage begins at step {listed}: the run ends at step {steps}"


def _warnings(
    mentioned: Mentioned, host: HostState, step: int, steps: int, planned: int | None
) -> Iterator[str | None]:
    schedule, warmup = mentioned.schedule, mentioned.warmup_steps
    yield check_schedule(schedule, warmup, steps)
    if planned not in (None, steps):
        yield check_length(schedule, warmup, (planned, steps), step)
        yield host.check_length(planned, step)
