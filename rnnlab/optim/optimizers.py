"""From the config's optimizer section to an optax chain: clip, precondition, decay, scale by the schedule.

All numbers may be traced arrays, so the chain is rebuilt inside the compiled step and a sweep over its numbers compiles
once. The order is fixed: measure the norm; clip by value, by layer, by unit (adaptive), by global norm; gradient noise;
optimiser; decoupled weight decay; learning rate; max-norm of the weights that result. Schedules are in
`optim/schedules.py`.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import Decay, NonNegative, NonNegativeInt, Positive, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of, takes
from rnnlab.config.outside import Table
from rnnlab.config.schema import build, find
from rnnlab.ops.safe_norms import global_norm, unit_norms
from rnnlab.optim.adapted import adapted
from rnnlab.optim.learning_rate import scale_by_learning_rate
from rnnlab.optim.monitors import count_clipped, detect_spikes
from rnnlab.optim.schedules import ScheduleSpec, make_schedule
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import PRNGKeyArray, PyTree

# --- optimisers ------------------------------------------------------------------------------------------------------


def sgd(momentum: Traced[Decay] | None = None, nesterov: bool = False) -> optax.GradientTransformation:
    """Stochastic gradient descent; momentum as v ← momentum v + g (Sutskever et al., 2013, with the rate outside)."""
    if momentum is None:
        if nesterov:
            raise ConfigError("optimizer.nesterov: needs optimizer.momentum")
        return optax.identity()
    return optax.trace(momentum, nesterov)  # pyright: ignore[reportArgumentType]


def rmsprop(
    decay: Traced[Decay] = 0.9, eps: Traced[Positive] = 1e-8, momentum: Traced[Decay] | None = None
) -> optax.GradientTransformation:
    """g / √(running mean of g² + eps) (Tieleman and Hinton, 2012)."""
    scale = optax.scale_by_rms(decay=decay, eps=eps)
    return scale if momentum is None else optax.chain(scale, optax.trace(momentum))  # pyright: ignore


def adam(
    b1: Traced[Decay] = 0.9, b2: Traced[Decay] = 0.999, eps: Traced[Positive] = 1e-8
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015, algorithm 1); with weight_decay above 0 it is AdamW."""
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)  # pyright: ignore[reportArgumentType]


