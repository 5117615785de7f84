"""The Penn Treebank as Mikolov cut it: word by word at a published size, and character by character.

    python -m rnnlab.train --config=configs/ptb.py             # an LSTM of 2 × 650, in runs/ptb; for a GPU
    python -m rnnlab.train --config=configs/ptb.py:small       # 2 × 200
    python -m rnnlab.train --config=configs/ptb.py:characters  # 1 × 1000, in bits per character

The archive (simple-examples.tgz, 35 MB) is downloaded once, or found in the folder ptb of --data_dir or RNNLAB_DATA, as
are its files ptb.train.txt, ptb.char.train.txt and so on.

Not measured: the archive was not at hand where these were written. Words follow Zaremba et al. (2014), who report test
perplexities of 114.5 (small, without dropout) and 82.7 (medium); the size of the characters' network is that of
AWD-LSTM, one layer of its three, its numbers are guesses.
"""

from ml_collections import ConfigDict

PRESETS = {
    "medium": "words, two layers of 650 units, dropout 0.5",
    "small": "words, two layers of 200 units, no dropout",
    "characters": "characters, one layer of 1000 units",
}
EPOCH = 1327
"""Updates: 929 589 words in 20 streams of windows of 35; of windows of 20, as small has, 2323."""
WORDS = {
    "medium": dict(features=650, dropout=0.5, scale=0.05, window=35, epochs=39, fixed=6, factor=1 / 1.2, epoch=EPOCH),
    "small": dict(features=200, dropout=0.0, scale=0.1, window=20, epochs=13, fixed=4, factor=0.5, epoch=2323),
}


def _uniform(scale: float) -> dict:
    return dict(name="uniform", scale=scale)  # A dict of its own each time: one that stands twice is one section.


def words(size: dict) -> dict:
    """Zaremba et al. (2014): SGD at rate 1, gradients clipped at 5; after `fixed` epochs the rate falls every epoch."""
    scale, window, epoch, rate = size["scale"], size["window"], size["epoch"], size["dropout"]
    return dict(
        steps=size["epochs"] * epoch,
        batch_size=20,  # Streams side by side.
        eval_batch_size=1,
        log_every=200,
        eval_every=epoch,
        checkpoint_every=epoch,
        task=dict(name="language_model", dataset="ptb", window=window),
        model=dict(
            cell=dict(
                name="lstm",
                features=size["features"],
                forget_bias=0.0,
                input_init=_uniform(scale),
                recurrent_init=_uniform(scale),
            ),
            layers=2,
            embedding=size["features"],
            embedding_init=_uniform(scale),
            readout_init=_uniform(scale),
            dropout=dict(input=rate, between=rate, output=rate),
        ),
        # Their loss is a sum over the steps of a row, ours a mean: rate and clipping are scaled so that updates are
        # theirs.
        optimizer=dict(
            name="sgd",
            learning_rate=float(window),
            clip_norm=5.0 / window,
            schedule=dict(
                name="step",
                boundaries=tuple(range(size["fixed"] * epoch, size["epochs"] * epoch, epoch)),
                factor=size["factor"],
            ),
        ),
    )


def characters() -> dict:
    """One layer, for a GPU."""
    return dict(
        steps=50_000,
        batch_size=128,
        eval_batch_size=10,
        log_every=200,
        eval_every=2000,
        checkpoint_every=2000,
        task=dict(name="language_model", dataset="ptb", level="character", window=150),
        model=dict(cell=dict(name="lstm", features=1000), embedding=128, dropout=dict(output=0.25)),
        optimizer=dict(name="adam", learning_rate=2e-3, clip_norm=1.0, schedule="cosine", warmup_steps=200),
    )


def get_config(preset: str = "medium") -> ConfigDict:
    """preset: a key of PRESETS."""
    if preset not in PRESETS:
        raise KeyError(preset)
    return ConfigDict(dict(seed=0) | (words(WORDS[preset]) if preset in WORDS else characters()))
