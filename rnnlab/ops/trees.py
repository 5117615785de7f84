"""How a notebook shows a module."""

import re
import warnings
from typing import Any

_COLOURS = re.compile("\x1b\\[[0-9;]*m")
"""Which Flax prints in a notebook, too, where nothing reads them."""


class ShownAsTree:
    """A module that a notebook shows as a tree that opens, with its arrays as pictures (treescope)."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # Not `_repr_html_`: treescope itself would ask the module for that again.
        import treescope  # Here: nothing but a notebook needs it.

        visualizer = treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer())
        with visualizer, warnings.catch_warnings():
            # It looks at all names of NumPy, those that are to go, too.
            warnings.simplefilter("ignore", DeprecationWarning)
            return {"text/html": treescope.render_to_html(self), "text/plain": _COLOURS.sub("", str(self))}
