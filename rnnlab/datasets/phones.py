"""TIMIT's 61 phones and their standard folding to 48 classes for training and 39 for scoring (Lee & Hon, 1989)."""

import numpy as np

# 61 -> (48, 39), after Lee & Hon, "Speaker-independent phone recognition using hidden Markov models", IEEE Transactions
# on Acoustics, Speech, and Signal Processing 37(11), 1989. The glottal stop q belongs to neither set.
FOLDING: dict[str, tuple[str, str] | None] = {
    "aa": ("aa", "aa"),
    "ae": ("ae", "ae"),
    "ah": ("ah", "ah"),
    "ao": ("ao", "aa"),
    "aw": ("aw", "aw"),
    "ax": ("ax", "ah"),
    "ax-h": ("ax", "ah"),
    "axr": ("er", "er"),
    "ay": ("ay", "ay"),
    "b": ("b", "b"),
    "bcl": ("vcl", "sil"),
    "ch": ("ch", "ch"),
    "d": ("d", "d"),
    "dcl": ("vcl", "sil"),
    "dh": ("dh", "dh"),
    "dx": ("dx", "dx"),
    "eh": ("eh", "eh"),
    "el": ("el", "l"),
    "em": ("m", "m"),
    "en": ("en", "n"),
    "eng": ("ng", "ng"),
    "epi": ("epi", "sil"),
    "er": ("er", "er"),
    "ey": ("ey", "ey"),
    "f": ("f", "f"),
    "g": ("g", "g"),
    "gcl": ("vcl", "sil"),
    "h#": ("sil", "sil"),
    "hh": ("hh", "hh"),
    "hv": ("hh", "hh"),
    "ih": ("ih", "ih"),
    "ix": ("ix", "ih"),
    "iy": ("iy", "iy"),
    "jh": ("jh", "jh"),
    "k": ("k", "k"),
    "kcl": ("cl", "sil"),
    "l": ("l", "l"),
    "m": ("m", "m"),
    "n": ("n", "n"),
    "ng": ("ng", "ng"),
    "nx": ("n", "n"),
    "ow": ("ow", "ow"),
    "oy": ("oy", "oy"),
    "p": ("p", "p"),
    "pau": ("sil", "sil"),
    "pcl": ("cl", "sil"),
    "q": None,
    "r": ("r", "r"),
    "s": ("s", "s"),
    "sh": ("sh", "sh"),
    "t": ("t", "t"),
    "tcl": ("cl", "sil"),
    "th": ("th", "th"),
    "uh": ("uh", "uh"),
    "uw": ("uw", "uw"),
    "ux": ("uw", "uw"),
    "v": ("v", "v"),
    "w": ("w", "w"),
    "y": ("y", "y"),
    "z": ("z", "z"),
    "zh": ("zh", "sh"),
}

PHONES: dict[int, tuple[str, ...]] = {
    61: tuple(FOLDING),
    48: tuple(sorted({pair[0] for pair in FOLDING.values() if pair})),
    39: tuple(sorted({pair[1] for pair in FOLDING.values() if pair})),
}
"""The names of each set, in the order of their class numbers: 61, 48 or 39 -> names."""


def folding(size: int) -> np.ndarray:
    """Class of each of the 61 phones in the set of 61, 48 or 39: int32 [61]; -1 for the glottal stop where it has
    none."""
    if size == 61:
        return np.arange(61, dtype=np.int32)
    names = PHONES[size]
    column = {48: 0, 39: 1}[size]
    return np.array([names.index(pair[column]) if pair else -1 for pair in FOLDING.values()], np.int32)
