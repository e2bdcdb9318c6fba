"""Does the published study hold? SD1.5 or Realistic Vision, three caption versions, two models to infer with, three guidances.

Tables 4 and 5 of "Personalized image generation with Stable Diffusion: PyTorch LoRA fine-tuning approach" (OTH Amberg-Weiden, 2026):
24 rows from 4 trainings, and experiment 0, a fifth training that is in no table. Runs on the built-in models and subject as it
stands, at the scale that is stated below. On your own, with the paper's numbers:

    python -m sweep launch search_spaces/paper.py --set subject=DIR --set alias.sd15=DIR --set alias.realistic-vision=DIR
    python -m analysis paper paper       # both tables beside the published values, the figure, sample grids

`--set scale=full` keeps the paper's numbers on the built-in models too. Early stopping is off, as it was there: every row is complete."""

from sweep import Epochs, Prompt, Scale, Study

# experiment -> (train_model, caption). The paper's folders v1, v3, v4 are v1, v2, v3 here. Table 4 infers with Realistic Vision, Table 5
# with SD1.5. Read by the text: the paper's Table 4 prints the two models of experiment 4 the other way round.
TRAININGS = {1: ("realistic-vision", "v1"), 2: ("realistic-vision", "v2"), 3: ("realistic-vision", "v3"), 4: ("sd15", "v3")}
INFER_MODELS = {4: "realistic-vision", 5: "sd15"}

rows = [  # guidance by guidance, so that all trainings begin at once
    {
        "train_model": train_model,
        "caption": caption,
        "infer_model": infer_model,
        "guidance": guidance,
        "labels": {"table": table, "experiment": experiment, "guidance": guidance},
    }
    for guidance in (4.0, 6.0, 7.5)
    for table, infer_model in INFER_MODELS.items()
    for experiment, (train_model, caption) in TRAININGS.items()
]
# 100 epochs of the trigger word alone, "too short". The paper prints no numbers of it; it is scored as its best rows are, at guidance 4.
too_short = {
    "train_model": "sd15",
    "caption": "v1",
    "infer_model": "sd15",
    "guidance": 4.0,
    "epochs": 100,
    "labels": {"experiment": 0, "guidance": 4.0},
}

study = Study(
    subject="embedded:subject",
    aliases={"sd15": "embedded:base", "realistic-vision": "embedded:realistic"},
    rows=[too_short, *rows],
    epochs=Epochs(max=300),
    fixed={
        "rank": 32,
        "alpha": 16.0,
        "dropout": 0.1,
        "batch": 2,
        "learning_rate": 5e-5,
        "steps": 60,
        "images_per_prompt": 4,
        "negative_prompt": "asymmetric eyes, crossed eyes, distorted face, wrong anatomy, malformed hands",
        "prompts": [  # the paper prints the first two of its five; the others are made of the words of its captions
            Prompt(text="{trigger}, close-up selfie in a room background"),
            Prompt(text="{trigger}, HD quality, RAW photo, good lighting, selfie in a gym background", seen=False),
            Prompt(text="{trigger}, wink, close-up, straight-look, make-up"),
            Prompt(text="{trigger}, close-up, wall background"),
            Prompt(text="{trigger} is smiling at the camera with long black hair", seen=False),
        ],
    },
    # Small models learn in fewer, larger steps: 12 epochs (4 for experiment 0) at a learning rate of 1e-3.
    scales={"embedded": Scale(epochs=1 / 25, learning_rate=20, fixed={"steps": 20})},
    early_stopping="off",
)
