"""TIMIT: the phone or state of each 10 ms of speech, by deep and bidirectional recurrent networks.

    python -m rnnlab.train --config=configs/speech.py --config.task.folder=/corpora/TIMIT  # in runs/speech
    python -m rnnlab.train --config=configs/speech.py:lstm-5x250-bidirectional --config.task.folder=/corpora/TIMIT
    python -m rnnlab.evaluate --workdir=runs/speech --decode  # phone error rate, figures of an utterance and confusions

The corpus is the LDC's (LDC93S1, not free; SPHERE files as they are). Its folder is named as above, or lies as `timit`
below --data_dir or RNNLAB_DATA; NLTK's sample of 16 speakers is read from there as well. Needs rnnlab[speech]. State
ids of a Kaldi alignment, as the paper has them, take the place of thirds of phones with --config.task.targets=FOLDER.

The presets are the twelve rows of the paper's table (Le, Jaitly and Hinton, 2015, section 4.4), and GRU beside them.
Not yet measured on the full corpus; docs/speech.md has what smaller networks do on the sample.
"""

from ml_collections import ConfigDict

CELLS = {
    # The paper gives only the size of the RNN.
    "rnn": dict(name="vanilla", features=500, activation="tanh"),
    "lstm": dict(name="lstm", features=250),
    # R = 0.01 I. Input weights from N(0, 0.001²), as the paper has them, would shrink the signal layer by layer; the
    # wider Glorot interval is our choice.
    "irnn": dict(
        name="irnn",
        features=500,
        recurrent_init=dict(name="scaled_identity", scale=0.01),
        input_init="glorot_uniform",
    ),
    "gru": dict(name="gru", features=250),
}
LEARNING_RATES = {"irnn": 3e-4, "rnn": 3e-4}

PRESETS = {
    f"{name}-{layers}x{cell['features']}{suffix}": f"{layers} layers of {cell['features']} {name} units" + direction
    for name, cell in CELLS.items()
    for suffix, direction in (("", ""), ("-bidirectional", " in each direction"))
    for layers in (2, 5)
}


def get_config(preset: str = "irnn-5x500-bidirectional") -> ConfigDict:
    """preset: a key of PRESETS, as "lstm-2x250" or "irnn-5x500-bidirectional"."""
    if preset not in PRESETS:
        raise KeyError(preset)
    name, size, *bidirectional = preset.split("-")
    return ConfigDict(
        dict(
            seed=0,
            steps=4000,  # 35 epochs of the full corpus.
            batch_size=32,  # Rows of all devices together.
            log_every=50,
            eval_every=200,
            eval_batch_size=32,
            checkpoint_every=200,
            # 183 states, a third of a phone each; the paper has 180 from a Kaldi alignment.
            task=dict(name="speech", folder="timit", targets="states", bucket=32),
            model=dict(cell=CELLS[name], layers=int(size.split("x")[0]), bidirectional=bool(bidirectional)),
            # The paper names no optimiser for this task.
            optimizer=dict(
                name="adam",
                learning_rate=LEARNING_RATES.get(name, 1e-3),
                clip_norm=1.0,
                schedule=dict(name="cosine"),
            ),
            early_stopping=dict(metric="frame_error"),
        )
    )
