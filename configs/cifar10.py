"""CIFAR-10 read step by step, by an LSTM of 128 units: 1024 pixels of three colours, or rows followed by noise.

    python -m rnnlab.train --config=configs/cifar10.py             # 1024 steps of 3, in runs/cifar10
    python -m rnnlab.train --config=configs/cifar10.py:noisy_rows  # 32 rows of 96, then noise; also :permuted

The archive (170 MB, cifar-10-binary.tar.gz) is downloaded once, or found in the folder cifar10 of --data_dir or
RNNLAB_DATA.

Not measured: the archive was not at hand where these were written. Steps, batch and learning rate are guesses, and no
accuracy is promised.
"""

from ml_collections import ConfigDict

PRESETS = {
    "scanline": "pixel by pixel, top to bottom, left to right",
    "permuted": "pixel by pixel, by one fixed permutation",
    "noisy_rows": "one row of 96 numbers per step, 32 steps, then 968 of noise (Chang et al., 2019)",
}


def get_config(preset: str = "scanline") -> ConfigDict:
    """preset: a key of PRESETS, the order in which the pixels are read."""
    if preset not in PRESETS:
        raise KeyError(preset)
    return ConfigDict(
        dict(
            seed=0,
            steps=90_000,  # 200 epochs of 45 000 images.
            batch_size=100,  # Rows of all devices together.
            eval_batch_size=100,
            log_every=500,
            eval_every=2250,
            checkpoint_every=2250,
            task=dict(name="pixels", dataset="cifar10", order=preset, white=1.0, validation_size=5000),
            # Biases for dependencies of as many steps as the sequence has (Tallec and Ollivier, 2018).
            model=dict(cell=dict(name="lstm", features=128, chrono=1000 if preset == "noisy_rows" else 1024)),
            optimizer=dict(name="adam", learning_rate=1e-3, clip_norm=1.0, schedule=dict(name="cosine")),
            early_stopping=dict(metric="accuracy"),  # It chooses the best checkpoint; nothing stops early.
        )
    )