def adamw(
    b1: Traced[Decay] = 0.9,
    b2: Traced[Decay] = 0.999,
    eps: Traced[Positive] = 1e-8,
    weight_decay: Traced[NonNegative] = 0.01,
    decayed: Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, times the learning rate (Loshchilov and Hutter, 2019, algorithm 2).

    decayed: which leaves decay, `kernels` if not given.
    """
    decay = optax.add_decayed_weights(weight_decay, mask=decayed or kernels)
    return optax.chain(adam(b1, b2, eps), decay)


def adagrad(
    initial_accumulator: Traced[NonNegative] = 0.1, eps: Traced[Positive] = 1e-7
) -> optax.GradientTransformation:
    """g / √(initial_accumulator + Σ g² + eps), the sum over all steps so far (Duchi et al., 2011)."""
    return optax.scale_by_rss(initial_accumulator, eps)


def adafactor(
    decay_exponent: Traced[Positive] = 0.8,
    clip_update: Traced[Positive] | None = 1.0,
    scale_by_parameter: bool = True,
    eps: Traced[Positive] = 1e-30,
) -> optax.GradientTransformation:
    """g / √v with v, the running mean of g² + eps, held as a vector of rows and one of columns where a parameter has
    two axes of 128 or more, at decay 1 - t^-decay_exponent (Shazeer and Stern, 2018, algorithm 4); no momentum.

    clip_update: bound on the root mean square of each parameter's update. scale_by_parameter: the learning rate is
    relative to the root mean square of the parameter, at least 10⁻³.
    """
    chain: list[Any] = [optax.scale_by_factored_rms(decay_rate=decay_exponent, epsilon=eps)]
    if clip_update is not None:
        chain.append(optax.clip_by_block_rms(clip_update))
    if scale_by_parameter:
        chain.append(optax.scale_by_param_block_rms())
    return optax.chain(*chain)


OPTIMIZERS: Table[Callable[..., optax.GradientTransformation]] = Table(
    {
        "sgd": sgd,
        "rmsprop": rmsprop,
        "adam": adam,
        "adamw": adamw,
        "adagrad": adagrad,
        "adafactor": adafactor,
    },
    "an optax.GradientTransformation",
    lambda made: isinstance(made, optax.GradientTransformation),
    adapted,
)


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


OptimizerSpec = Annotated[Mapping[str, Any], OPTIMIZERS, OptimizerOptions]


def make_optimizer(
    section: Mapping[str, Any], run_steps: int, split: SplitLeaves = UNSPLIT, built: Collection[tuple] = ()
) -> optax.GradientTransformationExtraArgs:
    """The chain of a resolved section whose numbers may be traced. Its state is a dict with the names of its parts:
    "spikes", "clipping", "noise", "rule" (the optimiser's own), "weight_decay", "learning_rate", "max_norm".

    `update(gradients, state, params, key=key, rate_scale=scale)`: key is the step's own, for gradient noise, rate_scale
    the factor of the schedule "plateau"; without these both may be left out.

    Args:
        section: name, the fields of `OptimizerOptions`, and the optimiser's own.
        run_steps: length of the run, for schedules that span it.
        split: which parameters are this device's part.
        built: `Network.built_parameters`.

    Raises:
        ConfigError: parameters are split, and the optimiser needs them whole.
    """
    if split and section["name"] == "adafactor":
        raise ConfigError(
            "optimizer: adafactor has means over all words, which model.softmax.split leaves on no device; known with "
            f"it: {', '.join(name for name in sorted(OPTIMIZERS) if name != 'adafactor')}"
        )
    own = dict(section)
    factory, _ = find(OPTIMIZERS, section, "optimizer")
    common = fields_of(OptimizerOptions).keys() - fields_of(factory).keys()
    options = OptimizerOptions(**{key: own.pop(key) for key in list(own) if key in common})
    chain: list[Any] = [("spikes", detect_spikes(split))]
    if (clipping := make_clipping(section, split)) is not None:
        chain.append(("clipping", clipping))
    if options.gradient_noise is not None:
        chain.append(("noise", add_noise(options.gradient_noise, options.gradient_noise_decay, split)))
    decayed = functools.partial(kernels, built=built)
    mask = {"decayed": decayed} if takes(factory, "decayed") else {}
    chain.append(("rule", build(OPTIMIZERS, own, "optimizer", **mask)))
    if options.weight_decay is not None:
        chain.append(("weight_decay", optax.add_decayed_weights(options.weight_decay, mask=decayed)))
    schedule = make_schedule(options.schedule, options.warmup_steps, run_steps)
    chain.append(("learning_rate", scale_by_learning_rate(options.learning_rate, schedule)))
    if options.max_norm is not None:
        chain.append(("max_norm", bound_unit_norms(options.max_norm, decayed)))
    return optax.named_chain(*chain)


def make_clipping(section: Mapping[str, Any], split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation | None:
    """All that a section clips by, in the order of the chain; None where it clips nothing."""
    table = {
        "clip_value": optax.clip,
        "clip_layer_norm": functools.partial(clip_by_layer_norm, split=split),
        "clip_adaptive": functools.partial(clip_by_unit_ratio, split=split),
        "clip_norm": functools.partial(clip_by_global_norm, split=split),
    }
    bounds = {name: section[name] for name in table if section.get(name) is not None}
    if not bounds:
        return None
    alone = bounds.get("clip_norm") if len(bounds) == 1 else None
    return count_clipped([table[name](bound) for name, bound in bounds.items()], split, alone)


def waits_for_plateau(section: Mapping[str, Any]) -> bool:
    """Whether an optimizer section has the schedule "plateau", whose factor is `rate_scale`."""
    schedule = section.get("schedule")
    return "plateau" in (schedule, schedule.get("name") if isinstance(schedule, Mapping) else None)


def kernels(params: PyTree, built: Collection[tuple] = ()) -> PyTree:
    """True for the leaves that weight decay and max-norm touch: kernels, not biases, carries or embeddings, nor what
    cells make their recurrent matrices of.

    built: `Network.built_parameters`.
    """

    def is_kernel(path: tuple, _: Any) -> bool:
        return str(path[-1].key).endswith("kernel") and tuple(step.key for step in path) not in built

    return jax.tree_util.tree_map_with_path(is_kernel, params)


# --- what stands in the chain beside the optimiser -------------------------------------------------------------------


def clip_by_global_norm(max_norm: float | jax.Array, split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation:
    """Scales the whole gradient to norm max_norm where its norm is larger (Pascanu et al., 2013, algorithm 1)."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        norm = global_norm(updates, split)
        scale = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_layer_norm(max_norm: float | jax.Array, split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation:
    """`clip_by_global_norm` for each layer by itself: an explosion in one leaves the gradient of the others as it is.

    A layer is all that stands below one module of the network: `layers.0` (both directions and learned carries),
    `readout`, `embedding`.
    """
    clip = clip_by_global_norm(max_norm, split)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        clipped = updates
        for layer in dict.fromkeys(layer_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)):
            inside = lambda path, layer=layer: layer_of(path) == layer  # noqa: E731
            own = jax.tree_util.tree_map_with_path(lambda path, g, i=inside: g if i(path) else None, updates)
            own, _ = clip.update(own, optax.EmptyState())
            clipped = jax.tree.map(lambda all, own: all if own is None else own, clipped, own)
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def layer_of(path: tuple) -> tuple:
    """The part of a leaf's path that names its layer: ("layers", 0) or ("readout",)."""
    keys = tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
    return keys[:2] if len(keys) > 2 and isinstance(keys[1], int) else keys[:1]


def clip_by_unit_ratio(
    ratio: float | jax.Array, eps: float = 1e-3, split: SplitLeaves = UNSPLIT
) -> optax.GradientTransformation:
    """Scales each unit's gradient to ratio times the norm of its weights, at least eps, where it is larger (adaptive
    gradient clipping: Brock et al., 2021, eq. 3).

    A unit's weights are a column of a kernel, a word's in a softmax a row; a bias is clipped as a whole, as in the
    authors' code.
    `optax.adaptive_grad_clip` is this too, but takes a kernel of one row as a whole, and its squares overflow: a
    gradient of 1e20 would become 0.
    """

    def clip(path: tuple, g: jax.Array, p: jax.Array) -> jax.Array:
        norm, of_weights = (_norms_of_units(path, a, split) for a in (g, p))
        bound = ratio * jnp.maximum(of_weights, eps)
        return (g * jnp.where(norm > bound, bound / norm, 1.0)).astype(g.dtype)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return jax.tree_util.tree_map_with_path(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


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


def bound_unit_norms(
    max_norm: float | jax.Array, bounded: Callable[[PyTree], PyTree] = kernels
) -> optax.GradientTransformation:
    """Last in the chain: after the update the incoming weights of each unit of each kernel are scaled to max_norm where
    their norm is larger (Srivastava et al., 2014, section 5.1).

    A gate's input kernel and recurrent kernel are bounded each by itself, up to rounding.
    """

    def bound(path: tuple, u: jax.Array, p: jax.Array, kernel: bool) -> jax.Array:
        if not kernel:
            return u
        norm = _norms_of_units(path, p + u)
        return jnp.where(norm > max_norm, (p + u) * (max_norm / norm) - p, u).astype(u.dtype)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return jax.tree_util.tree_map_with_path(bound, updates, params, bounded(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _norms_of_units(path: tuple, leaf: jax.Array, split: SplitLeaves = UNSPLIT) -> jax.Array:
    """`unit_norms`; of the softmax, whose `word_kernel` has a unit's weights in a row, of rows."""
    by_row = bool(path) and getattr(path[-1], "key", None) == "word_kernel"
    return unit_norms(leaf.T).T if by_row else unit_norms(leaf, split if path in split else UNSPLIT)
