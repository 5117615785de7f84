"""How a kernel is started: the blocks of its arrays that a program has."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton

from rnnlab.engine.kernel.settings import Settings

Kind = Literal["time", "edge", "rows", "whole", "numbers"]
"""An array over time [T, B, W]; the step before a chunk of one; one of each row [B, W]; one for all programs; a few
integers."""


def call(
    kernel: Callable[[Mapping[str, Any]], None],
    name: str,
    settings: Settings,
    steps: int,
    backwards: bool,
    inputs: Mapping[str, tuple[Kind, Any]],
    outputs: Mapping[str, tuple[Kind, Any]],
) -> dict[str, jax.Array]:
    """Runs a kernel, which gets its refs by the names of inputs and outputs.

    The grid is (blocks of rows, chunks of time). A TPU goes through it in order, so that a block that is the same in
    every chunk stays on chip, and fetches the next chunk while it computes. A GPU's programs share nothing: there a
    chunk is all of time.
    """
    chunk = settings.chunk or steps
    chunks = steps // chunk
    batch = next(a.shape[1] for kind, a in inputs.values() if kind == "time")

    def at(j: Any) -> Any:
        return chunks - 1 - j if backwards else j

    def spec(kind: Kind, a: Any) -> pl.BlockSpec:
        if kind == "time":
            return pl.BlockSpec((chunk, settings.rows, a.shape[2]), lambda i, j: (at(j), i, 0))
        if kind == "edge":
            step = (lambda j: at(j) * chunk - 1) if backwards else (lambda j: (at(j) + 1) * chunk)
            return pl.BlockSpec((1, settings.rows, a.shape[2]), lambda i, j: (jnp.clip(step(j), 0, steps - 1), i, 0))
        if kind == "rows":
            return pl.BlockSpec((settings.rows, a.shape[1]), lambda i, j: (i, 0))
        if kind == "numbers" and settings.target == "mosaic" and not settings.interpret:
            return pl.BlockSpec(memory_space=pltpu.SMEM)
        once = {"pipeline_mode": pl.Buffered(1)} if settings.target == "mosaic" and not settings.interpret else {}
        return pl.BlockSpec(a.shape, lambda i, j: (0,) * len(a.shape), **once)

    names = [*inputs, *outputs]

    def named(*refs: Any) -> None:
        kernel(dict(zip(names, refs, strict=True)))

    how: dict[str, Any] = {"interpret": True}
    if not settings.interpret:
        if settings.target == "triton":
            params: Any = pltriton.CompilerParams(num_warps=settings.warps, num_stages=settings.stages)
        else:
            params = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=settings.chip)
        how = {"compiler_params": params}
    results = pl.pallas_call(
        named,
        grid=(batch // settings.rows, chunks),
        in_specs=[spec(kind, a) for kind, a in inputs.values()],
        out_specs=[spec(kind, a) for kind, a in outputs.values()],
        out_shape=[a for _, a in outputs.values()],
        name=name,
        **how,
    )(*[a for _, a in inputs.values()])
    return dict(zip(outputs, results, strict=True))


def barrier(settings: Settings) -> None:
    """After it, every thread of a program reads what another one wrote to memory."""
    if settings.target == "triton" and not settings.interpret:
        pltriton.debug_barrier()
