"""ReplicaGroup: the members of a group, the slots that their states lie in, and the order of events among them.

Which members there are, and what becomes of the group's own checkpoints, is `group_run.py`'s.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.files import write_text
from rnnlab.parallel import devices, processes
from rnnlab.records.metrics import plain
from rnnlab.records.workdir import Workdir
from rnnlab.sweeps.replicas.member import Member
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.training.checkpoints import Checkpoints, Restored
from rnnlab.training.clock import TrainingClock
from rnnlab.training.conclusion import summarize
from rnnlab.training.evaluation import SECONDS_PER_DISPATCH, Halt, Halted
from rnnlab.training.host_state import following
from rnnlab.training.state import TrainState, logged


class ReplicaGroup:
    """The members of a group, the slots that their states lie in, and the order of events.

    All members that run are at the same step: their configs agree on when something is due.
    """

    def __init__(
        self,
        programs: ReplicaPrograms,
        checkpoints: Checkpoints,
        say: Callable[[str], None],
        progress: Callable[..., None],
        ended: int,
    ):
        self.programs, self.run, self.checkpoints = programs, programs.run, checkpoints
        self.say, self.progress, self.ended = say, progress, ended
        self.slots: list[Member | None] = []
        self.replicas = 0
        self._saved: int | None = None
        """The step of the group's last checkpoint."""
        self._rate = 0.0
        """Updates per second."""
        self.clock = TrainingClock()
        self.step, self.intervals = 0, programs.run.intervals

    def begin(self, members: Sequence[Member]) -> None:
        """All from the start."""
        self.replicas = len(members)
        filler = self.programs.slots_for(len(members)) - len(members)
        self.slots = [*members, *[None] * filler]
        of_slots = [*members, *[members[0]] * filler]
        self.state = self.programs.start([m.setting.config["seed"] for m in of_slots], [m.numbers for m in of_slots])
        self.best = self.programs.take(self.state, np.arange(len(self.slots)))
        for member in members:
            member.begin(0)
        self.say(f"{len(members)} runs as replicas on {devices.describe(self.run.mesh)}")

    def resume(self, members: Sequence[Member], restored: Restored) -> None:
        """The members from a checkpoint, which may hold others that have ended since."""
        host, by_name = restored.host, {m.setting.name: m for m in members}
        for name, member in by_name.items():
            member.memory.load(host["memories"][name])
            member.best = host["best"][name]
            member.status = host.get("statuses", {}).get(name, member.status)
        self.slots = [by_name.get(name) for name in host["slots"]]
        self.state, self.best = restored.state["state"], restored.state["best"]
        self.step, self.clock.before = restored.step, host["seconds"]
        self._saved, self._rate = restored.step, host.get("rate", 0.0)
        length = len(self.slots)
        self._lay_out(length if self.programs.ready(length) else self.programs.slots(len(members)))
        self.replicas = host["replicas"]
        for member in members:
            member.begin(self.step)
        self.say(f"resuming {len(members)} runs at step {self.step}")

    def _held(self) -> list[tuple[int, Member]]:
        """(slot, member) of those that train, or have ended and are not written yet."""
        return [(slot, m) for slot, m in enumerate(self.slots) if m is not None]

    def _running(self) -> list[tuple[int, Member]]:
        """(slot, member) of those that train."""
        return [(slot, m) for slot, m in self._held() if m.runs]

    @property
    def names(self) -> list[str]:
        """The names of those that have not ended."""
        return [m.setting.name for _, m in self._running()]

    def _of(self, slots: Sequence[int]) -> np.ndarray:
        """[N] True for these slots."""
        chosen = np.zeros(len(self.slots), bool)
        chosen[list(slots)] = True
        return chosen

    # --- the order of events -----------------------------------------------------------------------------------------

    def train(
        self,
        interrupted: Sequence[str],
        stop_at: int | None,
        pruned: Mapping[str, int],
        stop: Callable[[int], bool] | None = None,
    ) -> bool:
        """Trains until all have ended or come to `stop_at`, or a signal or a stop comes: whether they have; see
        `run_group`."""
        left = "crashed"
        try:
            with self.clock.running():
                over = self._train(interrupted, stop_at, pruned, stop)
            left = "paused" if over else "interrupted"
            return over
        finally:
            for _, member in self._held():
                member.leave(left)

    def _train(
        self,
        interrupted: Sequence[str],
        stop_at: int | None,
        pruned: Mapping[str, int],
        stop: Callable[[int], bool] | None,
    ) -> bool:
        every, steps = self.intervals, self.intervals.steps
        last = steps if stop_at is None else min(stop_at, steps)
        budget, mark, halts = 1, None, Halt(interrupted)
        self._prune(pruned)
        if not self._finish(interrupted):
            return False
        while self.step < last and (running := self._running()):
            started = time.monotonic()
            due = [following(self.step, each) for each in (every.log, every.evaluation, every.checkpoint)]
            due += [pruned[m.setting.name] for _, m in running if m.setting.name in pruned]
            target = min(self.step + budget, last, *due)
            until = np.where(self._of([slot for slot, _ in running]), target, 0)
            self.state = jax.block_until_ready(self.programs.train(self.state, until))
            taken = target - self.step
            if mark is None:  # The first dispatch compiled.
                mark = self.clock.seconds(), target
            else:
                per_step = (time.monotonic() - started) / taken
                budget = max(1, min(int(SECONDS_PER_DISPATCH / per_step), 4 * budget))
            self.step = target
            finite = self.programs.fetched(self.state.finite)
            for slot, member in running:
                if not finite[slot]:
                    member.status = "diverged"
            try:
                self._events(halts)
            except Halted:
                return False
            for _, member in self._running():
                if member.memory.exhausted:
                    member.status = "stopped_early"
                elif target == steps:
                    member.status = "finished"
            self._prune(pruned)
            passed = self.clock.seconds() - mark[0]
            self._rate = 0.0 if target == mark[1] else (target - mark[1]) / passed
            if not self._finish(interrupted):
                return False
            self.progress(step=target, steps=steps, running=len(self._running()), ended=self.ended)
            stopped = bool(self._running()) and stop is not None and stop(target)
            stops, budget = processes.agree(bool(interrupted) or stopped, budget)
            stopped = stops and processes.agree(stopped, 0)[0]
            if self._running() and (stops or target == last or target % every.checkpoint == 0):
                self._save()
            if self._running() and stops:
                self.checkpoints.wait()
                if stopped:
                    for _, member in self._running():
                        member.status = "interrupted"
                    self._rate = target / self.clock.seconds()
                    self._finish([])
                return False
        return True

    def _prune(self, pruned: Mapping[str, int]) -> None:
        """Ends those that run and are not meant to go beyond here."""
        for _, member in self._running():
            if self.step >= pruned.get(member.setting.name, LARGEST_INT):
                member.status = "pruned"

    def _events(self, halts: Callable[[], bool]) -> None:
        """Logs and evaluates those that run, where either is due."""
        running, step = self._running(), self.step
        if not running:
            return
        memory = running[0][1].memory
        if memory.logs(step):
            sums, rates = self.programs.fetched((self.state.sums, self.state.learning_rates))
            for slot, member in running:
                of_member = [{name: values[slot] for name, values in each.items()} for each in (sums, rates)]
                member.memory.train = self.run.described(logged(*of_member))
                member.write(step, "train", member.memory.train, self.clock.seconds())
        if not memory.evaluates(step):
            return
        metrics = self.programs.evaluate(self.state, "validation", self._of([slot for slot, _ in running]), halts)
        better, lowered = [], False
        for slot, member in running:
            member.write(step, "validation", metrics[slot], self.clock.seconds())
            improved, lower = member.memory.see(step, metrics[slot], self.clock.seconds())
            lowered |= lower
            if improved:
                better.append(slot)
                member.best = member.memory.dump(self.clock.seconds())
        if lowered:
            plateaus = [None if m is None else m.memory.plateau for m in self.slots]
            scales = np.array([1.0 if each is None else each.scale for each in plateaus])
            self.state = self.programs.with_rate_scales(self.state, scales)
        self.best = self.programs.keep(self._of(better), self.state, self.best)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _finish(self, interrupted: Sequence[str]) -> bool:
        """Writes all that those leave that have just ended, and frees their slots. Thousands take minutes: at a
        signal the group is saved, with those that are not written yet, and the answer is False."""
        over = [(slot, m) for slot, m in self._held() if not m.runs]
        if not over:
            return True
        with self.clock.paused():
            if not processes.agree(bool(interrupted), 0)[0] and self._leave(over, interrupted):
                return True
            if self._saved != self.step:
                self._save()
            self.checkpoints.wait()
            return False

    def _leave(self, over: Sequence[tuple[int, Member]], interrupted: Sequence[str]) -> bool:
        """Whether all are written."""
        tested = [slot for slot, m in over if m.status != "diverged"]
        try:
            values = self.programs.evaluate(self.best, "test", self._of(tested), Halt(interrupted)) if tested else []
        except Halted:
            return False
        flows = self.programs.flows(self.state, self._of([slot for slot, _ in over]))
        states = self.programs.each((self.state, self.best), [slot for slot, _ in over])
        for written, ((slot, member), (state, best)) in enumerate(zip(over, states, strict=True), 1):
            member.save(state, best, self.clock.seconds(), self.say)
            if processes.is_first():
                self._write(member, state, values[slot] if slot in tested else None, flows[slot])
            if member.status != "finished":
                self.say(f"{member.setting.name}: {member.status.replace('_', ' ')} at step {int(state.step)}")
            self.slots[slot] = None
            self.ended += 1  # Said run by run: writing a thousand takes minutes.
            left = len(self._running()) + len(over) - written
            self.progress(step=self.step, steps=self.intervals.steps, running=left, ended=self.ended)
            if written < len(over) and processes.agree(bool(interrupted), 0)[0]:
                return False
        self._rearrange()
        return True

    def _write(
        self, member: Member, state: TrainState, tested: Mapping[str, float] | None, flows: Mapping[str, Any]
    ) -> None:
        """The files that a member leaves beside its checkpoints."""
        summary = summarize(self.run, member.memory, state, member.status, self.clock.seconds(), self._rate)
        if tested is not None:
            summary["best"]["test"] = tested
            best_step = member.memory.stopping.best_step or int(state.step)
            member.write(best_step, "test", tested, self.clock.seconds())
        write_text(Workdir(member.workdir).gradient_flow, json.dumps(flows) + "\n")
        summary["memory_horizon"] = self.run.memory_horizon(flows["trained"])
        summary["replicas"] = self.replicas
        # Last: a run with a summary is done.
        write_text(Workdir(member.workdir).summary, json.dumps(plain(summary), indent=2) + "\n")
        member.leave(member.status, summary)

    def _rearrange(self) -> None:
        """Moves states where devices have unequally many that run, or where half of the slots are idle and cost."""
        running, count = [slot for slot, _ in self._running()], self.programs.count
        if not running:
            return
        each = len(self.slots) // count
        fullest = max(sum(slot // each == device for slot in running) for device in range(count))
        fewest = self.programs.slots(len(running))
        if self.programs.side_by_side and 2 * fewest <= len(self.slots):
            self._lay_out(fewest)
        elif fullest > -(-len(running) // count):
            self._lay_out(len(self.slots))

    def _lay_out(self, length: int) -> None:
        """Spreads the members over so many slots, evenly over the devices."""
        held, count = [slot for slot, _ in self._held()], self.programs.count
        source: list[int | None] = []
        for device in range(count):
            on_device = held[device::count]
            source += [*on_device, *[None] * (length // count - len(on_device))]
        order = np.array([held[0] if slot is None else slot for slot in source])
        self.state, self.best = (self.programs.take(each, order) for each in (self.state, self.best))
        self.slots = [None if slot is None else self.slots[slot] for slot in source]

    def _save(self) -> None:
        """The group's own checkpoint."""
        held = [m for _, m in self._held()]
        host = {
            "slots": [None if m is None else m.setting.name for m in self.slots],
            "memories": {m.setting.name: m.memory.dump(self.clock.seconds()) for m in held},
            "best": {m.setting.name: m.best for m in held},
            "statuses": {m.setting.name: m.status for m in held},
            "rate": self._rate,
            "replicas": self.replicas,
            "seconds": self.clock.seconds(),
        }
        self.checkpoints.save(self.step, {"state": self.state, "best": self.best}, host)
        self._saved = self.step
