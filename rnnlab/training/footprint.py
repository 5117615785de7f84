"""The memory that a run needs for certain, by its shapes before anything is compiled, and by the compiled programs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.parallel import memory
from rnnlab.parallel.sharding import MODEL_AXIS, row_parts
from rnnlab.tasks import Batch, Split
from rnnlab.training.programs import Programs, quiet_about_length
from rnnlab.typing import PyTree


class Sizes(NamedTuple):
    """Fields of the config that a user may make smaller, by their paths, with their values."""

    batch: Mapping[str, int]
    """Batch sizes of training and of evaluation."""
    lengths: Mapping[str, int]
    network: Mapping[str, int]
    embedding: Mapping[str, int]


def check_state(programs: Programs, sizes: Sizes) -> None:
    """Whether the state and the task's data fit on this process's devices, each of which has them whole.

    Raises:
        OutOfMemory: they do not.
    """
    parts = {"weights and optimiser": _held(programs, programs.shapes), "data": _held(programs, programs.task.data)}
    memory.check(parts, _devices(programs), _smaller_network(programs, sizes))


def check_training(programs: Programs, sizes: Sizes, saves: bool = True) -> None:
    """Whether the state fits beside what it is trained with, a batch and a gradient or, as a checkpoint is saved, a
    copy; before anything of it is made. The states of the recurrence, and what the backward pass keeps of them, come on
    top: what fails here cannot run, what passes may still not.

    Raises:
        OutOfMemory: it does not.
    """
    state = {"weights and optimiser": _held(programs, programs.shapes)}
    step = _of_batch(programs, "train", sizes.batch["batch_size"])
    copy = {"their copy for a checkpoint": sum(state.values())} if saves else {}
    _check(programs, sizes, state | (step if sum(step.values()) > sum(copy.values()) else copy), "batch_size")


def check_batch(programs: Programs, sizes: Sizes, split: Split, rows: int) -> None:
    """Whether a batch of so many rows fits, in training with a gradient, now that the state is in memory.

    Raises:
        OutOfMemory: it does not.
    """
    field = "batch_size" if split == "train" else "eval_batch_size"
    _check(programs, sizes, _of_batch(programs, split, rows), field)


def check_sample(programs: Programs, sizes: Sizes, rows: int) -> None:
    """Whether so many rows of the validation split fit, as they are and in double precision, with the state after every
    time step; before anything is made.

    Raises:
        OutOfMemory: they do not.
    """
    batch = _batch_shapes(programs, "validation", rows)
    shapes = programs.shapes.params, programs.shapes.buffers
    carries = jax.eval_shape(lambda *whole: programs.structure.network(*whole).first_carries(rows), *shapes)
    floats = [leaf for leaf in jax.tree.leaves(batch) if np.issubdtype(leaf.dtype, np.floating)]
    parts = {
        "a batch": _bytes(batch),
        "the batch in double precision": 2 * _bytes(floats),
        "the states of all time steps": 2 * batch.inputs.shape[0] * _bytes(carries),
    }
    memory.check(parts, _devices(programs), _smaller_batch(sizes, "--rows", rows))


def _of_batch(programs: Programs, split: Split, rows: int) -> dict[str, int]:
    gradient = {"gradient": _held(programs, programs.shapes.params)} if split == "train" else {}
    return {"a batch": _batch(programs, split, rows)} | gradient


def _check(programs: Programs, sizes: Sizes, parts: dict[str, int], field: str) -> None:
    largest = max(parts, key=lambda name: parts[name])
    smaller = _smaller_batch(sizes, field) if largest == "a batch" else _smaller_network(programs, sizes)
    memory.check(parts, _devices(programs), smaller)


def check_replicas(programs: Programs, sizes: Sizes, states: int, compiled: Any) -> None:
    """The same of a training program of replicas, whose states, of so many bytes, and best states are not made yet.

    Raises:
        OutOfMemory: it does not fit.
    """
    needed, devices = compiled.memory_analysis(), _devices(programs)
    step = 0 if needed is None else needed.temp_size_in_bytes * len(devices)
    smaller = _smaller_batch(sizes, "batch_size")
    memory.check({"the states of the replicas": 2 * states, "a training step": step}, devices, smaller)


def check_compiled(programs: Programs, sizes: Sizes, compiled: Any) -> None:
    """Whether what a compiled training program needs beside its arguments, which are in memory already, fits.

    Raises:
        OutOfMemory: it does not.
    """
    needed = compiled.memory_analysis()
    if needed is not None:
        devices = _devices(programs)
        extra = needed.temp_size_in_bytes + needed.output_size_in_bytes - needed.alias_size_in_bytes
        memory.check({"a training step": extra * len(devices)}, devices, _smaller_batch(sizes, "batch_size"))


def _devices(programs: Programs) -> list[Any]:
    return list(programs.mesh.local_devices)


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(jax.eval_shape(lambda: tree)))


def _held(programs: Programs, tree: PyTree) -> int:
    """Bytes on the devices of this process, of which those along `MODEL_AXIS` share the split leaves."""
    count = len(_devices(programs))
    whole, split = programs.structure.split.parted(tree)
    return _bytes(whole) * count + _bytes(split) * count // programs.mesh.shape[MODEL_AXIS]


def _batch(programs: Programs, split: Split, rows: int) -> int:
    """Bytes of a batch's inputs and targets on the devices of this process."""
    batch = _batch_shapes(programs, split, rows)
    return _bytes(batch) * len(_devices(programs)) // row_parts(programs.mesh)


def _batch_shapes(programs: Programs, split: Split, rows: int) -> Batch:
    task, data = programs.task, programs.data_shapes
    if split != "train":
        data = jax.eval_shape(lambda: task.data)
    positions = jax.ShapeDtypeStruct((rows,), jnp.uint32 if split == "train" else jnp.int32)
    with quiet_about_length():
        return jax.eval_shape(lambda d, p: task.batch(d, jnp.int32(0), split, p), data, positions)


def _smaller_batch(sizes: Sizes, field: str, rows: int | None = None) -> str:
    """rows: what the field is; else the sizes say it."""
    fields = {field: rows or sizes.batch[field], **sizes.lengths}
    return f"make smaller: {', '.join(_now(fields))}"


def _smaller_network(programs: Programs, sizes: Sizes) -> str:
    fields = _now(sizes.network)
    if programs.task.vocabulary is not None:
        fields.append(f"the vocabulary ({programs.task.vocabulary:,} words: task.vocabulary_size, task.min_count)")
        fields += _now(sizes.embedding)
    devices = _devices(programs)
    copies = len(devices) > 1 and devices[0].platform == "cpu"
    return f"make smaller: {', '.join(fields)}" + (
        f"; devices=1 holds one copy instead of {len(devices)}" if copies else ""
    )


def _now(fields: Mapping[str, int]) -> list[str]:
    return [f"{path} (now {value})" for path, value in fields.items()]
