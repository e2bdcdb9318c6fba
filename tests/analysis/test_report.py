"""The report: its numbers, which pictures it holds, and that nothing of a study becomes markup. test_report_page.py opens it in a browser."""

import io
import json
import math
import re
import shlex

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from analysis.__main__ import main
from analysis.cost import cost
from analysis.curves import learning_curves
from analysis.load import load_study_records
from analysis.pictures import Thumbnails
from analysis.report import json_for_html, page_of
from analysis.report_numbers import report_numbers
from analysis.tables import ranked_trials
from analysis.text import print_ranked
from sweep.records import Records

from . import chromium
from .conftest import ATTACK
from .pictured import write_pictured_study


def numbers_of(study_dir) -> dict:
    return report_numbers(load_study_records(study_dir))


def empty_study(folder, rows=()):
    (folder / "records").mkdir(parents=True)
    records = Records(folder, clock=lambda: 1.0)
    for number, row in enumerate(rows):
        records.append_trial({"study": folder.name, "trial": f"t{number:04d}", "number": number, "configuration": {"rank": 4}, **row})
    return folder


def scored(objective, key):
    return {"state": "COMPLETE", "epochs": 3, "best_epoch": 3, "objective": objective, "rung_values": [[3, objective, key]]}


def test_the_best_trial_and_its_interval_are_the_ranked_tables(study_dir):
    numbers = numbers_of(study_dir)
    best = numbers["trials"][0]
    assert numbers["best"] == best["trial"] == "t0003" and best["lpips"] == pytest.approx(0.315)
    assert best["lpips_low"] < 0.315 < best["lpips_high"] and [rung[0] for rung in best["rungs"]] == [3, 6]


def test_what_cannot_be_told_names_no_trial_whose_every_image_is_further_away(study_dir):
    assert numbers_of(study_dir)["cannot_tell"][0].startswith("Of the next 3 in rank, 0 cannot be told from t0003")


def test_trials_with_the_same_pictures_cannot_be_told_apart(tmp_path):
    folder = empty_study(tmp_path / "ties", [scored(0.5, "a"), scored(0.5, "b")])
    for key in "ab":
        images = [{"prompt": "p", "seed": seed, "lpips": 0.5 + 0.1 * seed} for seed in range(4)]
        Records(folder).append_evaluation({"evaluation_key": key, "training_key": key, "epoch": 3, "lpips": 0.65}, images)
    numbers = numbers_of(folder)
    assert numbers["best"] == "t0000" and "1 cannot be told from t0000 by LPIPS: t0001" in numbers["cannot_tell"][0]


@pytest.mark.parametrize(
    "rows, best",
    [
        ([], None),
        ([{"state": "FAIL", "reason": "loss is NaN"}] * 2, None),
        ([{"state": "RUNNING"}], None),
        ([scored(0.5, "gone")], "t0000"),
        ([scored(math.nan, "gone"), scored(0.5, "gone")], "t0001"),
        ([{**scored(0.5, "gone"), "schema_version": 1}], "t0000"),
    ],
    ids=["empty", "all failed", "running", "one trial without its image set", "NaN", "schema 1"],
)
def test_a_study_with_little_in_it_has_a_page(tmp_path, rows, best):
    numbers = numbers_of(empty_study(tmp_path / "little", rows))
    assert numbers["best"] == best and json.loads(json_for_html(numbers)) == numbers  # JSON has no NaN: writing one would raise
    if chromium.BINARY:
        assert chromium.console_of(page_of(numbers)) == []


def test_the_command_of_a_trial_is_quoted_for_a_shell(attacked):
    words = shlex.split(numbers_of(attacked)["trials"][0]["command"])
    assert words[:4] == ["python", "-m", "sweep", "trial"] and words[5:7] == ["--storage", attacked.parent.name]
    assert words[7:] == ["--set", f"caption={ATTACK}", "--set", "rank=16"]


