"""From the config's optimizer section to an optax chain: clip, precondition, decay, scale by the schedule.

All numbers may be traced arrays, so the chain is rebuilt inside the compiled step and a sweep over its numbers compiles
once. The order is fixed: clip by value, clip by global norm, optimiser, decoupled weight decay, learning rate.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.build import (
    Bound,
    ConfigError,
    Decay,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    build,
    fields_of,
    find,
)
from rnnlab.typing import PyTree

Schedule = Callable[[jax.Array], jax.Array]
"""Step (from 0) -> factor of the learning rate."""


# --- schedules -------------------------------------------------------------------------------------------------------


def constant() -> Schedule:
    """1."""
    return lambda step: jnp.ones(())


def linear(final: NonNegative = 0.0, steps: PositiveInt | None = None) -> Schedule:
    """From 1 to final over steps (the whole run, less the warm-up, if None), then final."""
    return optax.linear_schedule(1.0, final, _required(steps))  # pyright: ignore[reportReturnType]


def cosine(final: NonNegative = 0.0, steps: PositiveInt | None = None) -> Schedule:
    """Half a cosine from 1 to final over steps (the whole run, less the warm-up, if None) (Loshchilov and Hutter,
    2017, eq. 5, without restarts)."""
    return optax.cosine_decay_schedule(1.0, _required(steps), alpha=final)  # pyright: ignore[reportReturnType]


def exponential(rate: Positive = 0.5, steps: PositiveInt = 1000) -> Schedule:
    """rate^(step / steps)."""
    return lambda step: rate ** (step / steps)


def step(factor: Positive = 0.1, boundaries: tuple[PositiveInt, ...] = ()) -> Schedule:
    """Times factor at every step in boundaries."""

    def schedule(step: jax.Array) -> jax.Array:
        return factor ** (step >= jnp.asarray(boundaries, jnp.int32)).sum()

    return schedule


def plateau(
    factor: Annotated[float, Bound(0, 1, low_excluded=True, high_excluded=True)] = 0.5,
    patience: PositiveInt = 3,
    min_change: NonNegative = 0.0,
    minimum: Annotated[float, Bound(0, 1)] = 0.01,
) -> Schedule:
    """1 here: the host multiplies the rate by factor after each patience evaluations (by early_stopping.metric) without
    an improvement by more than min_change, down to minimum times the rate; see `rnnlab.watch.Plateau`."""
    return constant()


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "step": step,
    "plateau": plateau,
}

ScheduleSpec = Annotated[str | Mapping[str, Any], SCHEDULES]


def _required(steps: int | None) -> int:
    if steps is None:
        raise ConfigError("optimizer.schedule.steps: missing")
    return steps


def make_schedule(section: str | Mapping[str, Any], warmup_steps: int, run_steps: int) -> Schedule:
    """A schedule after a linear warm-up from 0 (the first step takes 1 / warmup_steps of the rate).

    One whose `steps` are None by default spans the run, less the warm-up, unless the section says how many.
    """
    fields: dict[str, Any] = {"name": section} if isinstance(section, str) else dict(section)
    factory, _ = find(SCHEDULES, fields, "schedule")
    steps = fields_of(factory).get("steps")
    if steps is not None and steps.default is None and fields.get("steps") is None:
        fields["steps"] = max(1, run_steps - warmup_steps)
    after = build(SCHEDULES, fields, "schedule")
    if warmup_steps == 0:
        return after
    return lambda step: jnp.where(step < warmup_steps, (step + 1) / warmup_steps, after(step - warmup_steps))


# --- optimisers ------------------------------------------------------------------------------------------------------


def sgd(momentum: Decay | None = None, nesterov: bool = False) -> optax.GradientTransformation:
    """Stochastic gradient descent; momentum as v ← momentum v + g (Sutskever et al., 2013, with the rate outside)."""
    if momentum is None:
        if nesterov:
            raise ConfigError("optimizer.nesterov: needs optimizer.momentum")
        return optax.identity()
    return optax.trace(momentum, nesterov)  # pyright: ignore[reportArgumentType]


def rmsprop(decay: Decay = 0.9, eps: Positive = 1e-8, momentum: Decay | None = None) -> optax.GradientTransformation:
    """g / √(running mean of g² + eps) (Tieleman and Hinton, 2012)."""
    scale = optax.scale_by_rms(decay=decay, eps=eps)
    return scale if momentum is None else optax.chain(scale, optax.trace(momentum))  # pyright: ignore


def adam(b1: Decay = 0.9, b2: Decay = 0.999, eps: Positive = 1e-8) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015, algorithm 1); with weight_decay above 0 it is AdamW."""
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)  # pyright: ignore[reportArgumentType]


