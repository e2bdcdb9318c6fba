"""Which captions, and with which rank, strength, learning rate, epochs and guidance, make an adapter that is closest to the subject?

Runs on the built-in subject and model as it stands. On your own photographs and model:

    python -m sweep launch search_spaces/captions.py --set subject=DIR --set model=DIR_OR_HUB_ID

Every training value is discrete on purpose: trials that draw the same ones share a single training and differ in guidance only,
which costs no training at all. A continuous learning rate would never repeat, and every trial would train alone."""

from ray import tune

from sweep import Epochs, Objective, Study

study = Study(
    subject="embedded:subject",
    model="embedded:base",
    space={
        "caption": tune.choice(["v1", "v2", "v3", "v4"]),  # trigger alone, detailed tags, fewer tags, a sentence
        "rank": tune.choice([4, 16]),
        "alpha": tune.choice([8.0, 16.0]),  # what matters is alpha / rank: 0.5 to 4 here
        "learning_rate": tune.choice([5e-4, 1e-3, 2e-3]),
        "guidance": tune.choice([1.5, 4.0, 7.5]),
    },
    # The length axis: each trial is scored at 1, 3 and 9 epochs, the weak ones stop early, and its best epoch counts.
    epochs=Epochs(max=9, rungs=(1, 3, 9)),
    # Every other trial is paired with this one: the trigger alone, as somebody without captions would begin.
    baseline={"caption": "v1", "rank": 16, "alpha": 16.0, "learning_rate": 1e-3, "guidance": 4.0},
    # Tried before the sampler chooses anything. Put your current settings here.
    try_first=[{"caption": "v2", "rank": 16, "alpha": 16.0, "learning_rate": 1e-3, "guidance": 4.0}],
    objective=Objective(lpips=0.5, fid=0.5),
    fixed={"steps": 15},  # denoising steps; enough at 64x64 pixels
    samples=16,
)
