"""The language models of the IRNN paper (Le, Jaitly and Hinton, 2015, section 4.3): by its protocol and by ours.

    python -m rnnlab.prepare --dataset=lm1b --vocabulary_size=1000000   # once, for `paper`: 4 GB of text
    python -m rnnlab.train --config=configs/irnn/lm1b.py:irnn4-paper             # NETWORK-VARIANT

`modern` is configs/lm1b.py, whose networks these are. Neither has been trained on the whole corpus here.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rnnlab.config.reading import read_file
from rnnlab.records.run_config import set_fields

OURS = Path(__file__).resolve().parents[1] / "lm1b.py"
NETWORKS = ("lstm", "irnn4", "irnn1024", "tanh4", "tanh1024")
PRESETS = {f"{network}-{variant}": f"{network}, {variant}" for variant in ("paper", "modern") for network in NETWORKS}

# Stated: the networks, 1 000 000 words, SGD at a fixed rate, clipping, batches of 16. Our choices: which rate and clip
# of its grid, the embedding (as wide as what the softmax sees) and 8192 sampled words in training; evaluation is exact.
PAPER = {
    "batch_size": 16,
    "task.min_count": None,
    "task.vocabulary_size": 1_000_000,
    "model.softmax.tied": False,
    "optimizer": dict(name="sgd", learning_rate=0.1, clip_norm=1.0),
}


def get_config(preset: str = "lstm-modern") -> ConfigDict:
    """preset: a key of PRESETS, NETWORK-VARIANT."""
    if preset not in PRESETS:
        raise KeyError(preset)
    network, variant = preset.split("-")
    return ConfigDict(set_fields(read_file(f"{OURS}:{network}"), PAPER if variant == "paper" else {}))
