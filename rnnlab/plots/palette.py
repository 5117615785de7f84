"""Colours and marks: told apart with any colour vision, and in grey print."""

COLOURS = ["#1453a8", "#be2544", "#15825e", "#bc7900", "#54226e", "#139fd9"]
"""Six colours of curves. Any two differ by at least 18 in CIELAB, also as people without red, green or blue cones see
them, and by at least 5 in lightness; each has a contrast of 3 with white, so that a thin line can be seen."""
MARKERS = ["o", "s", "^", "D", "v", "P"]
"""The mark of each colour."""
GREY = "#6b6b6b"
"""References: baselines, thresholds."""
NOTHING = "#dddddd"
"""Where a heat map has no number."""


def marker_of(colour: object) -> str | None:
    """The mark of a colour of the palette; None of any other."""
    return MARKERS[COLOURS.index(colour)] if isinstance(colour, str) and colour in COLOURS else None
