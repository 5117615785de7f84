"""Parts of the environment that a command does not accept: JAX's settings of the environment, a terminal without UTF-8.

Which devices there are is in `parallel/devices.py`, where figures go in `plots`.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import jax

SETTINGS = {
    "jax_check_tracer_leaks": False,  # It takes what the garbage collector has not met yet for a mistake.
    "jax_debug_infs": False,  # A run that diverges says so itself, and keeps what it has.
    "jax_debug_nans": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_disable_jit": False,
    "jax_enable_x64": False,
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_legacy_prng_key": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_random_seed_offset": 0,
    "jax_threefry_partitionable": True,
    "jax_transfer_guard": None,
}
"""Settings of JAX that change a run's numbers or end it. A config says all that a run depends on, and a run that is
resumed elsewhere has to be the same."""
INSTEAD = {
    ("jax_debug_infs", "jax_debug_nans", "jax_error_checking_behavior_nan"): (
        "--config.flight_recorder.steps=10 keeps what comes before a loss that is not finite, for rnnlab.diagnose "
        "--replay"
    ),
    ("jax_random_seed_offset",): "--config.seed=… is another seed",
}
"""The flag or field that does what a refused setting was to do."""


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """For what a program calls that computes in double precision itself: runs are in single precision."""
    with jax.enable_x64(False):
        yield


def settle() -> None:
    """Puts back JAX's settings, of this process and of those it starts, and says which; what a terminal cannot show
    becomes "?"."""
    for name, value in SETTINGS.items():
        variable = name.upper()
        text = os.environ.pop(variable, None)
        before = getattr(jax.config, name)
        if text is None and before == value:
            continue
        jax.config.update(name, value)
        if getattr(jax.config, name) != before:
            instead = "".join(f"; {words}" for names, words in INSTEAD.items() if name in names)
            print(f"{variable}={text} does not count here: a run is what its config says{instead}", file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
