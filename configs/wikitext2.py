"""WikiText-2, word by word in contiguous streams: an LSTM that trains in minutes on two cores, and the published size.

    python -m rnnlab.train --config=configs/wikitext2.py        # ten minutes on a laptop, in runs/wikitext2; also :hour
    python -m rnnlab.train --config=configs/wikitext2.py:medium # the published size, for a GPU
    python -m rnnlab.generate --workdir=runs/wikitext2 --prompt="The film was"

The text (13 MB, 2.1 million words, 33 278 of them different) is downloaded once, or found in --data_dir or RNNLAB_DATA.

Seed 0, 2 cores of an Intel Xeon (AVX-512) with much other work beside, perplexity on validation and test: 4000 updates
175.9 and 162.3 in 982 s, of which 8 min would do at the 8 updates a second of its first minute; :hour, 26 000 updates,
126.5 and 119.1 in 3538 s. :medium has not been run. Choosing any word as often as it occurs in the training text
has a perplexity of 965 and 912 (the baselines in the figures).
"""

from ml_collections import ConfigDict

PRESETS = {
    # 200 units, the smallest size of the PyTorch example; vectors shared, so that the words are one table of 6.7
    # million numbers, which every update reads and writes.
    "laptop": dict(features=200, layers=1, tied=True, samples=2048, dropout=0.2, steps=4000),
    "hour": dict(features=200, layers=1, tied=True, samples=2048, dropout=0.4, steps=26_000),
    # Zaremba et al. (2014), medium: two layers of 650 units, dropout 0.5 between all of them, all weights from
    # U[-0.05, 0.05], SGD at rate 1 with gradients of 35 steps clipped at 5; 39 epochs of 2983 batches.
    "medium": dict(features=650, layers=2, tied=False, samples=None, dropout=0.5, steps=116_337),
}

ADAM = dict(name="adam", learning_rate=3e-3, clip_norm=1.0, schedule="cosine", warmup_steps=200)
# Their loss is a sum over the 35 steps of a row, ours a mean: rate and clipping are scaled so that updates are theirs.
# From epoch 7 on the rate shrinks by 1.2 an epoch.
SGD = dict(
    name="sgd",
    learning_rate=35.0,
    clip_norm=5.0 / 35,
    schedule=dict(name="step", boundaries=tuple(range(6 * 2983, 39 * 2983, 2983)), factor=1 / 1.2),
)


def _uniform(scale: float) -> dict:
    return dict(name="uniform", scale=scale)  # A dict of its own each time: one that stands twice is one section.


def get_config(preset: str = "laptop") -> ConfigDict:
    """preset: a key of PRESETS."""
    size = PRESETS[preset]
    published = preset == "medium"
    scale = 0.05 if published else 0.1
    cell = dict(name="lstm", features=size["features"])
    if published:
        cell |= dict(input_init=_uniform(scale), recurrent_init=_uniform(scale), forget_bias=0.0)
    rate = size["dropout"]
    return ConfigDict(
        dict(
            seed=0,
            steps=size["steps"],
            # Streams side by side. An update costs the same whatever they are: 40 take 0.16 ms a word, 20 take 0.25.
            batch_size=20 if published else 40,
            eval_batch_size=10,
            log_every=200,
            eval_every=2983 if published else 2000,
            checkpoint_every=1000,
            task=dict(name="language_model", dataset="wikitext-2", window=35),
            model=dict(
                cell=cell,
                layers=size["layers"],
                embedding=size["features"],
                embedding_init=_uniform(scale),
                readout_init=_uniform(scale),
                softmax=dict(tied=size["tied"], samples=size["samples"]),
                dropout=dict(input=rate, between=rate, output=rate),
            ),
            optimizer=SGD if published else ADAM,
        )
    )
