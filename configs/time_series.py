"""Classification of time series of the UEA and UCR archive, or of your own files.

    python -m rnnlab.train --config=configs/time_series.py --data_dir=DATA               # in runs/time_series
    python -m rnnlab.train --config=configs/time_series.py:BasicMotions --data_dir=DATA  # or another set's name
    python -m rnnlab.train --config=configs/time_series.py --config.task.path=FOLDER     # of NAME_TRAIN, NAME_TEST
    python -m rnnlab.evaluate --workdir=runs/time_series --data_dir=DATA                 # and what is confused

The archive: https://timeseriesclassification.com, whose zip files are unpacked below DATA, all of them or a set at a
time (DATA/EigenWorms/EigenWorms_TRAIN.ts). A few small sets, these two among them, come with the package aeon, in its
folder aeon/datasets/data. docs/series.md has the layouts of other files.

Test accuracy, seeds 0, 1, 2, 2 cores of an Intel Xeon (AVX-512), 1500 steps in 20 s: JapaneseVowels (9 speakers, 7 to
29 steps of 12 channels, 270 series to train and validate) 0.984, 0.978, 0.973; BasicMotions (4 classes, 100 steps of 6
channels, 40 series) 0.975, 0.925, 0.825.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "JapaneseVowels") -> ConfigDict:
    """preset: a set's name in the data folder."""
    return ConfigDict(
        dict(
            seed=0,
            steps=1500,
            batch_size=16,  # Rows of all devices together.
            log_every=50,
            eval_every=50,
            eval_batch_size=100,
            checkpoint_every=250,
            task=dict(name="time_series", path=preset),
            model=dict(cell=dict(name="gru", features=64), bidirectional=True, dropout=dict(output=0.5)),
            optimizer=dict(name="adam", learning_rate=2e-3, clip_norm=1.0, schedule=dict(name="cosine")),
            early_stopping=dict(metric="loss"),
        )
    )
