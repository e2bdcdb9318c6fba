"""The report's page in a real browser, where there is one."""

import math

import pytest

from analysis.grids import NO_ADAPTER, NO_TRIGGER, grid_of
from analysis.load import load_study_records
from analysis.report import page_of
from analysis.report_numbers import report_numbers
from sweep.records import Records

from . import chromium
from .pictured import write_pictured_study
from .test_older_records import OLDER

needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="no chromium on this machine: apt-get install chromium")

GRID = """
    const rows = table => [...table.tBodies[0].rows].map(row => [row.cells[0].textContent, ...[...row.cells].slice(1).map(cell => cell.textContent)]);
    const tables = () => [...document.querySelectorAll("#grid-tables table")].map(rows);
    const heads = () => [...document.querySelectorAll("#grid-tables thead th")].map(cell => cell.textContent);
    const choose = (id, value) => { const select = document.getElementById("grid-" + id); select.value = value; select.dispatchEvent(new Event("change")); };
    const axes = () => ["x", "y", "z"].map(id => document.getElementById("grid-" + id).value);
"""


def numbers_of(study_dir) -> dict:
    return report_numbers(load_study_records(study_dir))


def page_of_study(study_dir) -> str:
    return page_of(numbers_of(study_dir))


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
    assert told["up"][:5] == ["t0003", "t0002", "t0001", "t0000", "no adapter contro"] and told["sort"] == "descending"
    assert told["down"][:5] == told["up"][:5][::-1] and set(told["up"][5:]) == {"t0004", "t0005"} == set(told["down"][5:])
    assert told["v2"] == ["t0002", "t0003"] and told["no"] == ["t0003"] and told["none"] == []
    assert told["open"] and "rank 2" in told["text"] and "--set caption=v2 --set rank=4" in told["command"]


@needs_chromium
def test_an_attack_by_prompt_name_or_reason_is_shown_as_text(attacked):
    script = """for (const b of document.querySelectorAll(".open, button.cell")) b.click();
    for (const node of document.querySelectorAll("[data-tip]")) node.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
    for (const select of document.querySelectorAll("select")) for (const option of select.options) { select.value = option.value; select.dispatchEvent(new Event("change")); }
    return {hurt: window.hurt ?? null, images: document.querySelectorAll("img:not([src^='data:'])").length,
            title: document.querySelector("h1").textContent, text: document.body.textContent.includes("onerror")};"""
    page = page_of(numbers_of(attacked))
    told, errors = chromium.run_in(page, script)
    assert errors == [] and told == {"hurt": None, "images": 0, "title": attacked.name, "text": True}
    assert chromium.console_of(page) == []  # with its content security policy


@needs_chromium
@pytest.mark.parametrize("study", ["study_dir", "pictured"])
def test_nothing_but_tables_and_grids_is_wider_than_a_telephone(study, request):
    script = """open("t0002"); const frame = document.createElement("iframe"); frame.style.width = "390px"; document.body.append(frame);
    frame.contentDocument.documentElement.replaceWith(document.documentElement.cloneNode(true));
    const dialog = frame.contentDocument.getElementById("trial");
    return {wide: frame.contentDocument.documentElement.scrollWidth, shown: dialog.clientWidth, beyond: dialog.scrollWidth - dialog.clientWidth};"""
    told, errors = chromium.run_in(page_of(numbers_of(request.getfixturevalue(study))), script)
    assert errors == [] and told["wide"] <= 390 and told["shown"] > 300 and told["beyond"] == 0


