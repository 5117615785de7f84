"""The optimisers by name. A new one is a function here and a line in `OPTIMIZERS`.

The chain that a step applies, with all that stands beside them, is in `optim/chain.py`.
"""

from collections.abc import Callable
from typing import Any

import optax

from rnnlab.config.bounds import Decay, NonNegative, Positive, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.outside import Table
from rnnlab.optim.adapted import adapted
from rnnlab.optim.parameters import kernels
from rnnlab.typing import PyTree


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
    lambda built: isinstance(built, optax.GradientTransformation),
    adapted,
)
