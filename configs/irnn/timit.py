"""TIMIT frame classification of the IRNN paper (Le, Jaitly and Hinton, 2015, section 4.4): by its protocol and by ours.

    python -m rnnlab.train --config=configs/irnn/timit.py:irnn-5x500-paper   # ROW-VARIANT, the rows of its table
    python -m rnnlab.train --config=configs/irnn/timit.py:irnn-5x500-paper --config.task.targets=ALIGNMENT

`modern` is configs/speech.py, whose networks these are. The paper's 180 states are of a Kaldi alignment: with a folder
of one (ALIGNMENT) they are read, without it the targets are 183 thirds of phones. Neither has been trained on the whole
corpus here.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rnnlab.config.reading import read_file
from rnnlab.records.run_config import set_fields

OURS = Path(__file__).resolve().parents[1] / "speech.py"
ROWS = tuple(
    f"{network}-{layers}x{units}{direction}"
    for direction in ("", "-bidirectional")
    for layers in (2, 5)
    for network, units in (("rnn", 500), ("lstm", 250), ("irnn", 500))
)
PRESETS = {f"{row}-{variant}": f"{row}, {variant}" for variant in ("paper", "modern") for row in ROWS}

# Stated: the networks, 120 inputs, R = 0.01·I, SGD at a fixed rate, clipping, batches of 16. Our choices: which rate
# and clip of its grid, how RNN and LSTM are drawn, and 8000 steps, 35 epochs.
PAPER = {
    "batch_size": 16,
    "task.bucket": 16,
    "steps": 8000,
    "optimizer": dict(name="sgd", learning_rate=0.1, clip_norm=1.0),
}
# All other weights from N(0, 0.001²); how many layers such weights can be trained through is the experiment's question.
IRNN = {"model.cell.input_init": "small_normal", "model.readout_init": "small_normal"}


def get_config(preset: str = "irnn-5x500-bidirectional-modern") -> ConfigDict:
    """preset: a key of PRESETS, ROW-VARIANT."""
    if preset not in PRESETS:
        raise KeyError(preset)
    row, _, variant = preset.rpartition("-")
    changes = PAPER | (IRNN if row.startswith("irnn") else {}) if variant == "paper" else {}
    return ConfigDict(set_fields(read_file(f"{OURS}:{row}"), changes))