def test_commands_repeat_what_was_set_at_the_last_launch(tmp_path):
    folder = tmp_path / "sweeps" / "s"
    written = Records(folder, clock=lambda: 1.0)
    written.append_trial({"study": "s", "trial": "t0000", "number": 0, "configuration": {"rank": 4}, **scored(0.5, "k")})
    overrides = {"name": "s", "samples": "9", "rank": "64", "subject": "my photos"}
    (folder / "launches.json").write_text(json.dumps({"request": {"overrides": overrides}, "launches": []}))
    numbers = numbers_of(folder)
    assert numbers["trials"][0]["command"] == "python -m sweep trial sweeps/s/study.py --set rank=4 --set 'subject=my photos'"
    assert numbers["repeat"]["launch"] == "python -m sweep launch sweeps/s/study.py --set rank=64 --set 'subject=my photos' --name s"


def test_no_text_of_a_study_ends_the_script_that_holds_it(attacked):
    page = page_of(numbers_of(attacked))
    held = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(held)["trials"][0]["configuration"]["caption"] == ATTACK
    assert "<img src=" not in page and page.count("<script") == page.count("</script>") == 2


def test_the_page_names_no_other_place(study_dir):
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\(|@import|fetch\(|XMLHttp""", page_of(numbers_of(study_dir)))


def pictures_of(numbers, key):
    return [dict(zip(numbers["pictures"]["fields"], row)) for row in numbers["pictures"]["sets"].get(key, [])]


def test_every_rung_and_control_has_its_pictures_and_each_its_nearest_training_image(pictured):
    numbers = numbers_of(pictured)
    assert set(numbers["pictures"]["sets"]) == {f"e{n}-{epoch}" for n in range(5) for epoch in (1, 3)} | {"none-2", "none-6"}
    assert numbers["pictures"]["controls"]["e3-3"] == "none-6" and numbers["pictures"]["controls"]["e2-1"] == "none-2"
    own = pictures_of(numbers, "e3-3")
    assert [picture["lpips"] for picture in own] == pytest.approx([0.2, 0.21, 0.22, 0.23])
    assert [(numbers["pictures"]["prompts"][p["prompt"]], numbers["pictures"]["seeds"][p["seed"]]) for p in own][1:3] == [("J3, smile", "12"), ("smile", "21")]
    assert {numbers["pictures"]["references"][p["nearest"]]["name"] for p in own} == {"train/pale.png"} and own[0]["nearest_lpips"] == pytest.approx(0.1)
    assert numbers["pictures"]["bare"] == {"0": 1} and numbers["n_left_out"] == {"budget": 0, "missing": 0, "images": 0}


def test_where_records_name_no_nearest_image_it_is_sought_by_pixels_and_said_so(tmp_path):
    numbers = numbers_of(write_pictured_study(tmp_path / "older", names_nearest=False))
    names = [reference["name"] for reference in numbers["pictures"]["references"]]
    near = {key: [(names[p["nearest"]], p["by_pixels"]) for p in pictures_of(numbers, key)] for key in ("e0-1", "e3-3")}
    assert near == {"e0-1": [("train/black.png", 1)] * 4, "e3-3": [("train/pale.png", 1)] * 4}  # greys of 10 and 150


def test_a_name_that_leads_out_of_the_subject_is_no_picture_of_the_page(pictured):
    (pictured.parent / "secret.png").write_bytes((pictured / "pictures/e3-3/0.png").read_bytes())
    images = [{"prompt": "J3, smile", "seed": 11, "lpips": 0.1, "path": "pictures/e3-3/1.png", "nearest_reference": "../secret.png"}]
    Records(pictured).append_evaluation({"evaluation_key": "e3-3", "training_key": "k3", "epoch": 3, "lpips": 0.1}, images)
    references = numbers_of(pictured)["pictures"]["references"]
    assert {"name": "../secret.png", "at": None} in references


def test_axes_are_what_differs_between_ranked_trials_and_trials_know_their_place(pictured):
    numbers = numbers_of(pictured)
    assert [(axis["name"], axis["levels"]) for axis in numbers["axes"]] == [("caption", ["v1", "v2"]), ("guidance", ["2", "6"]), ("rank", ["4", "8"])]
    assert {trial["trial"]: trial["at"] for trial in numbers["trials"]}["t0003"] == [1, 1, 1]
    assert all(trial["at"] == [None] * 3 for trial in numbers["trials"] if trial["is_control"])


def test_a_continuous_parameter_is_an_axis_of_quarters(tmp_path):
    rows = [{**scored(0.1 * n, "gone"), "configuration": {"learning_rate": float(n)}} for n in range(1, 9)]
    numbers = numbers_of(empty_study(tmp_path / "continuous", rows))
    (axis,) = numbers["axes"]
    assert axis["is_cut"] and axis["levels"] == ["1 to 2.75", "2.75 to 4.5", "4.5 to 6.25", "6.25 to 8"]
    assert [trial["at"] for trial in numbers["trials"]] == [[0], [0], [1], [1], [2], [2], [3], [3]]


def test_a_budget_goes_to_the_first_picture_of_many_trials_before_all_of_some(pictured):
    records = load_study_records(pictured)
    size = _size_of_one(pictured / "pictures/e3-3/0.png")
    numbers = report_numbers(records, thumbnails=Thumbnails(budget_bytes=16 * size))
    held = {key for key, rows in numbers["pictures"]["sets"].items() if rows}
    assert {"e0-3", "e1-3", "e2-3", "e3-3", "e4-3"} <= held and numbers["n_left_out"]["images"] > 0


def test_thumbnails_end_at_their_budget_and_say_so(tmp_path):
    for name in "abc":
        Image.effect_noise((64, 64), 90).save(tmp_path / f"{name}.png")
    thumbnails = Thumbnails(budget_bytes=int(_size_of_one(tmp_path / "a.png") * 1.5))
    assert [thumbnails.number_of(tmp_path / f"{name}.png") for name in "aabc"] == [0, 0, None, None]
    assert thumbnails.n_refused == 2 and thumbnails.number_of(tmp_path / "a.png") == 0
    assert Thumbnails().number_of(tmp_path / "gone.png") is None


def _size_of_one(path) -> int:
    thumbnails = Thumbnails()
    thumbnails.number_of(path)
    return len(thumbnails.uris[0])


def test_the_command_writes_the_page_and_leaves_nothing_half_written(study_dir, tmp_path, capsys):
    assert main(["report", str(study_dir), "-o", str(tmp_path / "new" / "r.html")]) == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["r.html"] and "r.html" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert main(["report", str(study_dir), "-o", str(tmp_path / "file" / "r.html")]) == 2
    assert "Use -o FILE" in capsys.readouterr().err


def scored_file(study_dir, key="f"):
    """An adapter file that was scored beside the trials, by the pictures of the first prompt."""
    row = {"evaluation_key": key, "training_key": "file:0123", "adapter_file": "old", "epoch": 0}
    images = [{"prompt": "p0", "seen": True, "seed": seed, "lpips": 0.1} for seed in range(4)]
    values = {"configuration": {"guidance": 3.0}, "n_images": 4, "lpips": 0.1, "fid": 9.0}
    Records(study_dir).append_evaluation({**row, **values, "objective": 0.1}, images)


def test_a_scored_file_is_counted_as_no_trial_anywhere(study_dir):
    before = load_study_records(study_dir)
    scored_file(study_dir)
    records = load_study_records(study_dir)
    numbers = report_numbers(records)
    assert (numbers["n_trials"], sum(numbers["counts"].values())) == (6, 6)
    assert [t["trial"][:7] for t in numbers["trials"] if not t["is_trial"]] == ["old", "no adap"]
    assert sum(t["is_trial"] for t in numbers["trials"]) == 6
    assert numbers["best"] == report_numbers(before)["best"]
    pd.testing.assert_frame_equal(cost(records), cost(before))
    pd.testing.assert_frame_equal(learning_curves(records), learning_curves(before))


def test_a_file_is_in_the_table_however_many_trials_there_are(study_dir):
    scored_file(study_dir)
    records, out = load_study_records(study_dir), io.StringIO()
    print_ranked(records, ranked_trials(records), Console(file=out, width=300), most_rows=2)
    assert (
        "old" in out.getvalue() and "t0000" not in out.getvalue() and "6 trials" in out.getvalue()
    )
