"""What if a parameter only exists where another one has a certain value? A define-by-run space of Optuna, for such questions.

Here: is a loss that weighs noise levels alike (min-SNR) or an offset of the noise worth having, each with its own strength where it is on;
and does a rank above 8 want more dropout? The function is called for every trial and returns its configuration; Optuna's own
`trial.suggest_*` says what may vary. The sampler (TPE with group=True) learns each branch from the trials that took it.

    python -m sweep launch search_spaces/conditional.py --set subject=DIR --set model=DIR_OR_HUB_ID"""

from sweep import Epochs, Scale, Study


def space(trial):
    rank = trial.suggest_categorical("rank", [4, 8, 16])
    chosen = {"rank": rank, "alpha": float(rank), "caption": trial.suggest_categorical("caption", ["v1", "v2", "v3"])}
    if rank > 8:
        chosen["dropout"] = trial.suggest_categorical("dropout", [0.1, 0.3])
    loss = trial.suggest_categorical("loss", ["plain", "min-snr", "noise offset"])  # a name of ours: it is no parameter
    if loss == "min-snr":
        chosen["min_snr_gamma"] = trial.suggest_categorical("min_snr_gamma", [1.0, 5.0])
    elif loss == "noise offset":
        chosen["noise_offset"] = trial.suggest_categorical("noise_offset", [0.03, 0.1])
    return chosen


study = Study(
    subject="embedded:subject",
    model="embedded:base",
    space=space,
    epochs=Epochs(max=240, rungs=(30, 90, 240)),
    fixed={"learning_rate": 5e-5, "guidance": 4.0, "steps": 60},
    scales={"embedded": Scale(epochs=1 / 30, learning_rate=20, fixed={"steps": 15})},
    samples=16,
)
