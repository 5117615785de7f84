"""From the config's optimizer section to an optax chain: clip, precondition, decay, scale by the schedule.

All numbers may be traced arrays, so the chain is rebuilt inside the compiled step and a sweep over its numbers compiles
once. The order is fixed: measure the norm; clip by value, by layer, by unit (adaptive), by global norm; gradient noise;
optimiser; decoupled weight decay, of groups, too; learning rate; max-norm of the weights that result. The optimisers
are in `optim/optimizers.py`, clipping in `optim/clipping.py`, groups in `optim/groups.py`, schedules in
`optim/schedules.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import NonNegative, NonNegativeInt, Positive, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of, takes
from rnnlab.config.schema import build, find
from rnnlab.optim.clipping import make_clipping
from rnnlab.optim.groups import NO_GROUPS, Groups, GroupsOptions
from rnnlab.optim.monitors import detect_spikes
from rnnlab.optim.optimizers import OPTIMIZERS
from rnnlab.optim.parameters import NO_CELLS, Cells, kernels, norms_of_units
from rnnlab.optim.schedules import Schedule, ScheduleSpec, make_schedule
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The fields that every optimiser has, unless it declares one of the same name itself."""

    learning_rate: Traced[Positive]
    """The step size, before the schedule and the warm-up."""
    clip_norm: Traced[Positive] | None = None
    """Bound of the gradient's 2-norm."""
    clip_value: Traced[Positive] | None = None
    """Bound of every element of the gradient."""
    clip_layer_norm: Traced[Positive] | None = None
    """Bound of the 2-norm of each layer's gradient by itself."""
    clip_adaptive: Traced[Positive] | None = None
    """Bound of the ratio of each unit's gradient norm to its weight norm (Brock et al., 2021)."""
    gradient_noise: Traced[Positive] | None = None
    """η: noise from N(0, η / (1 + step)^γ) is added to the gradient (Neelakantan et al., 2015)."""
    gradient_noise_decay: Traced[NonNegative] = 0.55
    """γ of gradient_noise."""
    weight_decay: Traced[NonNegative] | None = None
    """λ: each update takes the learning rate times λ w off every kernel w (Loshchilov and Hutter, 2019)."""
    max_norm: Traced[Positive] | None = None
    """Bound of the norm of each unit's incoming weights after the update (Srivastava et al., 2014)."""
    schedule: ScheduleSpec = "constant"
    """The factor of the learning rate over the steps."""
    warmup_steps: NonNegativeInt = 0
    """Over so many steps the learning rate rises linearly to its full value."""
    groups: GroupsOptions | None = None
    """Groups of parameters with a learning rate or a weight decay of their own; None: none."""


OptimizerSpec = Annotated[Mapping[str, Any], OPTIMIZERS, OptimizerOptions]


def make_optimizer(
    section: Mapping[str, Any], run_steps: int, split: SplitLeaves = UNSPLIT, cells: Cells = NO_CELLS
) -> optax.GradientTransformationExtraArgs:
    """The chain of a resolved section whose numbers may be traced. Its state is a dict with the names of its parts:
    "spikes", "clipping", "noise", "rule" (the optimiser's own), "weight_decay", "group_decay", "learning_rate",
    "max_norm".

    `update(gradients, state, params, key=key, rate_scale=scale)`: key is the step's own, for gradient noise, rate_scale
    the factor of the schedule "plateau"; without these both may be left out.

    Args:
        section: name, the fields of `OptimizerOptions`, and the optimiser's own.
        run_steps: length of the run, for schedules that span it.
        split: which parameters are this device's part.
        cells: `Network.cells`.

    Raises:
        ConfigError: parameters are split, and the optimiser needs them whole; a group has a weight decay beside that of
            an optimiser that has it for all parameters alike.
    """
    if split and section["name"] == "adafactor":
        raise ConfigError(
            "optimizer: adafactor has means over all words, which model.softmax.split leaves on no device; known with "
            f"it: {', '.join(name for name in sorted(OPTIMIZERS) if name != 'adafactor')}"
        )
    rule = dict(section)
    factory, _ = find(OPTIMIZERS, section, "optimizer")
    common = fields_of(OptimizerOptions).keys() - fields_of(factory).keys()
    options = OptimizerOptions(**{key: rule.pop(key) for key in list(rule) if key in common})
    chain: list[Any] = [("spikes", detect_spikes(split))]
    if (clipping := make_clipping(section, split)) is not None:
        chain.append(("clipping", clipping))
    if options.gradient_noise is not None:
        chain.append(("noise", add_noise(options.gradient_noise, options.gradient_noise_decay, split)))
    groups = Groups(options.groups, cells)
    masks = takes(factory, "decayed")
    if groups.decays and not masks and "weight_decay" in fields_of(factory):
        raise ConfigError(
            f"optimizer.groups: {section['name']} has a weight decay of its own, for all parameters alike; leave the "
            "groups' weight_decay out"
        )
    chain.append(("rule", build(OPTIMIZERS, rule, "optimizer", **({"decayed": groups.decayed} if masks else {}))))
    if options.weight_decay is not None:
        chain.append(("weight_decay", optax.add_decayed_weights(options.weight_decay, mask=groups.decayed)))
    if groups.decays:
        chain.append(("group_decay", groups.add_decay()))
    schedule = make_schedule(options.schedule, options.warmup_steps, run_steps)
    chain.append(("learning_rate", scale_by_learning_rate(options.learning_rate, schedule, groups)))
    if options.max_norm is not None:
        chain.append(("max_norm", bound_unit_norms(options.max_norm, groups)))
    return optax.named_chain(*chain)