def adamw(
    b1: Decay = 0.9, b2: Decay = 0.999, eps: Positive = 1e-8, weight_decay: NonNegative = 0.01
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, times the learning rate (Loshchilov and Hutter, 2019, algorithm 2)."""
    return optax.chain(adam(b1, b2, eps), optax.add_decayed_weights(weight_decay, mask=decayed))


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
}


def common_options(
    *,
    learning_rate: Positive,
    clip_norm: Positive | None = None,
    clip_value: Positive | None = None,
    weight_decay: NonNegative | None = None,
    schedule: ScheduleSpec = "constant",
    warmup_steps: NonNegativeInt = 0,
) -> dict[str, Any]:
    """The fields that every optimiser has, unless it declares one of the same name itself. None switches clipping and
    decay off."""
    return {
        "learning_rate": learning_rate,
        "clip_norm": clip_norm,
        "clip_value": clip_value,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_steps": warmup_steps,
    }


OptimizerSpec = Annotated[Mapping[str, Any], OPTIMIZERS, common_options]


def make_optimizer(section: Mapping[str, Any], run_steps: int) -> optax.GradientTransformationExtraArgs:
    """The chain of a resolved section whose numbers may be traced.

    Args:
        section: name, the fields of `common_options`, and the optimiser's own.
        run_steps: length of the run, for schedules that span it.
    """
    own = dict(section)
    factory, _ = find(OPTIMIZERS, section, "optimizer")
    common = fields_of(common_options).keys() - fields_of(factory).keys()
    options = common_options(**{key: own.pop(key) for key in list(own) if key in common})
    chain = []
    if options["clip_value"] is not None:
        chain.append(optax.clip(options["clip_value"]))
    if options["clip_norm"] is not None:
        chain.append(clip_by_global_norm(options["clip_norm"]))
    chain.append(build(OPTIMIZERS, own, "optimizer"))
    if options["weight_decay"] is not None:
        chain.append(optax.add_decayed_weights(options["weight_decay"], mask=decayed))
    schedule = make_schedule(options["schedule"], options["warmup_steps"], run_steps)
    chain.append(optax.scale_by_schedule(lambda step: -options["learning_rate"] * schedule(jnp.asarray(step))))
    if waits_for_plateau(section):
        chain.append(scale_by_rate_scale())
    return optax.chain(*chain)


def waits_for_plateau(section: Mapping[str, Any]) -> bool:
    """Whether an optimizer section has the schedule "plateau", whose factor is `rate_scale`."""
    schedule = section.get("schedule")
    return "plateau" in (schedule, schedule.get("name") if isinstance(schedule, Mapping) else None)


def scale_by_rate_scale() -> optax.GradientTransformationExtraArgs:
    """Updates times the extra argument `rate_scale`, a scalar."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda u: (u * extra["rate_scale"]).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def decayed(params: PyTree) -> PyTree:
    """True for the leaves that weight decay touches: kernels, not biases, carries or embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: str(path[-1].key).endswith("kernel"), params)


def global_norm(tree: PyTree) -> jax.Array:
    """√Σ x² over all leaves, accumulated in float32 at least, finite where the squares would overflow."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(tree)]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves if leaf.size]))
    # Within these bounds 1 / scale is a normal number too, which is what the compiler multiplies by.
    scale = jnp.where(jnp.isfinite(largest), jnp.clip(largest, 1e-30, 1e37), 1)
    return scale * jnp.sqrt(sum(jnp.sum((leaf / scale) ** 2) for leaf in leaves))


def clip_by_global_norm(max_norm: float | jax.Array) -> optax.GradientTransformation:
    """Scales the whole gradient to norm max_norm where its norm is larger (Pascanu et al., 2013, algorithm 1)."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        norm = global_norm(updates)
        scale = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
