"""Replays of the flight recorder's recordings: which layer blew up, and which interventions would have held it.

Recordings are made and read in `training/flight_recorder.py`, drawn in `plots/replayed.py`.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.flight import SPIKE, flight
from rnnlab.nn.network import Network
from rnnlab.parallel import devices
from rnnlab.training.checkpoints import SavedCheckpoints
from rnnlab.training.flight_recorder import Recording, advance, line_of
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from rnnlab.typing import PyTree

OFF = float(np.finfo(np.float32).max)
"""A bound that bounds nothing."""


class Intervention(NamedTuple):
    """A change of training, from the first update of a recording on."""

    label: str
    numbers: Mapping[str, float] = MappingProxyType({})
    """Numbers of the config that are replaced, by their path."""
    once: Callable[[Network], None] | None = None
    """Changes the network's parameters before the first update."""
    always: Callable[[Network], None] | None = None
    """The same, before every update."""


def replay(
    recording: Recording, config: Mapping[str, Any], data_dir: str | None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Makes the updates of a recording once more, as they were and with each intervention.

    Returns, as JSON:
        update, reason, start    of the recording
        calm_norm                of the recording, `calm_norm`
        deviation                largest relative difference of a gradient norm from the recorded one
        blame                    of the update, `blame`
        interventions            {label: {"updates": a `line_of` of each, "finite", "held"}}, "as it was" the first;
                                 held: all finite, and no gradient norm above SPIKE times calm_norm. They go on for as
                                 many updates after the event as before it.

    Raises:
        ConfigError: the recording cannot be read.
    """
    record = recording.record
    run = _run(config, record, data_dir)
    state = _restored(recording, run)
    last = record["update"] + (record["update"] - 1 - record["start"])
    limit = SPIKE * calm_norm(record)

    def played(run: Run, state: TrainState, intervention: Intervention) -> dict[str, Any]:
        lines = _play(run, state, last, intervention)
        norms, losses = (_numbers(line[what] for line in lines) for what in ("grad_norm", "loss"))
        finite = bool(np.isfinite(norms).all() and np.isfinite(losses).all())
        held = finite and norms.max() <= limit
        return {"updates": lines, "finite": finite, "held": bool(held)}

    say("making its updates once more")
    unchanged = played(run, jax.tree.map(jnp.copy, state), Intervention("as it was"))
    deviation = _deviation(record["updates"], unchanged["updates"])
    replays = {"as it was": unchanged}
    changed, problem = _changeable(config, record, data_dir)
    if problem:
        say(problem)
    for intervention in interventions(config, record):
        if not set(intervention.numbers) <= set(changed.programs.numbers):
            continue
        if (intervention.once or intervention.always) and not _can_set_recurrent(run, state):
            say(f"left out: {intervention.label}: a cell of this network has no R that can be set")
            continue
        say(f"once more: {intervention.label}")
        replays[intervention.label] = played(changed, _transplanted(changed, state, intervention), intervention)
    return {
        **{name: record[name] for name in ("update", "reason", "start")},
        "calm_norm": calm_norm(record),
        "deviation": deviation,
        "blame": blame(record["updates"]),
        "interventions": replays,
    }


def interventions(config: Mapping[str, Any], record: Mapping[str, Any]) -> list[Intervention]:
    """The interventions that are tried. Bounds are those of the calm before: `calm_norm`, or half the config's
    clip_norm if that is less, and the largest ‖∂L_b/∂h_t‖ of the recording's first update."""
    optimizer = config["optimizer"]
    clip = min(calm_norm(record), (optimizer["clip_norm"] or OFF) / 2)
    calm = max(_finite_max(norms) for norms in record["updates"][0]["gradient"].values())
    rate = optimizer["learning_rate"]
    return [
        Intervention(f"clip_norm {clip:.3g}", {"optimizer.clip_norm": clip}),
        Intervention(f"cotangent.clip_norm {calm:.3g}", {"model.cotangent.clip_norm": calm}),
        Intervention(f"learning_rate {rate / 10:.3g}", {"optimizer.learning_rate": rate / 10}),
        Intervention("recurrent kernels × 0.9", once=lambda network: _change_recurrent(network, lambda r: 0.9 * r)),
        Intervention("spectral norms ≤ 1", always=lambda network: _change_recurrent(network, _spectral_bound)),
    ]


def calm_norm(record: Mapping[str, Any]) -> float:
    """The median gradient norm of the updates before the event; the usual norm of the event, if there are none."""
    *before, event = record["updates"]
    return float(np.median(_numbers(line["grad_norm"] for line in before) if before else event["usual_norm"]))


def blame(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How far the last of these updates is from the first, for every layer and direction:

        state_growth     largest ‖h_t‖ over the largest of the first update
        state_time_step  the first on the way forward at which it is not finite or SPIKE times that largest; or None
        entry_growth     ‖∂L/∂h_t‖ where the gradient enters (the first step on the way back that has one), over the
                         largest ‖∂L/∂h_t‖ of the first update
        growth           the largest ‖∂L/∂h_t‖ over that of the first update
        time_step        the first on the way back at which it is not finite or SPIKE times what it enters with (or that
                         largest of the first update, if it is more); or None: it does not grow on its way
        peak             the time step of the largest

    The layer whose gradient grew most comes first.
    """
    calm, wild = lines[0], lines[-1]
    layers = []
    for layer in wild["gradient"]:
        norms, states = _numbers(wild["gradient"][layer]), _numbers(wild["state"][layer])
        forward = np.arange(len(norms))[:: -1 if layer.endswith(" reverse") else 1]
        usual, usual_state = (_finite_max(calm[what][layer]) or 1.0 for what in ("gradient", "state"))
        entry = next((norms[t] for t in forward[::-1] if norms[t] != 0), 0.0)
        bound = SPIKE * (max(entry, usual) if np.isfinite(entry) else usual)
        layers.append(
            {
                "layer": layer,
                "state_growth": float(states.max() / usual_state),
                "state_time_step": next((int(t) for t in forward if not states[t] <= SPIKE * usual_state), None),
                "entry_growth": float(entry / usual),
                "growth": float(norms.max() / usual),
                "time_step": next((int(t) for t in forward[::-1] if not norms[t] <= bound), None),
                "peak": int(np.argmax(np.nan_to_num(norms, nan=np.inf))),
            }
        )
    return sorted(layers, key=lambda each: -float(np.nan_to_num(each["growth"], nan=np.inf)))


def described(replayed: Mapping[str, Any]) -> list[str]:
    """The event and its layers, a line each, for people."""
    lines = replayed["interventions"]["as it was"]["updates"]
    event = next((line for line in lines if line["update"] == replayed["update"]), lines[-1])
    words = [
        f"update {event['update']}: gradient norm {float(event['grad_norm']):.4g}, "
        f"before it {replayed['calm_norm']:.3g}",
        f"all as multiples of the largest in update {replayed['start'] + 1}:",
    ]
    for each in replayed["blame"]:
        text = f"{each['layer']}: ‖h_t‖ {each['state_growth']:.3g}"
        if each["state_time_step"] is not None:
            text += f" (past {SPIKE:g} at time step {each['state_time_step']})"
        text += (
            f"; ‖∂L/∂h_t‖ enters with {each['entry_growth']:.3g}, is {each['growth']:.3g} at time step {each['peak']}"
        )
        if each["time_step"] is not None:
            text += f" (past {SPIKE:g} times its entry at {each['time_step']})"
        words.append(text)
    same = "to the bit" if replayed["deviation"] == 0 else f"within {replayed['deviation']:.2g} of the recorded norms"
    return [*words, f"this machine makes the recorded updates again {same}"]


def interventions_table(replayed: Mapping[str, Any]) -> Any:
    """Every intervention: its largest gradient norm and loss, its last loss, and whether it held."""
    from rich.table import Table

    table = Table(title=f"updates {replayed['start'] + 1} to {replayed['update']} and as many after it")
    table.add_column("", no_wrap=True)
    for name in ("largest gradient norm", "largest loss", "last loss", "gradient held"):
        table.add_column(name, justify="right")
    for label, each in replayed["interventions"].items():
        norms, losses = (_numbers(line[what] for line in each["updates"]) for what in ("grad_norm", "loss"))
        held = "yes" if each["held"] else "no" if each["finite"] else "no, not finite"
        table.add_row(label, *(f"{value:.4g}" for value in (norms.max(), losses.max(), losses[-1])), held)
    return table


def _numbers(values: Any) -> np.ndarray:
    return np.array([float(v) for v in values])


def _finite_max(values: Any) -> float:
    numbers = _numbers(values)
    return float(numbers[np.isfinite(numbers)].max(initial=0.0))


def _run(config: Mapping[str, Any], record: Mapping[str, Any], data_dir: str | None) -> Run:
    run = make_run({**config, "diagnostics": (), "flight_recorder": None}, data_dir)
    run.enter(record["stage"])
    return run


def _changeable(config: Mapping[str, Any], record: Mapping[str, Any], data_dir: str | None) -> tuple[Run, str]:
    """A run in whose programs both clippings are numbers, so that one compilation serves all interventions; and what
    there is to say if the gradient inside the recurrence cannot be clipped."""
    changed = copy.deepcopy(dict(config))
    changed["optimizer"]["clip_norm"] = changed["optimizer"]["clip_norm"] or OFF
    without = copy.deepcopy(changed)
    changed["model"]["cotangent"]["clip_norm"] = changed["model"]["cotangent"]["clip_norm"] or OFF
    try:
        return _run(changed, record, data_dir), ""
    except ConfigError as error:
        return _run(without, record, data_dir), f"left out: cotangent.clip_norm: {error}"


def _restored(recording: Recording, run: Run) -> TrainState:
    folder = recording.files.state
    if not folder.is_dir():
        raise ConfigError(f"{recording.files.folder} is not whole: it has no state")
    return SavedCheckpoints(folder).restore(recording.record["start"], run.programs.like).state


def _transplanted(run: Run, state: TrainState, intervention: Intervention) -> TrainState:
    """The recorded state in a run whose programs are others and whose numbers are replaced."""
    numbers = {name: jnp.float32(value) for name, value in {**run.programs.numbers, **intervention.numbers}.items()}
    new = run.programs.initialize(numbers, state.seed, run.programs.embedding)
    optimizer = new.optimizer | {name: part for name, part in state.optimizer.items() if name in new.optimizer}
    buffers = jax.tree_util.tree_map_with_path(lambda path, a: _recorded_or(state.buffers, path, a), new.buffers)
    params = state.params if intervention.once is None else _changed(run, state.params, buffers, intervention.once)
    kept = {name: getattr(state, name) for name in ("step", "average", "rate_scale", "carry")}
    whole = dataclasses.replace(new, params=params, buffers=buffers, optimizer=optimizer, **kept)
    return devices.replicate(run.mesh, jax.tree.map(jnp.copy, whole))


def _recorded_or(tree: PyTree, path: tuple, otherwise: jax.Array) -> jax.Array:
    """The leaf at a path; another where there is none, and of what an intervention sets."""
    if any(getattr(key, "key", None) == "cotangent" for key in path):
        return otherwise
    for key in path:
        tree = tree[getattr(key, "key", getattr(key, "idx", None))]
    return tree


def _play(run: Run, state: TrainState, last: int, intervention: Intervention) -> list[dict[str, Any]]:
    """A line of every update up to the one of this number, or up to the first that cannot be made."""
    observe = run.programs.observer({"flight": flight})
    lines = []
    while int(state.step) < last and bool(state.finite):
        if intervention.always is not None:
            params = devices.replicate(run.mesh, _changed(run, state.params, state.buffers, intervention.always))
            state = dataclasses.replace(state, params=params)
        lines.append(line_of(state, observe(state, run.data_at(int(state.step)), run.rows)["flight"]))
        state = advance(run, state, int(state.step) + 1)
    return lines


def _deviation(recorded: list[dict[str, Any]], again: list[dict[str, Any]]) -> float:
    """The largest relative difference between the gradient norms of two replays, 0 where both are not finite."""
    worst = 0.0
    for old, new in zip(recorded, again, strict=False):
        a, b = float(old["grad_norm"]), float(new["grad_norm"])
        if np.isfinite(a) and np.isfinite(b):
            worst = max(worst, abs(a - b) / max(abs(a), 1e-30))
        elif np.isfinite(a) != np.isfinite(b):
            return float("inf")
    return worst


def _changed(run: Run, params: PyTree, buffers: PyTree, change: Callable[[Network], None]) -> PyTree:
    """The parameters after a change of the network that has them."""
    network = run.programs.structure.network(params, buffers)
    change(network)
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def _change_recurrent(network: Network, change: Callable[[jax.Array], jax.Array]) -> None:
    """Changes every gate's block [H, H] of every recurrent matrix."""
    for cell in network.cells().values():
        cell.set_recurrent_matrices(change)


def _can_set_recurrent(run: Run, state: TrainState) -> bool:
    cells = run.programs.structure.network(state.params, state.buffers).cells().values()
    return all(cell.recurrent_matrices() and not cell.builds_recurrent_matrix for cell in cells)


def _spectral_bound(block: jax.Array) -> jax.Array:
    """The nearest matrix of spectral norm at most 1: singular values above 1 are set to 1."""
    matrix = np.asarray(block)
    if not np.isfinite(matrix).all():
        return block
    left, values, right = np.linalg.svd(matrix)
    return jnp.asarray((left * np.minimum(values, 1)) @ right, block.dtype)
