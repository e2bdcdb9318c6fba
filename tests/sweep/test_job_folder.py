"""What a job takes along: our code and the study, and nothing else that lies about; and its command line, whatever names hold."""

import shlex

import pytest

from sweep.errors import ClusterError
from sweep.job_folder import entrypoint, fill_job_folder, require_reachable
from sweep.study import Study, load_study

STORAGE = "/mnt/sweeps"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder as people have them, which commands run in."""
    for name in ("photos", "sweeps/captions/records", ".venv/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"a photograph")
    (tmp_path / "-it's; mine.py").write_text("from sweep import Study\nstudy = Study(name='mine')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_job_takes_our_code_and_the_study_along_and_no_data(home, tmp_path):
    study = load_study("-it's; mine.py")
    folder = tmp_path / "job"
    folder.mkdir()
    place = fill_job_folder(folder, study)
    assert (folder / place).read_text() == study.source and load_study(folder / place).describe() == study.describe()
    assert sorted(path.name for path in folder.iterdir()) == ["study", "sweep", "trainables"]
    assert (folder / "trainables/embedded/base/unet").is_dir() and not list(folder.rglob("__pycache__"))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 60 * 2**20  # Ray takes 100 MiB


def test_names_are_words_of_the_command_whatever_they_hold(home, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    place = fill_job_folder(folder, load_study("-it's; mine.py"))
    words = shlex.split(entrypoint(place, "mine", "/mnt/a b", ["--set=negative_prompt=$(id); `id`"]))
    assert words == ["python", "-m", "sweep", "launch", "study/-it's; mine.py", "--address=auto", "--name=mine", "--storage=/mnt/a b"] + [
        "--set=negative_prompt=$(id); `id`"
    ]


@pytest.mark.parametrize("storage", ["sweeps", "./sweeps", "/mnt/../etc"])
def test_a_storage_that_nodes_cannot_share_is_refused(storage):
    with pytest.raises(ClusterError, match=f"whole path.*{storage}"):
        require_reachable(Study(name="s"), storage)


@pytest.mark.parametrize(
    "study, name",
    [
        (dict(subject="photos"), "subject"),
        (dict(model="photos"), "train_model"),
        (dict(fixed={"prior_images": "photos", "prior_prompt": "a woman"}), "prior_images"),
        (dict(fan_out={"infer_model": ["embedded:base", "photos"]}), "infer_model"),
        (dict(metrics=("dinov2=photos",)), "dinov2"),
    ],
)
def test_a_folder_of_this_machine_is_refused_with_the_way_out(home, study, name):
    with pytest.raises(ClusterError, match=rf"{name} 'photos'.*{name}=/mnt/sweeps/photos"):
        require_reachable(Study(name="s", **study), STORAGE)


def test_whole_paths_hub_ids_and_embedded_names_are_for_the_cluster_to_find(home):
    require_reachable(Study(name="s", subject="/mnt/sweeps/photos", model="stabilityai/x"), STORAGE)
    require_reachable(Study(name="s"), "s3://bucket/sweeps")
