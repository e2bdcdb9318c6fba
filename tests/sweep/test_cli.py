"""The command line: exit codes, and one line for every error that a person can mend. Starts no Ray; `class-images` alone loads torch."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from sweep.cli import COMMANDS, app, main
from sweep.folder import StudyFolder, find_study_folder
from sweep.keys import Keys
from sweep.launches import LaunchLog, Request
from sweep.one_trial import one_trial_study
from sweep.records import Records
from sweep.study import Study, load_study
from sweep.trial_rows import Trial, trial_row
from trainables.config import TrainConfig
from tests.trainables.scenes import scene

STUDY = """
from ray import tune
from sweep import Epochs, Study

study = Study(
    space={"rank": tune.choice([4, 8]), "guidance": tune.choice([2.0, 4.0])},
    epochs=Epochs(max=4, rungs=(2,)),
    baseline={"rank": 8, "guidance": 2.0},
    samples=5,
)
"""


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(STUDY)
    return path


def error_of(capsys, *arguments) -> str:
    """The one line that the command wrote to stderr, after checking that it was one and that the exit code was 2."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in captured.err
    return lines[0]


def test_plan_says_what_would_run_and_does_nothing(study_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(study_file)]) == 0
    assert "5 trials" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["mine.py"]


@pytest.mark.parametrize(
    "sets, names",
    [
        (["rnk=4"], ["rnk", "rank"]),
        (["rank=0"], ["rank", "0"]),
        (["alpha=-1"], ["alpha", "-1"]),
        (["epochs=0"], ["epochs", "0"]),
        (["rank"], ["name=value"]),
        (["train_model=/no/such/folder"], ["/no/such/folder"]),
        (["subject=/no/such/subject"], ["/no/such/subject"]),
        (["caption=v9"], ["v9", "v1"]),
        (["mask_weight=2"], ["mask_weight", "masks", "leave mask_weight at 1"]),
        (["prior_weight=2"], ["prior_weight", "prior_images", "class-images"]),
        (["prior_images=/no/such/folder", "prior_prompt=a woman"], ["prior_images", "/no/such/folder", "class-images"]),
        (["optimizer=adamw8bit"], ["adamw8bit", "51 MB", "Use adamw"]),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_before_anything_is_written(study_file, tmp_path, capsys, sets, names):
    options = [part for text in sets for part in ("--set", text)]
    line = error_of(capsys, "launch", study_file, *options, "--storage", tmp_path / "sweeps")
    assert all(name in line for name in names), line
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    "source, says",
    [("raise KeyError('x')", "KeyError"), ("answer = 42", "Study"), ("def broken(:", "line 1"), (None, "no")],
)
def test_a_study_file_that_gives_no_study_is_one_line(tmp_path, capsys, source, says):
    path = tmp_path / "bad.py"
    if source is not None:
        path.write_text(source)
    assert says in error_of(capsys, "launch", path)


@pytest.mark.parametrize("arguments", [["launch"], ["launch", "x.py", "--nonsense"], ["nonsense"], ["launch", "x.py", "--samples", "many"]])
def test_a_mistyped_command_is_one_line(capsys, arguments):
    error_of(capsys, *arguments)


def test_a_storage_that_cannot_be_written_is_one_line(study_file, tmp_path, capsys):
    (tmp_path / "file").write_text("a file, where a folder would have to be")
    assert "--storage" in error_of(capsys, "launch", study_file, "--storage", tmp_path / "file")


def test_a_study_may_not_take_the_place_of_the_adapters(study_file, tmp_path, capsys):
    assert "adapters" in error_of(capsys, "launch", study_file, "--name", "adapters", "--storage", tmp_path)


def test_a_name_whose_records_are_of_something_else_is_refused_with_the_field(study_file, tmp_path, capsys):
    folder = StudyFolder(tmp_path, "mine")
    folder.root.mkdir()
    folder.description.write_text(json.dumps(load_study(study_file, {"subject": "another"}).describe()))
    line = error_of(capsys, "launch", study_file, "--storage", tmp_path)
    assert "`subject`" in line and "another" in line and "--name" in line


def test_a_study_that_runs_already_is_refused(study_file, tmp_path, capsys):
    with StudyFolder(tmp_path, "mine").held():
        assert "in use" in error_of(capsys, "launch", study_file, "--storage", tmp_path)
        assert StudyFolder(tmp_path, "mine").holder is not None
    assert StudyFolder(tmp_path, "mine").holder is None


@pytest.fixture
def raw(tmp_path):
    """Four photographs with tags beside them, one of them longer than CLIP reads."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(4):
        scene(number, size=(64, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("J3NN13, smile, red top" + ", tag" * (90 if number == 2 else 0))
    return folder


def test_photographs_are_prepared_checked_and_captioned_again(raw, tmp_path, capsys):
    subject = str(tmp_path / "a subject")
    assert main(["prepare", str(raw), subject, "--trigger", "J3NN13", "--size", "64", "--heldout", "0", "--no-derive"]) == 0
    said = capsys.readouterr().out
    assert "Of 4 photographs 0 are dropped and 0 flagged" in said and "has 4 images to train on and 0 held out" in said
    assert main(["caption", subject, "--derive", "v3,v4"]) == 0
    assert "4 images" in capsys.readouterr().out
    assert "--replace" in error_of(capsys, "caption", subject, "--derive", "v3")
    assert main(["check", subject]) == 0
    *warnings, last = capsys.readouterr().out.splitlines()
    assert "captions v1, v2, v3, v4; 0 errors" in last
    assert sum("of 4 v2 captions have more" in line for line in warnings) == 1 and all(line.startswith("warning: ") for line in warnings)


def commands_in(said: str) -> list[list[str]]:
    """The arguments of the commands that were printed on lines of their own."""
    lines = [line.strip() for line in said.splitlines()]
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m sweep ")]


@pytest.mark.parametrize(
    "n_captions, versions", [(0, "v1"), (2, "v1,v2,v3,v4"), (4, "v1,v2,v3,v4")]
)
@pytest.mark.parametrize("folder", ["photos", "a subject, né"])
def test_the_commands_that_prepare_prints_work(
    raw, tmp_path, capsys, monkeypatch, n_captions, versions, folder
):
    for file in sorted(raw.glob("*.txt"))[n_captions:]:
        file.unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "raw", folder, "--trigger", "J3NN13", "--size", "64"]) == 0
    check, launch = commands_in(capsys.readouterr().out)
    assert check[:2] == ["check", folder] and launch[0] == "launch"
    assert f"space.caption={versions}" in launch and f"subject={folder}" in launch
    assert main(check) == 0
    assert "0 errors" in capsys.readouterr().out
    arguments = [text for text in launch[1:] if text != "--name"]
    arguments.remove(launch[launch.index("--name") + 1])
    assert main(["plan", *arguments]) == 0
    said = capsys.readouterr().out
    left_out = (
        "the start point with caption='v2' is left out, since `--set space.caption` leaves v1"
    )
    assert (left_out in said) == (versions == "v1")


def test_a_study_that_prepare_names_is_new(raw, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "photos").mkdir(parents=True)
    assert main(["prepare", "raw", "photos", "--trigger", "J3NN13", "--size", "64"]) == 0
    assert "--name photos-2 " in capsys.readouterr().out


def test_a_check_counts_and_names_what_is_not_read(raw, capsys):
    (raw / "subject.json").write_text('{"trigger": "J3NN13"}')
    (raw / "beach").mkdir()
    scene(9, size=(64, 64)).save(raw / "beach" / "a.png")
    (raw / ".DS_Store").write_text("x")
    assert main(["check", str(raw)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("note: 1 image in sub-folders passed over: beach/a.png.") for line in lines
    )
    assert "note: 1 hidden or system file passed over." in lines


def test_names_that_are_no_unicode_are_printed_as_escapes(raw, capfd):
    (raw / "0.png").rename(raw / os.fsdecode(b"n\xe9.png"))
    (raw / "1.png").write_text("no picture")
    (raw / "1.png").rename(raw / os.fsdecode(b"\xe9.png"))
    (raw / os.fsdecode(b"\xe9.pdf")).write_text("x")
    asked = [sys.executable, "-m", "sweep", "check", str(raw)]
    ran = subprocess.run(asked, capture_output=True, check=False)
    assert ran.returncode == 2 and not ran.stderr
    assert rb"n\xe9.png" in ran.stdout and rb"\xe9.pdf" in ran.stdout


def test_what_a_launch_does_not_read_is_told_at_its_start(raw):
    (raw / "subject.json").write_text('{"trigger": "J3NN13"}')
    (raw / "notes.pdf").write_text("x")
    (line,) = Keys(Study(name="s", subject=str(raw))).passed_over()
    assert line.startswith(f"{raw}: 1 file passed over, no image by its suffix: notes.pdf")


def test_a_check_tells_all_errors_on_a_line_each_and_exits_with_2(raw, capsys):
    (raw / "0.png").write_text("no picture")
    (raw / "3.txt").unlink()
    assert main(["check", str(raw)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 3  # no trigger, no v2, no picture
    assert "cannot be used as it is" in lines[-1] and "3 errors" in lines[-1]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--fit", "bucket"], "crop, pad or buckets"),
        (["--size", "100"], "multiple of 8"),
        (["--drop", "tiny,ugly"], "'ugly'"),
        (["--trigger", " "], "' '"),
    ],
)
def test_a_preparation_that_cannot_be_is_one_line_before_anything_is_written(raw, tmp_path, capsys, arguments, says):
    trigger = [] if "--trigger" in arguments else ["--trigger", "J3NN13"]
    assert says in error_of(capsys, "prepare", raw, tmp_path / "s", *trigger, *arguments)
    assert not (tmp_path / "s").exists()


def test_every_reason_to_drop_is_in_the_help():
    from trainables.candidates import REASONS

    (option,) = [o for c in typer.main.get_command(app).commands.values() if c.name == "prepare" for o in c.params if o.name == "drop"]
    assert all(reason in option.help for reason in REASONS)


def test_captions_of_a_study_that_clip_surely_cuts_are_told_at_its_launch(raw):
    (raw / "subject.json").write_text('{"trigger": "J3NN13"}')
    (line,) = Keys(Study(name="s", subject=str(raw), fixed={"caption": "v2"})).cut_captions()
    assert "1 of 4 v2 captions have more, up to 192 at least" in line  # 2 ends; J 3 NN 1 3 , smile , red top; 90 times a comma and a tag
    assert Keys(Study(name="s", subject=str(raw), fixed={"caption": "v1"})).cut_captions() == []


def test_status_counts_the_trials_of_a_study_and_ranks_them(study_file, tmp_path, capsys):
    folder = StudyFolder(tmp_path, "mine")
    folder.root.mkdir()
    folder.write_study(load_study(study_file, {}), {})
    records = Records(folder.root)
    for number, (state, value) in enumerate([("COMPLETE", 0.5), ("PRUNED", 0.25), ("RUNNING", 0.75)]):
        trial = Trial(f"t{number:04d}", number, {"rank": 4}, state=state, rungs=[(2, value, "key")])
        records.append_trial(trial_row(trial, "mine"))
    assert main(["status", "mine", "--storage", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 not finished (tried again at the next launch), 1 stopped early, 1 done of 5" in lines[0]
    assert lines[1].split()[:2] == ["t0001", "0.2500"]
    assert main(["status", str(folder.root)]) == 0


def test_status_shows_the_front_of_a_study_that_weighs_metrics(study_file, tmp_path, capsys):
    folder = StudyFolder(tmp_path, "mine")
    folder.root.mkdir()
    folder.write_study(load_study(study_file, {"pareto": "lpips,fid"}), {})
    records = Records(folder.root)
    for number, (lpips, fid) in enumerate([(0.5, 60.0), (0.25, 90.0), (0.5, 90.0)]):
        records.append_evaluation({"evaluation_key": f"e{number}", "training_key": f"k{number}", "lpips": lpips, "fid": fid}, [])
        trial = Trial(f"t{number:04d}", number, {"rank": 4}, state="COMPLETE", rungs=[(2, lpips, f"e{number}")])
        records.append_trial(trial_row(trial, "mine"))
    cut_off = Trial("t0003", 3, {"rank": 4}, state="FAIL", reason="interrupted", rungs=[(2, 0.25, "e1")])
    records.append_trial(trial_row(cut_off, "mine"))
    assert main(["status", "mine", "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[4:7] == [
        "Pareto front: 2 of 3 trials are beaten by none in lpips and fid at once",
        "  t0001  lpips 0.25  fid 90 at epoch 2  rank=4",
        "  t0000  lpips 0.5  fid 60 at epoch 2  rank=4",
    ]


def test_a_study_that_is_named_by_its_folder_is_in_the_storage_around_it(study_file, tmp_path, monkeypatch):
    folder = StudyFolder(tmp_path / "kept", "mine")
    folder.root.mkdir(parents=True)
    folder.write_study(load_study(study_file, {}), {})
    monkeypatch.chdir(tmp_path)
    assert find_study_folder(str(folder.root)).adapters == find_study_folder("kept/mine", "elsewhere").adapters == tmp_path / "kept" / "adapters"


def test_status_of_an_unknown_study_names_the_known_ones(study_file, tmp_path, capsys):
    folder = StudyFolder(tmp_path, "mine")
    folder.root.mkdir()
    folder.write_study(load_study(study_file, {}), {})
    assert "mine" in error_of(capsys, "status", "yours", "--storage", tmp_path)


def test_one_trial_takes_from_the_baseline_what_set_leaves_open(study_file):
    study = one_trial_study(load_study(study_file, {"rank": "4"}))
    assert study.n_trials == 1 and study.name == "mine-trial"
    train, rungs, evaluation = study.split(study.listed[0].configuration)
    assert (train.rank, evaluation.guidance, rungs) == (4, 2.0, (2, 4))


@pytest.mark.parametrize(
    "fields, overrides, shown",
    [
        ("space={'rank': tune.choice([4, 8])}, baseline={'rank': 8}", {}, {"rank": 8}),
        ("space={'rank': tune.choice([4, 8])}, baseline={'rank': 8}", {"rank": "16", "guidance": "7.5"}, {"rank": 16, "guidance": 7.5}),
        ("space={'rank': tune.choice([4, 8]), 'alpha': tune.choice([1.0, 2.0])}, try_first=[{'rank': 8}]", {}, {"rank": 8, "alpha": 16.0}),
        ("rows=[{'rank': 4, 'model': 'embedded:realistic'}]", {"samples": "3"},
         {"rank": 4, "train_model": "embedded:realistic", "infer_model": "embedded:realistic"}),
        ("fixed={'rank': 2}", {"model": "embedded:realistic", "epochs": "2"},
         {"train_model": "embedded:realistic", "infer_model": "embedded:realistic"}),
    ],
)  # fmt: skip
def test_one_trial_shows_the_configuration_that_it_tries(tmp_path, fields, overrides, shown):
    path = tmp_path / "mine.py"
    path.write_text(f"from ray import tune\nfrom sweep import Study\nstudy = Study({fields})")
    loaded = load_study(path, overrides)
    study = one_trial_study(loaded)
    (row,) = study.listed
    assert row.configuration == shown | ({"alpha": TrainConfig(rank=8).alpha} if "alpha" in shown else {})
    if not overrides and loaded.baseline:
        assert study.split(row.configuration) == loaded.split(loaded.baseline.configuration)


def test_one_trial_of_a_study_without_baseline_takes_defaults(tmp_path):
    study = one_trial_study(Study(name="s", fixed={"rank": 2}))
    assert study.split(study.listed[0].configuration)[0].rank == 2


def test_class_images_that_cannot_be_made_are_one_line(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0.png").write_bytes(b"")
    assert "full holds something" in error_of(capsys, "class-images", "embedded:base", tmp_path / "full", "--prompt", "a woman")
    assert "/no/such/model" in error_of(capsys, "class-images", "/no/such/model", tmp_path / "new", "--prompt", "a woman")
    assert "must not be empty" in error_of(capsys, "class-images", "embedded:base", tmp_path / "new", "--prompt", "")
    assert "`steps`" in error_of(capsys, "class-images", "embedded:base", tmp_path / "new", "--prompt", "a woman", "--steps", "0")
    assert not (tmp_path / "new").exists()


# -- resume --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def resumable(tmp_path, monkeypatch):
    """A study that was launched from a folder of its own with --set, and what `resume` would run: recorded, not run."""
    started = []
    monkeypatch.setattr("sweep.launch_commands._run", lambda study, storage, options, **_: started.append((study, storage, options, os.getcwd())))
    where = tmp_path / "where it was launched"
    where.mkdir()
    (where / "mine.py").write_text(STUDY.replace("samples=5", "samples=len(__file__)"))
    study = load_study(where / "mine.py", {"samples": "7", "caption": "v1"})
    folder = StudyFolder(tmp_path / "sweeps", "mine")
    folder.root.mkdir(parents=True)
    folder.write_study(study, {})
    options = {"device": "cpu", "pack_size": 3, "compile": True, "gradient_checkpointing": False}
    LaunchLog(folder.launches, "a", Request(dict(study.overrides), options, str(where / "mine.py"), str(where))).end("interrupted")
    return folder, started


def test_a_resume_asks_for_what_the_last_launch_asked_for(resumable, tmp_path, monkeypatch):
    folder, started = resumable
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "mine", "--storage", "sweeps"]) == 0
    study, storage, options, directory = started[0]
    assert (study.name, study.samples, study.fixed["caption"], storage) == ("mine", 7, "v1", tmp_path / "sweeps")
    assert options == {"device": "cpu", "pack_size": 3, "compile": True, "gradient_checkpointing": False}
    assert directory == str(tmp_path / "where it was launched") and os.getcwd() == str(tmp_path)
    assert folder.require_comparable(study, {}) == []


def test_a_resume_may_extend_the_study_and_name_a_new_version(resumable, tmp_path, capsys):
    folder, started = resumable
    assert main(["resume", str(folder.root), "--samples", "9", "--set", "study_seed=3", "--device", "auto", "--pack-size", "2"]) == 0
    study, _, options, _ = started[0]
    assert (study.samples, study.study_seed, options["device"], options["pack_size"]) == (9, 3, "auto", 2)
    assert {verdict[0] for verdict in folder.require_comparable(study, {})} == {"samples", "study_seed"}
    assert main(["resume", "mine", "--name", "mine-2", "--set", "rank=4", "--storage", str(tmp_path / "sweeps")]) == 0
    assert started[1][0].name == "mine-2" and not StudyFolder(tmp_path / "sweeps", "mine-2").exists


def test_a_file_that_has_changed_since_is_said_and_not_used_and_one_that_is_gone_is_not_missed(resumable, tmp_path, capsys):
    folder, started = resumable
    original = tmp_path / "where it was launched" / "mine.py"
    original.write_text("raise KeyError")
    assert main(["resume", str(folder.root)]) == 0 and "has changed since" in capsys.readouterr().out
    original.unlink()
    assert main(["resume", str(folder.root)]) == 0 and capsys.readouterr().out == "" and started[1][0].samples == 7


def test_resume_ends_a_pause_and_refuses_what_runs(resumable, capsys):
    folder, started = resumable
    with folder.held("b"):
        assert "is running" in error_of(capsys, "resume", folder.root)
        assert main(["pause", str(folder.root)]) == 0
        assert "samples would change" in error_of(capsys, "resume", folder.root, "--samples", "9")
        assert main(["resume", str(folder.root)]) == 0
        assert '"paused": false' in folder.control.read_text() and started == []


def test_what_would_mix_records_is_refused_with_all_that_changed_and_a_name_that_is_free(study_file, tmp_path, capsys):
    folder = StudyFolder(tmp_path, "mine")
    folder.root.mkdir()
    (tmp_path / "mine-2").mkdir()
    old = {**load_study(study_file, {"steps": "7", "subject": "another"}).describe(), "numerics": 0}
    folder.description.write_text(json.dumps(old))
    line = error_of(capsys, "launch", study_file, "--storage", tmp_path)
    assert all(f"`{field}`" in line for field in ("subject", "fixed.steps", "numerics")) and "--name mine-3" in line


def test_a_shell_completes_commands():
    asked = {**os.environ, "_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "sweep con", "COMP_CWORD": "1"}
    said = subprocess.run([sys.executable, "-m", "sweep"], env=asked, capture_output=True, text=True, check=False).stdout
    assert said.split() == ["confirm"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert re.search(f"`(python -m )?sweep {command}[ `]", " ".join(capsys.readouterr().out.split()))
