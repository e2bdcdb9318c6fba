"""Export, generate and score on a study that was trained: files load elsewhere, pictures say how they were made, a row stands beside ours."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sweep.cli import main
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.recorded_study import RecordedStudy
from sweep.records import EVALUATIONS, IMAGES, Records, as_rows
from sweep.worker import known_outcomes
from tests.sweep.test_repeatability import launched
from trainables.kohya import kohya_tensors
from trainables.lora import Adapter


@pytest.fixture(scope="module")
def whole(model, subject):
    from sweep.study import Epochs, Objective, Study

    return Study(
        name="s",
        subject=subject,
        model=model,
        rows=[{"rank": 2, "guidance": 1.5}, {"rank": 4, "alpha": 6.0, "guidance": 4.0}],
        fixed={"caption": "v1", "steps": 2, "images_per_prompt": 1, "targets": "attention+ff+conv", "train_text_encoder": True},
        epochs=Epochs(max=2, rungs=(1,)),
        objective=Objective(lpips=0.5, fid=0.5, scales={"lpips": 1.0, "fid": 100.0}),
        perceptual="embedded:perceptual",
        pooled="embedded:pooled",
    )


@pytest.fixture(scope="module")
def storage(whole, tmp_path_factory):
    """A storage with the study of two trials in it, run and recorded. Tests that write to its records copy it."""
    storage = tmp_path_factory.mktemp("storage")
    launched(whole, storage, max_concurrent=2)
    StudyFolder(storage, "s").write_study(whole, Keys(whole).content_digests())
    return storage


def recorded(storage) -> RecordedStudy:
    return RecordedStudy(StudyFolder(storage, "s"))


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def error_of(capsys, *arguments) -> str:
    """The one line on stderr of a command that ended with exit code 2."""
    capsys.readouterr()
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


# Export


def test_the_best_adapter_is_exported_with_its_history_and_diffusers_loads_it(storage, whole, model, subject, tmp_path, capsys):
    file = tmp_path / "jenny.safetensors"
    assert run("export", "s", "--best", "-o", file, "--storage", storage) == 0
    best = min(recorded(storage).trials, key=lambda row: row["objective"])
    assert best["trial"] in capsys.readouterr().out
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    rank = best["configuration"]["rank"]
    assert (metadata["ss_network_dim"], metadata["ss_epoch"], metadata["ss_v2"]) == (str(rank), str(best["best_epoch"]), "False")
    assert metadata["ss_steps"] == str(2 * best["best_epoch"])  # four images in batches of two
    assert json.loads(metadata["ss_tag_frequency"]) == {recorded(storage).subject.name: {"J3NN13": 4}}
    assert metadata["modelspec.trigger_phrase"] == "J3NN13" and metadata["ss_resolution"] == "(64, 64)"
    assert json.loads(metadata["ss_network_args"])["conv_dim"] == str(rank)
    for text in ("study s", best["trial"], f"objective {best['objective']:.4f}", "lpips", "J3NN13, smile"):
        assert text in metadata["ss_training_comment"]
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    adapter = recorded(storage).choose(None).load()
    layer = pipeline.unet.get_submodule("mid_block.resnets.0.conv1")
    torch.testing.assert_close(layer.lora_A[layer.active_adapters[0]].weight.flatten(1), adapter.layers["mid_block.resnets.0.conv1"][0].T)
    assert layer.scaling[layer.active_adapters[0]] == adapter.scale


def test_each_adapter_has_a_name_of_its_own_and_equal_exports_are_equal_files(storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choices = [("t0000", 1), ("t0000", 2), ("t0001", 1)]
    for trial, epoch in choices:
        assert run("export", "s", "--trial", trial, "--epoch", epoch, "--storage", storage) == 0
    files = sorted(tmp_path.iterdir())
    assert [f.name[:10] for f in files] == ["s-t0000-e1", "s-t0000-e2", "s-t0001-e1"]
    first = files[0].read_bytes()
    assert run("export", "s", "--trial", "t0000", "--epoch", 1, "--replace", "--storage", storage) == 0 and files[0].read_bytes() == first
    names = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names.append(opened.metadata()["ss_output_name"])
    assert names == [file.stem for file in files]


def test_a_fused_checkpoint_is_the_model_that_scored_the_adapter_with_it(storage, model, tmp_path):
    folder = tmp_path / "fused"
    assert run("export", "s", "--trial", "t0001", "--epoch", 2, "--fuse", "-o", folder, "--storage", storage) == 0
    adapter = recorded(storage).choose("t0001", 2).load()
    name = "mid_block.resnets.0.conv1"
    a, b = adapter.layers[name]
    base, fused = (load_file(f"{f}/unet/diffusion_pytorch_model.safetensors")[f"{name}.weight"] for f in (model, folder))
    torch.testing.assert_close(fused - base, ((a @ b) * adapter.scale).T.view(base.shape), rtol=1e-4, atol=1e-6)


def test_what_an_export_cannot_do_is_one_line_and_writes_nothing(storage, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    cases = [
        ((), "either --best or --trial"),
        (("--best", "--trial", "t0001"), "both --best and --trial t0001"),
        (("--trial", "t0009"), "'t0009'"),
        (("--best", "--epoch", "7"), "not at 7"),
        (("--best", "--format", "ckpt"), "'ckpt'"),
        (("--best", "--model", "sd15"), "--fuse"),
        (("--best", "--fuse"), "is a folder in diffusers' layout"),
    ]
    for options, says in cases:
        assert says in error_of(capsys, "export", "s", *options, "-o", out, "--storage", storage)
    assert "no study 'nope'" in error_of(capsys, "export", "nope", "--best", "--storage", storage)
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    assert "--replace" in error_of(capsys, "export", "s", "--best", "-o", out, "--storage", storage) and out.read_text() == "mine"


# Generate


def test_pictures_carry_their_settings_and_equal_those_of_the_pipeline_with_the_exported_file(storage, model, tmp_path):
    out = tmp_path / "out"
    options = ("--prompt", "{trigger}, smile", "--negative", "blurry, bad", "--steps", 2, "--guidance", 3, "--seed", 5, "--n", 2)
    assert run("generate", "s", "--trial", "t0001", "--epoch", 2, *options, "-o", out, "--storage", storage) == 0
    assert sorted(p.name for p in out.iterdir()) == ["00000-5.png", "00001-6.png"]
    assert run("generate", "s", "--trial", "t0001", "--epoch", 2, *options, "-o", out, "--storage", storage) == 0
    assert sorted(p.name for p in out.iterdir()) == ["00000-5.png", "00001-6.png", "00002-5.png", "00003-6.png"]
    picture = Image.open(out / "00000-5.png")
    name = recorded(storage).choose("t0001", 2).name
    file = tmp_path / f"{name}.safetensors"
    assert run("export", "s", "--trial", "t0001", "--epoch", 2, "-o", file, "--storage", storage) == 0
    with safe_open(file, framework="pt") as opened:
        short_hash = opened.metadata()["sshs_model_hash"][:12]
    model_name = model.rpartition("/")[2]
    assert picture.text["parameters"] == (
        f"J3NN13, smile <lora:{name}:1>\nNegative prompt: blurry, bad\n"
        f'Steps: 2, Sampler: DDIM, CFG scale: 3, Seed: 5, Size: 64x64, Model: {model_name}, Lora hashes: "{name}: {short_hash}"'
    )
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    from diffusers import DDIMScheduler

    pipeline.scheduler = DDIMScheduler.from_config({"clip_sample": False, **pipeline.scheduler.config})
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    theirs = pipeline(
        "J3NN13, smile", negative_prompt="blurry, bad", num_inference_steps=2, guidance_scale=3.0, height=64, width=64, output_type="np",
        generator=torch.Generator().manual_seed(5),
    ).images[0]  # fmt: skip
    assert np.abs(np.asarray(picture) / 255 - theirs).max() <= 0.5 / 255 + 1e-5

    own = tmp_path / "own"
    as_file = ("--adapter", file, "--model", model, "--trigger", "J3NN13")
    assert run("generate", *as_file, *options, "-o", own) == 0
    again = Image.open(own / "00000-5.png")
    assert again.text == picture.text
    assert np.abs(np.asarray(again).astype(int) - np.asarray(picture).astype(int)).max() <= 1  # merged into the weights: rounding


def test_what_generate_cannot_do_is_one_line(storage, model, tmp_path, capsys):
    file = tmp_path / "x.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, file)
    prompt = ("--prompt", "{trigger}", "-o", tmp_path / "out", "--storage", storage)
    cases = [
        (("s",), "either --best or --trial"),
        ((), "neither a study nor --adapter"),
        (("--adapter", file), "--model"),
        (("s", "--best", "--adapter", file), "either a study's or a file"),
        (("--adapter", file, "--model", model), "Use --trigger"),
        (("--adapter", file, "--model", model, "--trigger", "x"), "lora_unet_x.lora_down.weight"),
        (("s", "--best", "--denoiser", "heun"), "'heun'"),
        (("s", "--best", "--steps", 0), "`steps`"),
    ]
    for options, says in cases:
        assert says in error_of(capsys, "generate", *options, *prompt)
    assert not (tmp_path / "out").exists()


# Score


@pytest.fixture
def own_storage(storage, tmp_path):
    import shutil

    return shutil.copytree(storage, tmp_path / "storage")


def foreign_file(folder, adapter: Adapter, name: str = "old.safetensors"):
    save_file(kohya_tensors(adapter), folder / name)
    return folder / name


def test_our_own_export_scores_as_its_trial_did_and_joins_the_records_without_a_trial(own_storage, whole, tmp_path, capsys):
    chosen = recorded(own_storage).choose(None)
    file = foreign_file(tmp_path, chosen.load())
    before = Records(own_storage / "s").latest_trials()
    assert run("score", file, "--study", "s", "--storage", own_storage) == 0
    out = capsys.readouterr().out
    assert out.startswith("old: objective") and f"{chosen.trial['trial']}, the best trial: objective" in out and "no adapter: objective" in out
    rows = as_rows(Records(own_storage / "s").evaluations(), EVALUATIONS)
    (row,) = [row for row in rows if row["adapter_file"]]
    assert (row["adapter_file"], row["epoch"], row["configuration"]) == ("old", 0, chosen.scores["configuration"])
    for metric in ("lpips", "diversity", "fid", "kid", "objective"):
        assert row[metric] == pytest.approx(chosen.scores[metric], rel=1e-3)
    images = [image for image in as_rows(Records(own_storage / "s").images(), IMAGES) if image["evaluation_key"] == row["evaluation_key"]]
    assert len(images) == row["n_images"] == 5 and all((own_storage / "s" / image["path"]).exists() for image in images)
    assert Records(own_storage / "s").latest_trials().equals(before)
    assert run("score", file, "--study", "s", "--storage", own_storage) == 0
    assert len(Records(own_storage / "s").evaluations()) == len(rows)

    driver, _ = launched(whole, own_storage, max_concurrent=2)  # a relaunch asks for its own keys only
    assert row["evaluation_key"] in known_outcomes(Records(own_storage / "s"))
    assert row["evaluation_key"] not in {key for trial in driver.trials.values() for _, _, *keys in trial.rungs for key in keys} | set(driver.controls)


def test_another_adapter_and_another_trigger_are_other_rows(own_storage, tmp_path):
    chosen = recorded(own_storage).choose("t0001")
    adapter = chosen.load()
    file = foreign_file(tmp_path, adapter)
    stronger = foreign_file(tmp_path, dataclasses.replace(adapter, alpha=adapter.alpha * 40), "stronger.safetensors")
    for options in ((file,), (stronger,), (file, "--trigger", "jenny")):
        assert run("score", *options, "--study", "s", "--trial", "t0001", "--storage", own_storage) == 0
    rows = [row for row in as_rows(Records(own_storage / "s").evaluations(), EVALUATIONS) if row["adapter_file"]]
    assert len({row["evaluation_key"] for row in rows}) == len({row["lpips"] for row in rows}) == 3
    assert len({row["training_key"] for row in rows}) == 2 and all(row["training_key"].startswith("file:") for row in rows)


def test_without_a_study_a_file_is_scored_and_nothing_is_written(storage, model, subject, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = foreign_file(tmp_path, recorded(storage).choose("t0001").load())
    sets = [part for text in ("steps=2", "images_per_prompt=1", "perceptual=embedded:perceptual", "pooled=embedded:pooled") for part in ("--set", text)]
    assert run("score", file, "--subject", subject, "--model", model, *sets) == 0
    out = capsys.readouterr().out
    assert out.startswith("old: objective") and "5 pictures against 4 images" in out and "embedded:pooled" in out
    assert [path.name for path in tmp_path.iterdir()] == ["old.safetensors"]


def test_what_cannot_be_scored_is_one_line_and_leaves_the_records_alone(own_storage, model, subject, tmp_path, capsys):
    file = foreign_file(tmp_path, recorded(own_storage).choose("t0001").load())
    dora = tmp_path / "dora.safetensors"
    save_file({"lora_unet_x.dora_scale": torch.zeros(1)}, dora)
    torch.save({}, tmp_path / "x.ckpt")
    before = Records(own_storage / "s").evaluations()
    cases = [
        ((file,), "--subject DIR and --model NAME"),
        ((file, "--subject", subject), "--model NAME is missing"),
        ((file, "--study", "s", "--set", "guidance=3"), "--set guidance=3"),
        ((file, "--study", "s", "--subject", "embedded:subject"), "Leave out --subject"),
        ((file, "--study", "s", "--model", "embedded:base"), "but --model is embedded:base"),
        ((file, "--study", "s", "--trial", "t0009"), "'t0009'"),
        ((dora, "--study", "s"), "DoRA"),
        ((tmp_path / "x.ckpt", "--study", "s"), "pickle"),
        ((file, "--subject", subject, "--model", "embedded:base", "--set", "steps=2"), "Use the model it was trained on"),
    ]
    for options, says in cases:
        assert says in error_of(capsys, "score", *options, "--storage", own_storage)
    assert Records(own_storage / "s").evaluations().equals(before)


@pytest.mark.parametrize("seed", [-1, 2**62 + 1, 10**30])
def test_a_seed_that_torch_does_not_take_is_one_line(capsys, seed):
    picture = ["generate", "mine", "--best", "--prompt", "x", "--steps", "1"]
    assert main([*picture, "--seed", str(seed)]) == 2
    said = capsys.readouterr().err
    assert "--seed" in said and len(said.strip().splitlines()) == 1
