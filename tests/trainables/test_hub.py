"""Models on the hub: a stand-in for the network that copies what a download's patterns would let through, and real caches, offline."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.trainables.layouts import change_config, offline, put_into_hub_cache
from trainables.errors import ModelError
from trainables.models import model_digest, resolve_model


@pytest.fixture
def hub(monkeypatch, tmp_path: Path) -> SimpleNamespace:
    """`hub.online[name] = folder` can be downloaded into the cache `hub.cached`; `hub.calls` lists (name, local only, patterns)."""
    import fnmatch

    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    state = SimpleNamespace(online={}, cached=tmp_path / "cache", calls=[])

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        state.calls.append((name, local_files_only, allow_patterns))
        target = state.cached / name
        if not local_files_only and name in state.online:
            for file in (f for f in state.online[name].rglob("*") if f.is_file()):
                relative = file.relative_to(state.online[name])
                if any(fnmatch.fnmatch(str(relative), pattern) for pattern in allow_patterns):
                    (target / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target / relative)
        if not target.exists():
            raise LocalEntryNotFoundError("Name or service not known.\nPlease check your internet connection.")
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def test_a_hub_model_is_downloaded_once_without_pickles_and_single_files(hub, tiny_model_copy: Path) -> None:
    (tiny_model_copy / "v1-5-pruned.safetensors").write_bytes(b"4 GB")
    (tiny_model_copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    hub.online["someone/model"] = tiny_model_copy
    source = resolve_model("someone/model")
    folder = source.unet.folder.parent
    downloaded = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    assert "unet/diffusion_pytorch_model.safetensors" in downloaded
    assert not downloaded & {"v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin"}
    hub.calls.clear()
    assert resolve_model("someone/model") == source
    assert [local_only for _, local_only, _ in hub.calls] == [True]


def test_the_old_name_of_sd15_is_mapped_to_the_new_one_with_a_note(hub, tiny_model_copy: Path) -> None:
    hub.online["stable-diffusion-v1-5/stable-diffusion-v1-5"] = tiny_model_copy
    with pytest.warns(UserWarning, match="runwayml/stable-diffusion-v1-5 is gone"):
        old = resolve_model("runwayml/stable-diffusion-v1-5")
    assert old == resolve_model("sd15") and old.name == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_realistic_vision_gets_its_usual_vae_though_its_folder_holds_one(hub, tiny_model_copy: Path) -> None:
    hub.online["SG161222/Realistic_Vision_V5.1_noVAE"] = tiny_model_copy
    hub.online["stabilityai/sd-vae-ft-mse"] = tiny_model_copy / "vae"
    source = resolve_model("realistic-vision")
    assert (source.vae_name, source.vae.folder) == ("stabilityai/sd-vae-ft-mse", hub.cached / "stabilityai/sd-vae-ft-mse")


def test_a_hub_model_with_fp16_files_only_is_downloaded_in_fp16(hub, tiny_model_copy: Path) -> None:
    for file in list(tiny_model_copy.rglob("*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    hub.online["someone/half"] = tiny_model_copy
    assert resolve_model("someone/half").unet.weights.name == "diffusion_pytorch_model.fp16.safetensors"


def test_a_hub_model_of_another_family_is_refused_before_its_weights_are_downloaded(hub, tiny_model_copy: Path) -> None:
    change_config(tiny_model_copy, "model_index.json", _class_name="StableDiffusionXLPipeline")
    hub.online["someone/xl"] = tiny_model_copy
    with pytest.raises(ModelError, match="someone/xl is a StableDiffusionXLPipeline"):
        resolve_model("someone/xl")
    assert not list(hub.cached.rglob("*.safetensors"))


def test_a_hub_model_that_cannot_be_had_offline_is_an_error_with_the_way_out(hub) -> None:
    with pytest.raises(ModelError, match=r"someone/model is no folder here.*\(Name or service not known\).*give a folder\."):
        resolve_model("someone/model")


# Real caches, no network


RESOLVE = """
from trainables.model_sources import model_digest, resolve_model
from trainables.errors import ModelError
try:
    source = resolve_model({name!r})
    print(source.unet.weights.name, source.vae.weights, model_digest(source))
