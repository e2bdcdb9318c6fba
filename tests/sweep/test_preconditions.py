"""What a launch refuses, a plan says: all of it at once, and what can be fetched as a note. Starts no Ray, loads no torch."""

import json
import os
import re
import shlex

import pytest
from PIL import Image

from sweep.cli import main
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.study import Study, load_study
from tests.sweep.test_cli import STUDY

NOTHING_HERE = {"HF_HUB_OFFLINE": "1", "HF_HOME": "hub", "TORCH_HOME": "torch"}


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    """A study in an empty folder, on a machine that has downloaded nothing."""
    monkeypatch.chdir(tmp_path)
    for name, folder in NOTHING_HERE.items():
        monkeypatch.setenv(name, folder if folder == "1" else str(tmp_path / folder))
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "mine.py").write_text(STUDY)
    return tmp_path / "mine.py"


def ended(capsys, *arguments) -> tuple[int, list[str], list[str]]:
    """The exit code, the errors, and the notes of a command."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    errors = [
        line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")
    ]
    return (
        code,
        errors,
        [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")],
    )


def sets(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


def folders(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "subject.json").write_text(json.dumps({"trigger": "jenny"}))


REFUSED = [
    (["caption=v9"], ["'v9'.*has v1, v2, v3, v4"]),
    (["model=/no/such/model"], ["/no/such/model"]),
    (["infer_model=sd51"], ["'sd51'.*Did you mean sd15"]),
    (["vae=/no/vae.safetensors"], ["no file /no/vae.safetensors"]),
    (["model=sd15", "vae=/no/vae"], ["/no/vae"]),
    (["model=empty"], ["unet/"]),
    (["subject=/no/such/subject"], ["/no/such/subject"]),
    (["subject=empty"], ["empty has none", "empty has no subject.json"]),
    (["subject=photos"], ["'v2'.*photos has v1. Use --set caption=v1"]),
    (["mask_weight=2"], ["needs masks"]),
    (["prior_images=/no/women", "prior_prompt=a woman"], ["/no/women"]),
    (["caption=v9", "model=/no/such/model"], ["'v9'", "/no/such/model"]),
    (["caption=v9", "mask_weight=2", "train_model=/no/m", "infer_model=/no/n", "prior_images=/no/w", "prior_prompt=w"],
     ["'v9'", "needs masks", "/no/m", "/no/n", "/no/w"]),
]  # fmt: skip


@pytest.mark.parametrize("texts, lines", REFUSED, ids=lambda value: " ".join(value)[:40])
def test_a_plan_a_trial_and_a_launch_refuse_the_same_things_all_at_once(
    study_file, tmp_path, capsys, texts, lines
):
    folders(tmp_path)
    there = sorted(os.listdir(tmp_path))
    code, errors, _ = ended(capsys, "plan", study_file, *sets(*texts))
    assert code == 2 and len(errors) == len(lines)
    assert all(re.search(line, error) for line, error in zip(lines, errors, strict=True)), errors
    assert ended(capsys, "trial", study_file, *sets(*texts))[:2] == (2, errors)
    assert ended(capsys, "launch", study_file, *sets(*texts))[:2] == (2, errors)
    assert sorted(os.listdir(tmp_path)) == there


@pytest.mark.parametrize("place", ["rows", "try_first", "baseline", "fan_out", "space"])
def test_a_model_that_is_not_there_is_told_wherever_the_study_names_it(
    study_file, tmp_path, capsys, place
):
    given = {
        "rows": "rows=[{'rank': 4}, {'rank': 8, 'infer_model': '/no/m'}]",
        "try_first": "space={'infer_model': tune.choice(['embedded:base', '/no/m'])}, try_first=[{'infer_model': '/no/m'}]",
        "baseline": "space={'infer_model': tune.choice(['embedded:base', '/no/m'])}, baseline={'infer_model': '/no/m'}",
        "fan_out": "rows=[{'rank': 4}], fan_out={'infer_model': ['embedded:base', '/no/m']}",
        "space": "space={'infer_model': tune.choice(['embedded:base', '/no/m'])}",
    }
    study_file.write_text(
        f"from ray import tune\nfrom sweep import Study\nstudy = Study({given[place]})"
    )
    for command in ("plan", "launch"):
        code, errors, _ = ended(
            capsys,
            command,
            study_file,
            *sets("perceptual=embedded:perceptual", "pooled=embedded:pooled"),
        )
        assert code == 2 and len(errors) == 1 and "/no/m" in errors[0], (command, errors)


def test_caption_versions_of_rows_are_told_together(study_file, capsys):
    study_file.write_text(
        "from sweep import Study\nstudy = Study(rows=[{'caption': 'v2'}, {'caption': 'v8'}, {'caption': 'v9'}])"
    )
    code, (error,), _ = ended(capsys, "plan", study_file)
    assert code == 2 and "'v8', 'v9'" in error and "--set caption=v4" in error
    assert ended(capsys, "plan", study_file, *sets("caption=v4"))[0] == 0


def test_what_is_merely_not_downloaded_is_a_note_with_its_command_and_the_plan_goes_on(
    study_file, capsys
):
    code, errors, notes = ended(capsys, "plan", study_file, *sets("model=sd15"))
    assert (code, errors) == (0, []) and len(notes) == 3
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in notes[0]
    assert "alexnet-owt-7be5be79.pth" in notes[1] and "torchvision" in notes[1]
    assert (
        "weights-inception" in notes[2]
        and "embedded:perceptual --set pooled=embedded:pooled" in notes[2]
    )
    without = sets(
        "model=someone/model",
        "vae=stabilityai/sd-vae-ft-mse",
        "perceptual=embedded:perceptual",
        "pooled=embedded:pooled",
    )
    code, errors, notes = ended(capsys, "plan", study_file, *without)
    assert (code, errors) == (0, []) and [note.split()[0] for note in notes] == [
        "stabilityai/sd-vae-ft-mse",
        "someone/model",
    ]


def test_a_launch_without_its_scoring_weights_is_refused_before_it_downloads_a_model(
    study_file, tmp_path, capsys, monkeypatch
):
    import huggingface_hub

    asked = []
    whole = huggingface_hub.snapshot_download

    def watched(name, **options):
        asked.append(options["local_files_only"])
        return whole(name, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    code, errors, _ = ended(capsys, "launch", study_file, *sets("model=sd15"))
    assert code == 2 and len(errors) == 2 and all("is not there" in error for error in errors)
    assert asked and all(asked) and not (tmp_path / "sweeps").exists()
    code, errors, _ = ended(
        capsys,
        "launch",
        study_file,
        *sets("model=sd15", "perceptual=embedded:perceptual", "pooled=embedded:pooled"),
    )
    assert (
        code == 2 and len(errors) == 1 and "stable-diffusion-v1-5" in errors[0] and not all(asked)
    )


def test_a_further_metric_is_a_note_and_refuses_a_launch_only_where_the_objective_needs_it(
    study_file, capsys
):
    code, _, notes = ended(capsys, "plan", study_file, *sets("metrics=dinov2,face"))
    assert (
        code == 0
        and "hf download facebook/dinov2-base" in notes[0]
        and "Without it that metric is left out" in notes[1]
    )
    study_file.write_text(
        "from sweep import Objective, Study\nstudy = Study(metrics=('dinov2', 'face=/no/faces'), objective=Objective(dinov2=1, face=1))"
    )
    for command in ("plan", "launch"):
        code, (error,), _ = ended(capsys, command, study_file)
        assert code == 2 and "/no/faces" in error
    study_file.write_text(
        "from sweep import Objective, Study\nstudy = Study(metrics=('dinov2',), objective=Objective(dinov2=1))"
    )
    assert ended(capsys, "plan", study_file)[0] == 0
    code, (error,), _ = ended(capsys, "launch", study_file)
    assert code == 2 and "hf download facebook/dinov2-base" in error


def test_a_logger_that_is_not_installed_and_a_storage_that_cannot_be_written_are_told_together(
    study_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(__import__("sweep.loggers").loggers.MODULES, "mlflow", "no_such_package")
    (tmp_path / "file").write_text("")
    for command in ("plan", "launch"):
        code, errors, _ = ended(
            capsys,
            command,
            study_file,
            "--logger",
            "mlflow",
            "--storage",
            tmp_path / "file" / "sweeps",
        )
        assert (
            code == 2
            and len(errors) == 2
            and "pip install" in errors[0]
            and "--storage DIR" in errors[1]
        )
    assert (tmp_path / "file").read_text() == ""


def test_a_plan_under_a_name_whose_records_are_of_something_else_is_refused_with_a_name_that_is_free(
    study_file, tmp_path, capsys
):
    study = load_study(study_file)
    StudyFolder(tmp_path / "sweeps", "mine").write_study(study, Keys(study).content_digests())
    assert ended(capsys, "plan", study_file, "--samples", 9)[:2] == (0, [])
    code, (error,), _ = ended(capsys, "plan", study_file, *sets("model=embedded:realistic"))
    assert code == 2 and "--name mine-2" in error
    assert ended(capsys, "plan", study_file, *sets("model=embedded:realistic"), "--name", "mine-2")[
        :2
    ] == (0, [])


def test_a_plan_of_a_study_that_runs_says_so(study_file, tmp_path, capsys):
    study = load_study(study_file)
    folder = StudyFolder(tmp_path / "sweeps", "mine")
    folder.write_study(study, Keys(study).content_digests())
    with folder.held("elsewhere"):
        code, errors, notes = ended(capsys, "plan", study_file)
    assert (code, errors) == (0, []) and any("mine runs now" in note for note in notes)


def test_of_a_study_for_a_cluster_only_what_no_machine_can_have_is_refused(study_file, tmp_path):
    from sweep.preconditions import unmet_elsewhere

    def problems(**fields) -> list[str]:
        return [str(problem) for problem in unmet_elsewhere(Keys(Study(**fields))).problems]

    assert problems(subject="/mnt/photos", model="/mnt/sd15", loggers=("wandb",)) == []
    assert (
        problems(model="sd15", fixed={"prior_images": "/mnt/women", "prior_prompt": "a woman"})
        == []
    )
    caption, model = problems(fixed={"caption": "v9"}, model="sd51")
    assert "'v9'" in caption and "sd51" in model


def test_many_faults_of_a_subject_are_counted_and_the_command_named_lists_them(
    study_file, tmp_path, capsys
):
    folders(tmp_path)
    subject = tmp_path / "my photos"
    (tmp_path / "photos").rename(subject)
    for i in range(9):
        (subject / f"broken{i}.png").write_bytes(b"no image")
    code, errors, _ = ended(capsys, "plan", study_file, *sets(f"subject={subject}"))
    assert code == 2 and len(errors) == 6 and "4 more things" in errors[-1]
    command = re.search(r"`python -m sweep (.*?)`", errors[-1])[1]
    assert main(shlex.split(command)) == 2 and capsys.readouterr().out.count("error: ") == 9


def test_the_networks_files_are_the_published_ones(tmp_path, monkeypatch):
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision import models

    from trainables.network_files import PUBLISHED, torch_hub

    urls = {
        "lpips:alex": models.AlexNet_Weights.IMAGENET1K_V1.url,
        "lpips:vgg": models.VGG16_Weights.IMAGENET1K_V1.url,
        "lpips:squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url,
        "inception": URL_INCEPTION_V3,
    }
    assert {name: file.name for name, file in PUBLISHED.items()} == {
        name: url.rsplit("/", 1)[1] for name, url in urls.items()
    }
    for changes in (
        {},
        {"XDG_CACHE_HOME": str(tmp_path)},
        {"XDG_CACHE_HOME": str(tmp_path), "TORCH_HOME": "~/t"},
    ):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        assert str(torch_hub()) == torch.hub.get_dir()


@pytest.mark.parametrize("network", ["lpips:alex", "lpips:vgg", "lpips:squeeze", "inception"])
def test_the_command_that_fetches_a_networks_file_puts_it_where_it_is_looked_for(
    network, tmp_path, monkeypatch
):
    import torch

    from trainables.errors import NotDownloadedError
    from trainables.network_files import PUBLISHED, require_network

    class Fetched(Exception):
        pass

    def download(url, target, *args, **options):
        open(target, "wb").close()
        raise Fetched

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(NotDownloadedError, match=re.escape(f"`{PUBLISHED[network].command}`")):
        require_network(network)
    python, dash, program = shlex.split(PUBLISHED[network].command)
    assert (python, dash) == ("python", "-c")
    with pytest.raises(Fetched):
        exec(program, {})
    require_network(network)


@pytest.mark.parametrize(
    "text",
    ["model=sd15", "model=realistic-vision", "vae=stabilityai/sd-vae-ft-mse", "metrics=dinov2"],
)
def test_the_hub_commands_of_a_plan_are_understood_by_the_hubs_own_program(
    study_file, capsys, monkeypatch, text
):
    from huggingface_hub.cli import download as program
    from huggingface_hub.cli.hf import app

    asked = []
    monkeypatch.setattr(
        program, "snapshot_download", lambda **options: asked.append(options) or "/there"
    )
    _, _, notes = ended(capsys, "plan", study_file, *sets(text))
    commands = [
        shlex.split(found[1]) for note in notes if (found := re.search(r"`hf (.*?)`", note))
    ]
    assert commands
    for words in commands:
        app(words, standalone_mode=False)
    assert [options["repo_id"] for options in asked] == [words[1] for words in commands]
