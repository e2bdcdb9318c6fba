"""Do negative prompts help, which of their words do, and is it more at high guidance?

A negative prompt works through guidance: it takes the place of the empty prompt that the picture is led away from. So every one is
tried at several guidances. All of it is evaluation of one training; `python -m analysis tables negative_prompts --pivot negative_prompt
guidance` shows the two together, and `vs baseline` pairs each with no negative prompt at guidance 4, on the same noise.

    python -m sweep launch search_spaces/negative_prompts.py --set subject=DIR --set model=DIR_OR_HUB_ID --set caption=v1"""

from ray import tune

from sweep import Epochs, Scale, Study

FACES = "asymmetric eyes, crossed eyes, distorted face"
PAPER = f"{FACES}, wrong anatomy, malformed hands"
QUALITY = "blurry, low quality, drawing, cartoon"

study = Study(
    subject="embedded:subject",
    model="embedded:base",
    space={
        "negative_prompt": tune.grid_search(["", FACES, PAPER, QUALITY, f"{PAPER}, {QUALITY}"]),
        "guidance": tune.grid_search([2.0, 4.0, 7.5]),
    },
    sampler="grid",
    baseline={"negative_prompt": "", "guidance": 4.0},
    epochs=Epochs(max=300),
    fixed={"caption": "v2", "rank": 32, "alpha": 16.0, "learning_rate": 5e-5, "steps": 60},
    scales={"embedded": Scale(epochs=1 / 25, learning_rate=20, fixed={"steps": 15})},
)
