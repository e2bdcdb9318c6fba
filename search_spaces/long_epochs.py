"""How long should it train, and do detailed captions need longer than simple ones?

The paper found 100 epochs too few and 300 needed, and suggests 400 to 1000 for detailed captions. One training per caption version is
scored at every one of these lengths: 300 epochs contain 100, so the whole curve costs no more than its longest point. A trial's value is
that of its best rung, and `rung_values` in the records hold the curve. Nothing is stopped early: a curve is what is asked for.

    python -m sweep launch search_spaces/long_epochs.py --set subject=DIR --set model=DIR_OR_HUB_ID --set space.caption=v1,v2"""

from ray import tune

from sweep import Epochs, Scale, Study

study = Study(
    subject="embedded:subject",
    model="embedded:base",
    space={"caption": tune.grid_search(["v1", "v2", "v3", "v4"])},
    sampler="grid",
    epochs=Epochs(max=1000, rungs=(100, 200, 300, 400, 700, 1000)),
    fixed={"rank": 32, "alpha": 16.0, "learning_rate": 5e-5, "guidance": 4.0, "steps": 60},
    scales={"embedded": Scale(epochs=1 / 25, learning_rate=20, fixed={"steps": 15})},  # 4 to 40 epochs
    early_stopping="off",
)
