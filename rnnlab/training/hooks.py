"""The hooks between the updates of a run: `observe`, `record`, `log`, `evaluate`, `checkpoint`, each when it is due.

The order in which they are asked is that of `hooks_of`; who asks is `training/loop.py`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.parallel import processes
from rnnlab.training.host_state import following
from rnnlab.training.session import Session
from rnnlab.training.state import logged

STEP_BY_STEP = "newton/step_by_step"
"""The metric of rows that the backend newton did not solve for."""


class Hook(NamedTuple):
    """Something that happens at some steps."""

    act: Callable[[Session], None]
    due: Callable[[Session], bool]
    every: int | None = None
    """A dispatch ends at each multiple of it."""

    def following(self, step: int) -> int:
        """The step after this one at which a dispatch has to end."""
        return LARGEST_INT if self.every is None else following(step, self.every)


def hooks_of(session: Session, stop: Callable[[int], bool] | None) -> tuple[list[Hook], list[Hook]]:
    """(The hooks asked before the updates of a dispatch, those after them); stop: as of `loop.train_and_evaluate`."""
    every, host, recorder = session.run.intervals, session.host, session.recorder
    before = [Hook(lambda s: recorder.keep(s.step, s.state), lambda s: recorder.on)]
    if (often := every.diagnostics) is not None:
        before.insert(0, Hook(observe, lambda s: s.step % often == 0, often))
    after = [
        Hook(record, lambda s: recorder.on),
        Hook(log, lambda s: s.cut is None and host.logs(s.step), every.log),
        Hook(evaluate, lambda s: s.cut is None and host.evaluates(s.step), every.evaluation),
        Hook(lambda s: listen(s, stop), lambda s: s.cut is None),
        Hook(checkpoint, lambda s: s.saved != s.step and _is_kept(s), every.checkpoint),
    ]
    return before, after


def ask(hooks: Iterable[Hook], session: Session) -> None:
    """Each in turn, where it is due."""
    for hook in hooks:
        if hook.due(session):
            hook.act(session)


def observe(session: Session) -> None:
    """Measures the update that comes next."""
    measured = jax.block_until_ready(session.run.observe(session.state))
    session.writer.observe(session.step, measured, session.host.clock.seconds())


def record(session: Session) -> None:
    """The flight recorder, where the last update was a spike or not finite."""
    if recorded := session.recorder.see(session.state):
        session.progress.say(recorded)


def log(session: Session) -> None:
    """The means since the last time, and the learning rates."""
    run, host, state = session.run, session.host, session.state
    before = (host.train or {}).get(STEP_BY_STEP, 0)
    host.train = run.described(run.label | logged(state.sums, state.learning_rates))
    session.writer.write(session.step, "train", host.train, host.clock.seconds())
    session.progress.log(session.step, host.train)
    share = host.train.get(STEP_BY_STEP, 0)
    if share > 0 and not before:
        session.progress.say(
            f"step {session.step}  {100 * share:.3g} % of rows did not converge in the iterations that "
            "model.recurrence.newton allows and were run step by step; raise max_iterations or damping, or take "
            "backend=auto"
        )


def evaluate(session: Session) -> None:
    """The validation split, and what follows from it: a new best, the end, the next stage, a lower rate.

    Raises:
        Halted: a signal came, and the split takes too long.
    """
    host, step = session.host, session.step
    values = session.run.evaluate(session.state, "validation", session.halts)
    session.writer.write(step, "validation", values, host.clock.seconds())
    session.progress.evaluated(step, "validation", values)
    _, lowered = host.see(step, values, host.clock.seconds())
    if lowered and host.plateau is not None:
        session.change_rate(host.plateau.scale)
        session.progress.say(f"step {step}  learning rate times {host.plateau.scale:g}: {host.plateau.reason}")


def listen(session: Session, stop: Callable[[int], bool] | None) -> None:
    """Whether a signal or `stop` ends the run here.

    The next dispatch is as long in all processes, and they stop at the same step.
    """
    asked = stop is not None and stop(session.step)
    ends, session.pace.batches = processes.agree(bool(session.interrupted) or asked, session.pace.batches)
    if ends:
        session.measured, _ = processes.agree(asked, 0)
        if session.status == "paused":
            session.cut = "interrupted"


def _is_kept(session: Session) -> bool:
    """Whether a checkpoint is due: a new best, the last state, or as often as the config says."""
    best = session.host.stopping.best_step == session.step
    return best or not session.goes_on or session.step % session.run.intervals.checkpoint == 0


def checkpoint(session: Session) -> None:
    """Saves the state, with its score where it is the best so far."""
    host, step = session.host, session.step
    best = host.stopping.best_step == step
    score = host.stopping.score(host.validation) if best else None
    session.checkpoints.save(step, session.state, host.dump(host.clock.seconds()), score, host.curriculum.stage)
    session.saved = step
