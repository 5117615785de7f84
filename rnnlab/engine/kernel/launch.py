"""How a kernel is started: the blocks of its arrays that a program has."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton

from rnnlab.engine.kernel.settings import Settings
from rnnlab.engine.kernel.team import Team

Kind = Literal["time", "edge", "rows", "whole", "numbers", "exchange"]
"""An array over time [T, B, W]; the step before a chunk of one; one of each row [B, W]; one for all programs; a few
integers; one that the programs of a team write for each other [slots, B, W]."""

Kernel = Callable[[Mapping[str, Any], Team], None]
Arrays = Mapping[str, tuple[Kind, Any]]


@jax.custom_jvp
def _once(arrays: dict[str, Any]) -> dict[str, Any]:
    """The identity of what a kernel reads, without a derivative: JAX makes none of a kernel, and does not say so."""
    return arrays


@_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError("the backend kernel has no second derivatives; use backend='reference'")


def call(
    kernel: Kernel, name: str, settings: Settings, steps: int, backwards: bool, inputs: Arrays, outputs: Arrays
) -> dict[str, jax.Array]:
    """Runs a kernel, which gets its refs by the names of inputs and outputs."""
    read = _once({key: a for key, (_, a) in inputs.items()})
    inputs = {key: (kind, read[key]) for key, (kind, _) in inputs.items()}
    if settings.programs > 1:
        return call_team(kernel, name, settings, inputs, outputs)
    names = [*inputs, *outputs]

    def named(*refs: Any) -> None:
        by_name = dict(zip(names, refs, strict=True))
        kernel(by_name, Team(settings, by_name))

    chunk = settings.chunk or steps
    batch = next(a.shape[1] for kind, a in inputs.values() if kind == "time")
    results = pl.pallas_call(
        named,
        grid=(batch // settings.rows, steps // chunk),
        in_specs=[_spec(settings, steps, backwards, kind, a) for kind, a in inputs.values()],
        out_specs=[_spec(settings, steps, backwards, kind, a) for kind, a in outputs.values()],
        out_shape=[a for _, a in outputs.values()],
        name=name,
        **_how(settings),
    )(*[a for _, a in inputs.values()])
    return dict(zip(outputs, results, strict=True))


def _spec(settings: Settings, steps: int, backwards: bool, kind: Kind, a: Any) -> pl.BlockSpec:
    """A program's block of an array.

    The grid is (blocks of rows, chunks of time). A TPU goes through it in order, so that a block that is the same in
    every chunk stays on chip, and fetches the next chunk while it computes. A GPU's programs share nothing: there a
    chunk is all of time.
    """
    chunk = settings.chunk or steps
    chunks = steps // chunk

    def at(j: Any) -> Any:
        return chunks - 1 - j if backwards else j

    if kind == "time":
        return pl.BlockSpec((chunk, settings.rows, a.shape[2]), lambda i, j: (at(j), i, 0))
    if kind == "edge":
        step = (lambda j: at(j) * chunk - 1) if backwards else (lambda j: (at(j) + 1) * chunk)
        return pl.BlockSpec((1, settings.rows, a.shape[2]), lambda i, j: (jnp.clip(step(j), 0, steps - 1), i, 0))
    if kind == "rows":
        return pl.BlockSpec((settings.rows, a.shape[1]), lambda i, j: (i, 0))
    on_tpu = settings.target == "mosaic" and not settings.interpret
    if kind == "numbers" and on_tpu:
        return pl.BlockSpec(memory_space=pltpu.SMEM)
    return pl.BlockSpec(
        a.shape, lambda *_: (0,) * len(a.shape), **({"pipeline_mode": pl.Buffered(1)} if on_tpu else {})
    )


def _how(settings: Settings) -> dict[str, Any]:
    if settings.interpret:
        return {"interpret": True}
    if settings.target == "triton":
        params: Any = pltriton.CompilerParams(num_warps=settings.warps, num_stages=settings.stages)
    else:
        params = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=settings.chip)
    return {"compiler_params": params}


def call_team(kernel: Kernel, name: str, settings: Settings, inputs: Arrays, outputs: Arrays) -> dict[str, jax.Array]:
    """Runs a kernel whose blocks of rows have a team of programs each. Every program sees all rows of the arrays, as
    only when it has started it knows which are its own."""
    batch = next(a.shape[1] for kind, a in inputs.values() if kind == "time")
    blocks = batch // settings.rows
    arrays = {key: a for key, (_, a) in inputs.items()}
    shapes = {key: a for key, (_, a) in outputs.items()}
    exchange = [key for key, (kind, _) in outputs.items() if kind == "exchange"]
    by_rows = [key for key, (kind, _) in {**inputs, **outputs}.items() if kind in ("time", "rows")]

    def named(refs: Mapping[str, Any]) -> None:
        team = Team(settings, refs)
        kernel({**refs, **{key: team.rows(refs[key]) for key in by_rows}}, team)

    def whole(a: Any) -> pl.BlockSpec:
        return pl.BlockSpec(a.shape, lambda *_: (0,) * len(a.shape))

    def run(arrays: Mapping[str, Any], written: Mapping[str, Any], grid: tuple[int, ...]) -> dict[str, jax.Array]:
        """written: arrays that the kernel goes on to write, as they are."""
        into = [*written, *(key for key in shapes if key not in written)]
        results = {**{key: jax.ShapeDtypeStruct(a.shape, a.dtype) for key, a in written.items()}, **shapes}

        def body(*refs: Any) -> None:
            read = refs[: len(arrays)]
            write = refs[len(arrays) + len(written) :]
            named(dict(zip([*arrays, *into], [*read, *write], strict=True)))

        out = pl.pallas_call(
            body,
            grid=grid,
            in_specs=[whole(a) for a in [*arrays.values(), *written.values()]],
            out_specs=[whole(results[key]) for key in into],
            out_shape=[results[key] for key in into],
            input_output_aliases={len(arrays) + n: n for n in range(len(written))},
            name=name,
            **_how(settings),
        )(*arrays.values(), *written.values())
        return dict(zip(into, out, strict=True))

    @jax.custom_batching.sequential_vmap  # Programs of several replicas at once might not all fit.
    def run_all(arrays: dict[str, Any]) -> dict[str, jax.Array]:
        if not settings.interpret:
            counters = jnp.zeros(1 + blocks, jnp.int32)
            return run(arrays, {"counters": counters}, (blocks * settings.programs,))
        # Interpreted programs run one after the other and cannot wait. So all are run again for every meeting: each
        # time what is exchanged is right for one meeting more.
        begin = {key: jnp.zeros(a.shape, a.dtype) for key, a in shapes.items()}
        meetings = shapes[exchange[0]].shape[0] if exchange else 0
        grid = blocks, settings.programs
        return lax.fori_loop(
            0, meetings + 1, lambda _, out: run(arrays, {key: out[key] for key in exchange}, grid), begin
        )

    return {key: a for key, a in run_all(arrays).items() if key in shapes}
