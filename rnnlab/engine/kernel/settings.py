"""The static side of a kernel's launch: for which platform, how exact, how many rows and steps at once."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from rnnlab.config.errors import ConfigError
from rnnlab.ops.linear import Precision

Target = Literal["triton", "mosaic"]
"""The compiler of a kernel: Triton for NVIDIA and AMD, Mosaic for a TPU."""


class Settings(NamedTuple):
    """The static side of a launch."""

    target: Target
    interpret: bool = False
    precision: Precision = "highest"
    rows: int = 16
    """Rows of a program: a tensor core's product has 16 at least."""
    chunk: int | None = None
    """The time steps that a program holds at once; None: all, as they stay in the device's memory."""
    streamed: bool | None = None
    """Whether the matrices are read again at every step, by tiles; None: where they do not fit (`memory`)."""
    tile: int | None = None
    """Rows of a tile; None: by bytes."""
    widest: int | None = None
    """Columns of a segment; None: as many as there are."""
    warps: int | None = None
    """Warps of a GPU's program, 32 threads each; None: by the widest segment (`memory`)."""
    stages: int = 1
    chip: int = 232448
    """Bytes that a program may hold."""
    cores: int = 132
    """Programs that a device runs at once, at least: its multiprocessors."""
    programs: int = 0
    """Programs that a block of rows is spread over (`team`); 0: as many as its width needs (`memory`)."""
    least: int = 16
    """Columns of a segment in a program of Triton, at least: its products have no fewer."""

    def pad(self, width: int) -> int:
        """The padded width of a segment, in all programs: in each a power of two for Triton."""
        if self.target == "mosaic":
            return width
        programs = max(self.programs, 1)
        return max(self.least, 1 << (-(-width // programs) - 1).bit_length()) * programs


_CHANGES: ContextVar[dict[str, Any] | None] = ContextVar("kernel settings", default=None)


@contextlib.contextmanager
def launching(**changes: Any) -> Iterator[None]:
    """Within it, kernels are traced with these settings: to lower for a platform that is not at hand, and in tests."""
    token = _CHANGES.set({**(_CHANGES.get() or {}), **changes})
    try:
        yield
    finally:
        _CHANGES.reset(token)


@contextlib.contextmanager
def lowering_for(platform: str, **changes: Any) -> Iterator[None]:
    """Within it, kernels are traced and lowered for "cuda", "rocm" or "tpu", whatever is at hand. changes: of the
    settings."""
    target = "mosaic" if platform == "tpu" else "triton"
    device = None if platform == "tpu" else AbstractDevice(_KINDS[platform], 132, "gpu")
    with launching(target=target, **changes), use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        yield


_KINDS = {"cuda": "NVIDIA H100 80GB HBM3", "rocm": "gfx942"}
"""A GPU of each maker; from 0.11 on, JAX asks for one where there is none."""


def check_platform(interpret: bool) -> None:
    """Raises a ConfigError where there is no kernel for the default platform."""
    platform = jax.default_backend()
    if platform not in ("gpu", "tpu") and not interpret and "target" not in (_CHANGES.get() or {}):
        raise ConfigError(
            f"model.recurrence.backend: 'kernel' needs a GPU or TPU, and the platform here is {platform}; use 'auto', "
            "or model.recurrence.interpret=True, which runs a kernel's operations one by one, for tests"
        )


def settings_for(precision: Precision, interpret: bool, batch: int) -> Settings:
    """Those of the default platform. batch: how many rows there are."""
    changes = _CHANGES.get() or {}
    platform = jax.default_backend()
    target: Target = changes.get("target", "mosaic" if platform == "tpu" else "triton")
    settings = Settings(target, interpret, precision)
    if target == "mosaic":
        settings = settings._replace(rows=min(-(-batch // 8) * 8, 128), chunk=8, chip=100 << 20)
    else:
        settings = settings._replace(widest=512)
    if platform == "gpu" and target == "triton":
        device = jax.devices()[0]
        settings = settings._replace(chip=chip_of(device), cores=getattr(device, "core_count", None) or settings.cores)
    return settings._replace(**changes)


def chip_of(device: Any) -> int:
    """The bytes of shared memory that a program of a GPU may ask for."""
    if "rocm" in str(getattr(device.client, "platform_version", "")).lower():
        return 65536
    return _CHIP.get(str(getattr(device, "compute_capability", "")), 101376)


_CHIP = {"8.0": 166912, "8.7": 166912, "9.0": 232448, "10.0": 232448, "10.3": 232448}
"""Those of NVIDIA's devices, by compute capability; others have less."""
