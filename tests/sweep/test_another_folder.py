"""A study whose subject and model are relative names, used from other folders than the one it was launched in.

Those folders have something else under the same names. Nothing may be taken for what the study had."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from sweep.cli import main
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.launches import Launches, Request, write_launches
from sweep.messages import PHOTOGRAPHS
from sweep.records import EVALUATIONS, Records, as_rows
from sweep.study import Epochs, Objective, Study
from tests.sweep.test_repeatability import launched
from tests.trainables.conftest import write_tiny_model
from trainables.subject import load_subject

FIXED = {"caption": "v1", "steps": 2, "images_per_prompt": 1}
TIMES = ("seconds_generate", "seconds_score", "created_at")


def write_names(folder: Path, *, seed: int, trigger: str) -> None:
    """A subject `photos` and a model `models/tiny`."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for i in range(4):
        pixels = np.random.default_rng(100 * seed + i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    (photos / "subject.json").write_text(json.dumps({"trigger": trigger, "name": "them"}))
    write_tiny_model(folder / "models" / "tiny", seed=seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with `home`, where the study s was launched, and `away`, which has other things of the same names."""
    root = tmp_path_factory.mktemp("made")
    write_names(root / "home", seed=0, trigger="J3NN13")
    write_names(root / "away", seed=1, trigger="decoy")
    study = Study(
        name="s",
        subject="photos",
        model="models/tiny",
        rows=[{"rank": 2}],
        fixed=FIXED,
        epochs=Epochs(max=1),
        objective=Objective(lpips=0.5, fid=0.5, scales={"lpips": 1.0, "fid": 100.0}),
        perceptual="embedded:perceptual",
        pooled="embedded:pooled",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root / "home")
        launched(study, root / "sweeps", max_concurrent=1)
        StudyFolder(root / "sweeps", "s").write_study(study, Keys(study).content_digests())
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    copy = shutil.copytree(made, tmp_path / "copy")
    return with_description(copy, directory=str(copy / "home"))


def with_description(root: Path, **changes) -> Path:
    file = root / "sweeps" / "s" / "study.json"
    described = {**json.loads(file.read_text()), **changes}
    gone = {name for name, value in changes.items() if value is None}
    file.write_text(json.dumps({name: value for name, value in described.items() if name not in gone}))
    return root


def without_directory(root: Path) -> None:
    """As older launches left it: the folder is in launches.json alone."""
    with_description(root, directory=None)
    write_launches(root / "sweeps" / "s" / "launches.json", Launches(Request(directory=str(root / "home"))))


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def exported(root: Path, name: str, *options) -> Path:
    target = root / name
    assert run("export", "s", "--best", *options, "-o", target, "--storage", root / "sweeps") == 0
    return target


def content_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


EXPORTS = [("--format", "kohya"), ("--format", "diffusers"), ("--format", "peft"), ("--fuse",)]


@pytest.mark.parametrize("old", [False, True], ids=["now", "launched before"])
@pytest.mark.parametrize("options", EXPORTS, ids=" ".join)
def test_an_export_is_the_same_file_from_every_folder(root, monkeypatch, capsys, options, old):
    if old:
        without_directory(root)
    files = {}
    for folder in ("home", "away", "home/photos"):
        monkeypatch.chdir(root / folder)
        files[folder] = content_of(exported(root, f"from-{folder.replace('/', '-')}", *options))
    assert files["home"] == files["away"] == files["home/photos"]
    assert "note" not in capsys.readouterr().err
    text = b"".join(files["home"].values())
    assert b"decoy" not in text and (options[-1] in ("diffusers", "peft", "--fuse") or b"J3NN13, smile" in text)


def test_pictures_are_the_same_from_every_folder(root, monkeypatch):
    pictures = {}
    for folder in ("home", "away"):
        monkeypatch.chdir(root / folder)
        target = root / f"pictures-{folder}"
        options = ("--prompt", "{trigger}, smile", "--n", 1, "-o", target, "--storage", root / "sweeps")
        assert run("generate", "s", "--best", *options) == 0
        pictures[folder] = content_of(target)
    assert pictures["home"] == pictures["away"] and b"J3NN13, smile" in b"".join(pictures["away"].values())


def test_a_file_scores_the_same_from_every_folder(root, monkeypatch):
    monkeypatch.chdir(root / "home")
    file = exported(root, "old.safetensors", "--format", "kohya")
    rows = {}
    for folder in ("home", "away"):
        monkeypatch.chdir(root / folder)
        storage = shutil.copytree(root / "sweeps", root / f"sweeps-{folder}")
        assert run("score", file, "--study", "s", "--storage", storage) == 0
        assert run("rescore", "s", "--perceptual", "embedded:perceptual", "--storage", storage) == 0
        rows[folder] = as_rows(Records(storage / "s").evaluations(), EVALUATIONS)
    home, away = ({row["evaluation_key"]: {k: v for k, v in row.items() if k not in TIMES} for row in rows[f]} for f in rows)
    assert home == away and len(home) == 3
    assert {row["configuration"]["infer_model"] for row in away.values()} == {"models/tiny"}


@pytest.mark.parametrize("n_heldout", [0, 1])
def test_records_are_completed_from_every_folder(root, monkeypatch, n_heldout):
    """The subject's own photographs are scored, also where the folder has others of that name."""
    home, away = (root / folder / "photos" for folder in ("home", "away"))
    for photos, n in ((home, n_heldout), (away, 1)):
        rows = [{"file_name": f"{i}.png", "split": "heldout" if i < n else "train"} for i in range(4)]
        (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = load_subject(home).reference_digest
    described = json.loads((root / "sweeps" / "s" / "study.json").read_text())
    with_description(root, content={**described["content"], "images of photos": digest})
    keys = {}
    for folder in ("home", "away"):
        storage = shutil.copytree(root / "sweeps", root / f"sweeps-{folder}")
        monkeypatch.chdir(root / folder)
        assert run("rescore", "s", "--storage", storage) == 0
        found = as_rows(Records(storage / "s").evaluations(), EVALUATIONS)
        keys[folder] = {row["evaluation_key"] for row in found if row["training_key"] == PHOTOGRAPHS}
    assert keys["home"] == keys["away"] and len(keys["home"]) == n_heldout
    (root / "nowhere").mkdir()
    monkeypatch.chdir(root / "nowhere")
    assert run("rescore", "s", "--storage", root / "sweeps-away") == 0


def test_a_project_that_was_moved_is_used_where_it_is_now(root, monkeypatch, capsys):
    monkeypatch.chdir(root / "home")
    before = content_of(exported(root, "before"))
    monkeypatch.chdir(root)
    (root / "home").rename(root / "moved")
    monkeypatch.chdir(root / "moved")
    assert content_of(exported(root, "after")) == before and "note" not in capsys.readouterr().err


@pytest.mark.parametrize("recorded", ["in study.json", "in launches.json", "nowhere"])
def test_what_merely_has_the_name_is_never_taken(root, monkeypatch, capsys, recorded):
    if recorded != "in study.json":
        without_directory(root)
    if recorded == "nowhere":
        (root / "sweeps" / "s" / "launches.json").unlink()
    (root / "home").rename(root / "gone")
    monkeypatch.chdir(root / "away")
    storage = ("--storage", root / "sweeps")
    file = exported(root, "x.safetensors")
    notes = capsys.readouterr().err.strip().splitlines()
    assert len(notes) == 2 and all(note.startswith("note: The file has no ") for note in notes)
    assert "trigger word" in notes[0] and "photos is meant from" in notes[0] and "models/tiny is meant from" in notes[1]
    with safe_open(file, framework="np") as opened:
        assert "decoy" not in str(opened.metadata()) and "ss_tag_frequency" not in opened.metadata()
    commands = [
        ("export", "s", "--best", "--fuse", "-o", root / "fused"),
        ("generate", "s", "--best", "--prompt", "{trigger}", "-o", root / "pictures"),
        ("score", file, "--study", "s"),
        ("rescore", "s", "--pooled", "embedded:pooled"),
    ]
    for command in commands:
        line = refused(capsys, *command, *storage)
        assert "is meant from" in line and "another content" in line, line
    assert not (root / "fused").exists() and not (root / "pictures").exists()


def test_a_subject_that_is_nowhere_is_named_where_it_was(root, monkeypatch, capsys):
    (root / "home" / "photos").rename(root / "gone")
    monkeypatch.chdir(root)
    line = refused(capsys, "generate", "s", "--best", "--prompt", "{trigger}", "--storage", root / "sweeps")
    assert str(root / "home" / "photos") in line


def test_the_folder_of_a_launch_is_no_change_of_the_study(root, monkeypatch):
    monkeypatch.chdir(root / "home")
    folder = StudyFolder(root / "sweeps", "s")
    study = Study(name="s", subject="photos", model="models/tiny", rows=[{"rank": 2}], fixed=FIXED, epochs=Epochs(max=1))
    folder.write_study(study, Keys(study).content_digests())
    with_description(root, directory="/somewhere/else")
    assert folder.require_comparable(study, Keys(study).content_digests()) == []
