"""The page: HTML, style and scripts put into one text, with the palette of the project's figures."""

import json
from pathlib import Path

import jinja2

from rnnlab.plots.palette import COLOURS, GREY

COLOUR_MAPS = ("viridis", "magma")
STOPS = 32
"""Colours of a colour map that the page mixes between."""


def page() -> str:
    """The HTML, which loads nothing but /api."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    maps = {name: [to_hex(colormaps[name](stop / (STOPS - 1))) for stop in range(STOPS)] for name in COLOUR_MAPS}
    palette = json.dumps({"colours": COLOURS, "grey": GREY, "maps": maps})
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        variable_start_string="{|",
        variable_end_string="|}",
    )
    return templates.get_template("page.html").render(palette=palette)
