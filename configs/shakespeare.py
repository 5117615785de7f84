"""Tiny Shakespeare, character by character, and text of one's own: a language model in five minutes.

    python -m rnnlab.train --config=configs/shakespeare.py        # a GRU, in runs/shakespeare; also :lstm, :irnn, :tanh
    python -m rnnlab.generate --workdir=runs/shakespeare --prompt="ROMEO:"

The GRU's 10 000 steps took 342 s on 2 cores of a shared machine that was also at other work (4000 steps alone: 115 s)
and end at 2.11 bits per character of the validation text, 2.30 of the test text.
The text (1.1 MB) is downloaded once, or found in --data_dir or RNNLAB_DATA; any folder of text files:
--config.task.dataset=text --config.task.source=FOLDER.
"""

from ml_collections import ConfigDict

PRESETS = {
    "gru": dict(name="gru", features=256),
    "lstm": dict(name="lstm", features=256),
    "irnn": dict(name="irnn", features=256, recurrent_init=dict(name="scaled_identity", scale=0.5)),
    "tanh": dict(name="vanilla", features=256, activation="tanh", recurrent_init="orthogonal"),
}


def get_config(preset: str = "gru") -> ConfigDict:
    """preset: a key of PRESETS."""
    return ConfigDict(
        dict(
            seed=0,
            steps=10_000,
            batch_size=32,  # Streams side by side.
            eval_batch_size=32,
            log_every=100,
            eval_every=1000,
            checkpoint_every=1000,
            task=dict(name="language_model", dataset="tinyshakespeare", level="character", window=64),
            model=dict(cell=PRESETS[preset], embedding=32, dropout=dict(output=0.2)),
            optimizer=dict(name="adam", learning_rate=3e-3, clip_norm=1.0, schedule="cosine", warmup_steps=100),
        )
    )