@needs_chromium
def test_the_grid_shows_the_trials_that_the_command_shows_with_their_controls(pictured):
    script = GRID + """return {axes: axes(), heads: heads(), tables: tables(), said: document.getElementById("grid-said").textContent};"""
    told, errors = chromium.run_in(page_of_study(pictured), script)
    grid = grid_of(load_study_records(pictured), "guidance", "caption")
    drawn = [[f"{cell.trial} {cell.lpips:.3f}" for cell in row] for row in grid.cells[0]]
    assert errors == [] and told["axes"] == ["guidance", "caption", ""] and told["heads"][:2] == ["guidance 2", "guidance 6"]
    assert drawn[:2] == [["t0004 0.600", "t0001 0.400"], ["t0002 0.300", "t0003 0.200"]] and grid.y_values == (("v1", "v2", NO_TRIGGER, NO_ADAPTER),)
    assert [row[1:] for row in told["tables"][0][:3]] == drawn[:3] == [*drawn[:2], ["t0002 0.320", "t0003 0.220"]]
    assert [row[0] for row in told["tables"][0]] == ["caption v1", "caption v2", "no trigger, other noise", "no adapter"]
    assert told["tables"][0][3][1:] == ["0.900", "0.900"] and told["said"] == "4 trials. Also differ between pictures: rank."


@needs_chromium
def test_axes_prompt_seed_and_nearest_image_are_the_readers_choice(pictured):
    script = GRID + """const out = {};
    choose("x", "epoch"); out.epoch = tables()[0].slice(0, 2);
    choose("x", "caption"); out.swapped = axes();
    choose("x", "guidance"); choose("y", "caption"); choose("z", "rank"); out.z = tables().map(table => table.map(row => row.slice(1)));
    choose("z", ""); choose("seed", document.getElementById("grid-seed").options[1].value); out.second = tables()[0][1];
    choose("prompt", "1"); out.bare = tables()[0].map(row => row[0]); choose("prompt", "0");
    out.single = document.querySelectorAll("#grid-tables .two").length;
    document.getElementById("grid-nearest").click(); out.pairs = document.querySelectorAll("#grid-tables .two").length;
    out.alt = document.querySelector("#grid-tables .two img + img").alt;
    choose("y", ""); out.one = tables()[0].map(row => row[0]);
    document.querySelector("#grid-tables button[data-trial=t0003]").click(); out.open = document.getElementById("trial").textContent;
    return out;"""
    told, errors = chromium.run_in(page_of_study(pictured), script)
    assert errors == []
    assert told["epoch"] == [["caption v1", "t0001 0.600", "t0001 0.400"], ["caption v2", "t0003 0.400", "t0003 0.200"]]
    assert told["swapped"] == ["caption", "epoch", ""]  # rows had the caption: they take what the columns had
    assert told["z"][0][:2] == [["t0000 0.500", "t0001 0.400"], ["t0002 0.300", "no picture"]]
    assert told["z"][1][:2] == [["t0004 0.600", "no picture"], ["no picture", "t0003 0.200"]]
    assert told["second"] == ["caption v2", "t0002 0.310", "t0003 0.210"] and told["bare"] == ["caption v1", "caption v2", "no adapter"]
    assert told["single"] == 0 and told["pairs"] == 8 and told["alt"].startswith("nearest training image train/pale.png, LPIPS")
    assert told["one"] == ["", "no trigger, other noise", "no adapter"] and "t0003, rank 1" in told["open"]


