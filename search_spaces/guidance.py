"""Which guidance suits an adapter? One training, and a sampler that looks for the guidance between 1 and 12.

Guidance is an evaluation parameter: it retrains nothing, so a continuous range costs one image set per trial and no training besides
the first. 1 is no guidance at all; the paper compares 4, 6 and 7.5, and sees artefacts at 7.5. These three are tried first.

    python -m sweep launch search_spaces/guidance.py --set subject=DIR --set model=DIR_OR_HUB_ID --set caption=v1"""

from ray import tune

from sweep import Epochs, Scale, Study

study = Study(
    subject="embedded:subject",
    model="embedded:base",
    space={"guidance": tune.uniform(1.0, 12.0)},
    try_first=[{"guidance": 4.0}, {"guidance": 6.0}, {"guidance": 7.5}],
    epochs=Epochs(max=300),
    fixed={"caption": "v2", "rank": 32, "alpha": 16.0, "learning_rate": 5e-5, "steps": 60},
    scales={"embedded": Scale(epochs=1 / 25, learning_rate=20, fixed={"steps": 15})},
    early_stopping="off",  # every trial reads the same adapter: there is nothing to save
    samples=20,
)
