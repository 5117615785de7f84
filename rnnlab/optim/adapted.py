"""Optimisers from outside the project, `optimizer.name=optax:lion` among them, made ready for the chain.

optax's own have a learning rate each; in the chain of `chain.py` the rate comes last, after all of them.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import Traced
from rnnlab.config.errors import ConfigError


@functools.cache
def adapted(factory: Callable[..., Any], name: str) -> Callable[..., optax.GradientTransformation]:
    """A factory of what stands in the chain.

    One that takes a `learning_rate` gets 1, and its updates have the sign of a gradient; a weight decay of its own is
    restricted to the leaves that `decayed` names. The fields of optax's are the parameters whose defaults are numbers,
    names or None: their annotations say nothing of what a config may hold.

    Args:
        name: `package.module:Name`, for messages.
    """
    signature = inspect.signature(factory)
    if "learning_rate" not in signature.parameters and not factory.__module__.startswith("optax."):

        @functools.wraps(factory)
        def checked(**values: Any) -> optax.GradientTransformation:
            return _checked(name, factory(**values))

        return checked
    rate = {"learning_rate": 1.0} if "learning_rate" in signature.parameters else {}
    masks = [each for each in ("mask", "weight_decay_mask") if each in signature.parameters]
    left = ("learning_rate", *masks)
    fields = [each.replace(annotation=_hint(each.default)) for each in signature.parameters.values() if _is_field(each)]
    fields = [each for each in fields if each.name not in left]

    def make(decayed: Callable[[Any], Any] | None = None, **values: Any) -> optax.GradientTransformation:
        whole = _checked(name, factory(**rate, **dict.fromkeys(masks, decayed), **values))
        return optax.chain(whole, optax.scale(-1.0)) if rate else whole

    if masks:
        fields.append(inspect.Parameter("decayed", inspect.Parameter.KEYWORD_ONLY, default=None))
    make.__signature__ = signature.replace(parameters=fields)  # pyright: ignore[reportFunctionMemberAccess]
    make.__annotations__ = {each.name: each.annotation for each in fields if each.name != "decayed"}
    make.__doc__ = factory.__doc__
    return make


def _is_field(parameter: inspect.Parameter) -> bool:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return False
    return parameter.default is parameter.empty or isinstance(parameter.default, int | float | str | None)


def _hint(default: Any) -> Any:
    kind = float if default is inspect.Parameter.empty else Any if default is None else type(default)
    return Traced[kind] if kind in (float, Any) else kind


def _checked(name: str, whole: Any) -> Any:
    """Raises a ConfigError for one whose update wants more than gradients and weights: the loss, or its function."""
    if not isinstance(whole, optax.GradientTransformation):
        return whole
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    extra = optax.with_extra_args_support(whole)
    try:
        jax.eval_shape(lambda tree: extra.update(tree, extra.init(tree), tree), params)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer.name: {name} needs more than gradients and weights, which is all that a step gives: {error}"
        ) from None
    return whole