def waits_for_plateau(section: Mapping[str, Any]) -> bool:
    """Whether an optimizer section has the schedule "plateau", whose factor is `rate_scale`."""
    schedule = section.get("schedule")
    return "plateau" in (schedule, schedule.get("name") if isinstance(schedule, Mapping) else None)


# --- what stands in the chain beside clipping and the optimiser ------------------------------------------------------


def add_noise(
    eta: float | jax.Array, decay: float | jax.Array, split: SplitLeaves = UNSPLIT
) -> optax.GradientTransformationExtraArgs:
    """g + N(0, eta / (1 + t)^decay) at step t, from 0 (Neelakantan et al., 2015, eq. 1).

    Drawn from the `key` that `update` is given; `optax.add_noise` has a key of its own, fixed when it is made.
    """

    def init(params: PyTree) -> PyTree:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))  # Nothing but the count of updates.

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, key: PRNGKeyArray, **others: Any
    ) -> tuple[PyTree, PyTree]:
        deviation = jnp.sqrt(eta / (1.0 + state.count) ** decay)
        noise = optax.tree.random_like(key, split.unfilled(updates), sampler=jax.random.normal)
        noise = split.local(split.filled(noise))
        noisy = jax.tree.map(lambda g, n: (g + deviation * n).astype(g.dtype), updates, noise)
        return noisy, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


class LearningRate(NamedTuple):
    """The state of `scale_by_learning_rate`."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    """Updates so far."""
    rate: Float[Array, ""]
    """That of the last update, with all factors but those of groups."""
    of_groups: dict[str, Float[Array, ""]]
    """That of each group of the config, by its name in metrics."""


def scale_by_learning_rate(
    peak: float | jax.Array, schedule: Schedule, groups: Groups = NO_GROUPS
) -> optax.GradientTransformationExtraArgs:
    """Updates times -peak · schedule(step), times the factor of the leaf's group, and times the extra argument
    `rate_scale` where one is given. A leaf whose factor is 0 stays as it is, bit by bit."""

    def init(params: PyTree) -> PyTree:
        zero = jnp.zeros((), jnp.float32)
        return LearningRate(jnp.zeros((), jnp.int32), zero, dict.fromkeys(groups.rates(zero), zero))

    def scaled(keys: tuple, u: jax.Array, rate: Float[Array, ""]) -> jax.Array:
        if (factor := groups.factor(keys)) is None:
            return jnp.asarray(-rate, u.dtype) * u
        # 1 · -0 is -0, and w + -0 is w to the bit. A choice after the product would round otherwise: XLA's CPU code
        # makes one instruction of the product and the sum that follows it.
        return jnp.asarray(-rate * factor, u.dtype) * jnp.where(factor == 0, 1, u).astype(u.dtype)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        rate_scale: Float[Array, ""] | None = None,
        **others: Any,
    ) -> tuple[PyTree, PyTree]:
        rate = peak * schedule(state.count)
        updates = jax.tree_util.tree_map_with_path(lambda keys, u: scaled(keys, u, rate), updates)
        if rate_scale is not None:
            updates = jax.tree.map(lambda u: (u * rate_scale).astype(u.dtype), updates)
            rate = rate * rate_scale
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = jnp.asarray(rate, state.rate.dtype)
        return updates, LearningRate(count, rate, groups.rates(rate))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def bound_unit_norms(max_norm: float | jax.Array, groups: Groups = NO_GROUPS) -> optax.GradientTransformation:
    """Last in the chain: after the update the incoming weights of each unit of each kernel are scaled to max_norm where
    their norm is larger (Srivastava et al., 2014, section 5.1). A group whose learning rate has the factor 0 stays.

    A gate's input kernel and recurrent kernel are bounded each by itself, up to rounding.
    """

    def bound(keys: tuple, u: jax.Array, p: jax.Array, kernel: bool) -> jax.Array:
        if not kernel:
            return u
        norm, factor = norms_of_units(keys, p + u), groups.factor(keys)
        above = norm > max_norm if factor is None else (norm > max_norm) & (factor != 0)
        return jnp.where(above, (p + u) * (max_norm / norm) - p, u).astype(u.dtype)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return jax.tree_util.tree_map_with_path(bound, updates, params, kernels(params, groups.cells)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
