"""The report: its numbers, that nothing of a study becomes markup, and the page in a real browser where there is one."""

import json
import math
import re
import shlex

import pytest
from PIL import Image

from analysis.__main__ import main
from analysis.load import load_study_records
from analysis.pictures import Thumbnails
from analysis.report import json_for_html, page_of
from analysis.report_numbers import report_numbers
from sweep.records import Records

from . import chromium

needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="no chromium on this machine: apt-get install chromium")

ATTACK = "</script><img src=x onerror=\"window.hurt=1\"><!--<script>"


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


@pytest.fixture
def attacked(tmp_path):
    """A study whose name, prompt, caption and reason try to become markup."""
    folder = tmp_path / "x<img src=y onerror=hurt=1>@@PROGRAM@@"
    records = Records(folder, clock=lambda: 1.0)
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    for number in range(3):
        key = f"e{number}"
        image = {"prompt": ATTACK, "seed": 1, "lpips": 0.1 * number, "path": "p.png"}
        records.append_evaluation({"evaluation_key": key, "training_key": f"k{number}", "epoch": 3, "lpips": 0.1 * number, "n_images": 1}, [image])
        configuration = {"caption": ATTACK, "rank": [16, 4, 8][number]}
        row = {"study": "s", "trial": f"t{number:04d}", "number": number, "configuration": configuration}
        records.append_trial({**row, **scored(0.1 * number, key)})
    records.append_trial({"study": "s", "trial": "t0003", "number": 3, "configuration": {}, "state": "FAIL", "reason": ATTACK})
    return folder


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


@needs_chromium
def test_the_page_sorts_filters_and_opens_a_trial_in_a_browser(study_dir):
    script = """
    const rows = () => [...document.querySelectorAll("#ranked-table tbody tr")].map(row => row.dataset.trial);
    const head = name => [...document.querySelectorAll("#ranked-table th button")].find(b => b.textContent === name);
    const filter = text => { const f = document.getElementById("filter"); f.value = text; f.dispatchEvent(new Event("input")); return rows(); };
    const out = {first: rows()};
    head("LPIPS").click(); out.up = rows(); head("LPIPS").click(); out.down = rows();
    out.sort = head("LPIPS").parentElement.getAttribute("aria-sort");
    out.v2 = filter("caption=v2").sort(); out.no = filter("caption=v2 -rank=4"); out.none = filter("nothing"); filter("");
    [...document.querySelectorAll("#ranked-table .open")].find(b => b.textContent === "t0002").click();
    const dialog = document.getElementById("trial");
    return {...out, open: dialog.open, text: dialog.textContent, command: dialog.querySelector("pre").textContent};"""
    told, errors = chromium.run_in(page_of(numbers_of(study_dir)), script)
    assert errors == [] and told["first"][:4] == ["t0003", "t0002", "t0001", "t0000"]
    assert told["up"][:5] == ["t0003", "t0002", "t0001", "t0000", "control contro"] and told["sort"] == "descending"
    assert told["down"][:5] == told["up"][:5][::-1] and set(told["up"][5:]) == {"t0004", "t0005"} == set(told["down"][5:])
    assert told["v2"] == ["t0002", "t0003"] and told["no"] == ["t0003"] and told["none"] == []
    assert told["open"] and "rank 2" in told["text"] and "--set caption=v2 --set rank=4" in told["command"]


@needs_chromium
def test_an_attack_by_prompt_name_or_reason_is_shown_as_text(attacked):
    script = """for (const b of document.querySelectorAll(".open")) b.click();
    return {hurt: window.hurt ?? null, images: document.querySelectorAll("img:not([src^='data:'])").length,
            title: document.querySelector("h1").textContent, text: document.body.textContent.includes("onerror")};"""
    page = page_of(numbers_of(attacked))
    told, errors = chromium.run_in(page, script)
    assert errors == [] and told == {"hurt": None, "images": 0, "title": attacked.name, "text": True}
    assert chromium.console_of(page) == []  # with its content security policy


@needs_chromium
def test_nothing_but_tables_and_grids_is_wider_than_a_telephone(study_dir):
    script = """open("t0002"); const frame = document.createElement("iframe"); frame.style.width = "390px"; document.body.append(frame);
    frame.contentDocument.documentElement.replaceWith(document.documentElement.cloneNode(true));
    const dialog = frame.contentDocument.getElementById("trial");
    return {wide: frame.contentDocument.documentElement.scrollWidth, shown: dialog.clientWidth, beyond: dialog.scrollWidth - dialog.clientWidth};"""
    told, errors = chromium.run_in(page_of(numbers_of(study_dir)), script)
    assert errors == [] and told["wide"] <= 390 and told["shown"] > 300 and told["beyond"] == 0
