"""Names of base models: found, or refused with the nearest; their VAEs; digests that name content and not place."""

import shutil
import warnings
from pathlib import Path

import pytest

from tests.trainables.layouts import change_config
from trainables import model_sources
from trainables.errors import ModelError
from trainables.models import model_digest, part_digest, resolve_model

# Digests


def test_a_digest_names_content_and_not_place(tiny_model_dir: Path, tiny_model_copy: Path) -> None:
    original, copy = resolve_model(str(tiny_model_dir)), resolve_model(str(tiny_model_copy))
    assert model_digest(original) == model_digest(copy)


@pytest.mark.parametrize(
    "part, file_name",
    [("unet", "config.json"), ("vae", "config.json"), ("scheduler", "scheduler_config.json"), ("tokenizer", "tokenizer.json")],
)
def test_a_digest_changes_with_every_part(part: str, file_name: str, tiny_model_copy: Path) -> None:
    source = resolve_model(str(tiny_model_copy))
    before = {name: part_digest(source, name) for name in ("unet", "vae", "scheduler", "tokenizer", "text_encoder")}
    whole = model_digest(source)
    change_config(tiny_model_copy / part, file_name, note="changed")
    changed = {name for name in before if part_digest(source, name) != before[name]}
    assert changed == {part} and model_digest(source) != whole


def test_a_digest_changes_with_the_weights(tiny_model_dir: Path, make_tiny_model, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "same", seed=0)
    make_tiny_model(tmp_path / "other", seed=1)
    original, same, other = (model_digest(resolve_model(str(folder))) for folder in (tiny_model_dir, tmp_path / "same", tmp_path / "other"))
    assert original == same and original != other


def test_a_safety_checker_and_its_feature_extractor_are_no_part_of_a_model(sd15_dir: Path, tmp_path: Path) -> None:
    assert (sd15_dir / "safety_checker" / "model.safetensors").exists() and (sd15_dir / "feature_extractor").is_dir()
    bare = shutil.copytree(sd15_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("safety_checker", "feature_extractor"))
    assert model_digest(resolve_model(str(bare))) == model_digest(resolve_model(str(sd15_dir)))


# VAEs


def test_a_model_without_vae_takes_the_named_one(tiny_model_dir: Path, tiny_model_copy: Path) -> None:
    shutil.rmtree(tiny_model_copy / "vae")
    for vae in (tiny_model_dir, tiny_model_dir / "vae"):
        source = resolve_model(str(tiny_model_copy), str(vae))
        assert (source.vae.folder, source.vae_name) == (tiny_model_dir / "vae", str(vae))
    assert model_digest(source) == model_digest(resolve_model(str(tiny_model_dir)))


def test_a_model_without_vae_is_refused_with_the_way_out(tiny_model_copy: Path) -> None:
    shutil.rmtree(tiny_model_copy / "vae")
    with pytest.raises(ModelError, match="needs a VAE, but .*model has no vae/ of its own.*--set vae=NAME"):
        resolve_model(str(tiny_model_copy))


def test_a_folder_that_is_no_vae_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no VAE and holds no vae/"):
        resolve_model(str(tiny_model_dir), str(tmp_path))


def test_a_vae_with_other_latents_is_refused_with_both_numbers(tiny_model_copy: Path, tiny_model_dir: Path) -> None:
    change_config(tiny_model_copy / "vae", latent_channels=16)
    with pytest.raises(ModelError, match="makes 16 and .* reads 4"):
        resolve_model(str(tiny_model_dir), str(tiny_model_copy))


def test_the_realistic_model_gets_the_base_models_vae(tiny_model_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(model_sources, "EMBEDDED_FOLDER", tmp_path)
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    shutil.copytree(tiny_model_dir, tmp_path / "realistic", ignore=shutil.ignore_patterns("vae"))
    source = resolve_model("embedded:realistic")
    assert (source.vae_name, source.vae.folder) == ("embedded:base", tmp_path / "base" / "vae")
    assert resolve_model("embedded:base").vae_name == "embedded:base"


def test_a_folder_that_is_called_novae_and_holds_one_uses_it_with_a_note(realistic_vision_dir: Path, sd15_dir: Path) -> None:
    with pytest.warns(UserWarning, match="Realistic_Vision_V5.1_noVAE says that it is made for another VAE.*--set vae=stabilityai/sd-vae-ft-mse"):
        assert resolve_model(str(realistic_vision_dir)).vae.folder == realistic_vision_dir / "vae"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_model(str(realistic_vision_dir), str(sd15_dir)).vae.folder == sd15_dir / "vae"


# Refusals


@pytest.mark.parametrize(
    "name, expected",
    [
        ("embeded:base", "Did you mean embedded:base?"),
        ("sd-15", "Did you mean sd15?"),
        ("no such model", "Known names are embedded:base, embedded:realistic, sd15, realistic-vision"),
        ("embedded:nothing/x", "is none of them"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, expected: str) -> None:
    with pytest.raises(ModelError, match=f"'{name}'.*{expected}"):
        resolve_model(name)
