"""Does a higher rank make a better adapter, or only the strength and the learning rate that come with it?

An adapter counts with alpha / rank. So a sweep over alpha at a fixed learning rate sweeps the effective learning rate as well: with
Adam, alpha divided by k needs a learning rate of about sqrt(k) times as much to train alike. Every ratio other than 1 is therefore
listed twice, at the base rate and at the rate that makes up for it; if rank itself matters, it does so in both. alpha / rank is kept
as a label of each trial, and stands in `python -m analysis tables rank_alpha`.

    python -m sweep launch search_spaces/rank_alpha.py --set subject=DIR --set model=DIR_OR_HUB_ID"""

import math

from sweep import Epochs, Scale, Study

RANKS = (4, 8, 16, 32)
RATIOS = (0.5, 1.0, 2.0)  # alpha / rank
BASE_RATE = 1e-4

study = Study(
    subject="embedded:subject",
    model="embedded:base",
    rows=[
        {
            "rank": rank,
            "alpha": ratio * rank,
            "learning_rate": rate,
            "labels": {"alpha/rank": ratio, "rate": "base" if rate == BASE_RATE else "made up for"},
        }
        for rank in RANKS
        for ratio in RATIOS
        for rate in dict.fromkeys((BASE_RATE, BASE_RATE / math.sqrt(ratio)))
    ],
    epochs=Epochs(max=180, rungs=(60, 180)),
    fixed={"caption": "v2", "guidance": 4.0, "steps": 60},
    scales={"embedded": Scale(epochs=1 / 20, learning_rate=10, fixed={"steps": 15})},
    early_stopping=2,  # listed rows run to their end otherwise
)
