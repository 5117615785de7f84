"""The XOR problem: a GRU remembers two bits over 50 to 54 steps and says whether they differ; short rows first.

    python -m rnnlab.train --config=configs/xor.py

Seeds 0, 1 and 2, one core of an Intel Xeon (AVX-512) with much other work beside, 90 to 112 s of training each: all of
10 000 test sequences right after 4000 steps, solved (fewer than 1 % wrong) at step 2000, 2500 and 2000. At T = 50 from
the start a GRU answers by chance after 6000 steps, and with `chrono` after 8000 (one seed each): nothing is gained by
remembering one bit.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            steps=4000,
            batch_size=32,
            log_every=100,
            eval_every=500,
            checkpoint_every=1000,
            task=dict(name="xor", length=50),
            curriculum=dict(field="length", values=(10, 25), metric="accuracy", threshold=0.98),
            model=dict(cell=dict(name="gru", features=64)),
            optimizer=dict(name="adam", learning_rate=5e-3, clip_norm=1.0, schedule=dict(name="cosine")),
        )
    )