except ModelError as error:
    print(error)
"""


def files_of(folder: Path, *, variant: str = "") -> dict[str, bytes]:
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    return {name.replace(".safetensors", f"{variant}.safetensors"): content for name, content in files.items()}


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_cached_model_needs_no_network_in_either_precision(variant: str, sd15_dir: Path, tmp_path: Path) -> None:
    files = files_of(sd15_dir, variant=variant) | {"v1-5-pruned-emaonly.ckpt": b"a pickle of 4 GB"}
    snapshot = put_into_hub_cache(tmp_path, "stable-diffusion-v1-5/stable-diffusion-v1-5", files)
    weights, vae, digest = offline(RESOLVE.format(name="sd15"), tmp_path).split()
    assert weights == f"diffusion_pytorch_model{variant}.safetensors" and Path(vae).is_relative_to(snapshot)
    if not variant:
        assert digest == model_digest(resolve_model(str(sd15_dir)))


def test_a_cached_precision_is_enough_though_the_client_knows_of_another(tiny_model_dir: Path, tmp_path: Path) -> None:
    tree = pytest.importorskip("huggingface_hub._tree_cache", reason="this client keeps no listing of what a repository holds")
    full, half = files_of(tiny_model_dir), files_of(tiny_model_dir, variant=".fp16")
    snapshot = put_into_hub_cache(tmp_path, "someone/model", half)
    listing = {
        name: tree.TreeCacheEntry(size=len(content), blob_id="0", lfs_sha256=None, lfs_size=None, xet_hash=None)
        for name, content in (full | half).items()
    }
    tree.write_tree_cache(str(snapshot.parents[1]), snapshot.name, listing)
    assert offline(RESOLVE.format(name="someone/model"), tmp_path).startswith("diffusion_pytorch_model.fp16.safetensors")


def test_realistic_vision_and_its_usual_vae_from_a_cache(sd15_dir: Path, tmp_path: Path) -> None:
    put_into_hub_cache(tmp_path, "SG161222/Realistic_Vision_V5.1_noVAE", files_of(sd15_dir))
    said = offline(RESOLVE.format(name="realistic-vision"), tmp_path)
    assert said.startswith("stabilityai/sd-vae-ft-mse is no folder here and not in the local hub cache") and said.endswith("give a folder.")
    snapshot = put_into_hub_cache(tmp_path, "stabilityai/sd-vae-ft-mse", files_of(sd15_dir / "vae"))
    assert offline(RESOLVE.format(name="realistic-vision"), tmp_path).split()[1] == str(snapshot / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (lambda files: {n.replace(".safetensors", ".bin"): c for n, c in files.items()}, "holds only pickles"),
        (lambda files: {n: c for n, c in files.items() if not n.startswith("unet/diffusion")}, "unet needs diffusion_pytorch_model.safetensors"),
        (lambda files: {n: c for n, c in files.items() if not n.startswith("vae/")}, "has no vae/ of its own"),
    ],
    ids=["pickles", "no weights", "no vae"],
)
def test_a_cache_that_lacks_something_says_what(spoil, expected: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    put_into_hub_cache(tmp_path, "someone/model", spoil(files_of(tiny_model_dir)))
    assert expected in offline(RESOLVE.format(name="someone/model"), tmp_path)


def test_a_cached_file_with_another_hash_than_the_hub_gave_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    snapshot = put_into_hub_cache(tmp_path, "someone/model", files_of(tiny_model_dir))
    file = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.resolve().write_bytes(content)
    said = offline(RESOLVE.format(name="someone/model"), tmp_path)
    assert f"{file} must have the sha256 {file.resolve().name[:8]}..." in said and said.endswith("download it again.")