@needs_chromium
def test_pointing_at_a_line_names_its_trial_and_a_click_opens_it(pictured):
    script = """document.documentElement.style.scrollBehavior = "auto"; const chart = document.getElementById("parallel"); chart.scrollIntoView({block: "center"});
    const line = chart.querySelector("[data-trial=t0001] .seen"), at = line.getPointAtLength(line.getTotalLength() * 0.95), m = line.getScreenCTM();
    const x = at.x * m.a + m.e, y = at.y * m.d + m.f, hit = document.elementFromPoint(x, y);
    hit.dispatchEvent(new PointerEvent("pointerover", {bubbles: true, clientX: x, clientY: y}));
    const tip = document.getElementById("tip"), out = {tip: tip.textContent, hidden: tip.hidden, near: Math.abs(tip.getBoundingClientRect().left + tip.offsetWidth / 2 - x) < 200};
    hit.dispatchEvent(new MouseEvent("click", {bubbles: true})); out.open = document.getElementById("trial").textContent; document.getElementById("trial").close();
    const stops = [...document.querySelectorAll("svg")].map(svg => svg.querySelectorAll("[tabindex='0']").length), lines = chart.querySelectorAll("[role=button]");
    chart.querySelector("[tabindex='0']").focus(); const first = document.activeElement.dataset.trial;
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true})); out.keys = [first, document.activeElement.dataset.trial];
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true})); out.entered = document.getElementById("trial").textContent;
    return {...out, stops, n: lines.length, slices: document.querySelectorAll("#parameters .charts svg").length, label: lines[0].getAttribute("aria-label")};"""
    told, errors = chromium.run_in(page_of_study(pictured), script)
    assert errors == [] and told["tip"].startswith("t0001: 0.4000\ncaption v1, guidance 6, rank 4") and not told["hidden"] and told["near"]
    assert "t0001, rank 3" in told["open"] and told["keys"] == ["t0003", "t0002"] and "t0002, rank 2" in told["entered"]
    assert told["n"] == 5 and told["slices"] == 3 and set(told["stops"]) <= {0, 1} and told["label"].startswith("t0004: 0.6000")


@needs_chromium
def test_a_trials_pictures_stand_beside_their_nearest_training_images(tmp_path):
    script = """open("t0003"); const pairs = [...document.querySelectorAll("#trial .pairs figure")];
    return {n: pairs.length, images: pairs.map(pair => pair.querySelectorAll("img[src^='data:image/webp']").length), text: pairs[0].textContent};"""
    for names, said in ((True, "LPIPS 0.200. Right: nearest training image, 0.100. J3, smile"), (False, "LPIPS 0.200. Right: nearest training image by pixels. J3, smile")):
        told, errors = chromium.run_in(page_of_study(write_pictured_study(tmp_path / str(names) / "s", names_nearest=names)), script)
        assert errors == [] and told == {"n": 4, "images": [2] * 4, "text": said}


@needs_chromium
def test_a_long_table_is_drawn_in_part_until_all_is_asked_for(study_dir):
    numbers = numbers_of(study_dir)
    first = numbers["trials"][0]
    numbers["trials"] += [{**first, "trial": f"x{i:04d}", "rank_number": 10 + i} for i in range(600)]
    script = """const n = () => document.querySelectorAll("#ranked-table tbody tr").length, more = document.getElementById("more"), out = [n(), more.hidden];
    more.click(); return [...out, n(), more.hidden, document.querySelectorAll("#parallel [role=button]").length];"""
    told, errors = chromium.run_in(page_of(numbers), script)
    assert errors == [] and told == [500, False, 607, True, 200]


@needs_chromium
def test_the_page_with_its_pictures_breaks_no_rule_of_its_policy(pictured):
    assert chromium.console_of(page_of_study(pictured)) == []


@needs_chromium
@pytest.mark.parametrize("version", [1, 2])
def test_records_of_older_schemas_have_a_whole_page(version):
    script = """return [...document.querySelectorAll("main section")].map(section => section.id);"""
    told, errors = chromium.run_in(page_of_study(OLDER / f"schema_{version}"), script)
    assert errors == [] and told[:3] == ["best", "ranked", "curves"] and {"parameters", "mattered", "failures"} <= set(told)


@needs_chromium
def test_trials_that_tie_in_everything_have_a_page_without_axes(tmp_path):
    records = Records(tmp_path / "ties", clock=lambda: 1.0)
    for number in range(3):
        ended = {"state": "COMPLETE", "best_epoch": 3, "objective": 0.5, "rung_values": [[3, 0.5, "e"], [6, math.nan, "gone"]]}
        records.append_trial({"study": "s", "trial": f"t{number}", "number": number, "configuration": {"rank": 4}, **ended})
    told, errors = chromium.run_in(page_of_study(tmp_path / "ties"), """open("t1"); return [!!document.getElementById("parallel"), document.getElementById("trial").textContent];""")
    assert errors == [] and told[0] is False and "t1, rank 2" in told[1]
