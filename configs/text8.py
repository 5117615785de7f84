"""text8, character by character: 100 MB of Wikipedia in 27 characters, 90, 5 and 5 MB to train, validate, test.

    python -m rnnlab.train --config=configs/text8.py        # an LSTM of 1024 units, in runs/text8; for a GPU
    python -m rnnlab.train --config=configs/text8.py:small  # 256 units
    python -m rnnlab.generate --workdir=runs/text8 --prompt="the "

The archive (text8.zip, 31 MB) is downloaded once, or found in the folder text8 of --data_dir or RNNLAB_DATA, as is
the file in it.

Not measured: the archive was not at hand where this was written. The numbers are guesses, and no result is promised.
Validation and test are cut into eval_batch_size streams; 1 scores each character with all before it as its context.
"""

from ml_collections import ConfigDict

PRESETS = {"large": dict(features=1024, steps=200_000), "small": dict(features=256, steps=20_000)}


def get_config(preset: str = "large") -> ConfigDict:
    """preset: a key of PRESETS."""
    size = PRESETS[preset]
    return ConfigDict(
        dict(
            seed=0,
            steps=size["steps"],
            batch_size=128,  # Streams side by side.
            eval_batch_size=64,
            log_every=200,
            eval_every=5000,
            checkpoint_every=1000,
            task=dict(name="language_model", dataset="text8", level="character", window=100),
            model=dict(cell=dict(name="lstm", features=size["features"]), embedding=64, dropout=dict(output=0.1)),
            optimizer=dict(name="adam", learning_rate=2e-3, clip_norm=1.0, schedule="cosine", warmup_steps=500),
        )
    )
