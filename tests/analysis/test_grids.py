"""Picture grids: which picture stands where, what is said to differ, and what is refused."""

import pytest
from PIL import Image

from analysis.grid_sheets import CELL_PIXELS, draw_grid
from analysis.grids import NO_ADAPTER, NO_TRIGGER, grid_of
from analysis.load import load_study_records
from sweep.records import Records, RecordsError

from .pictured import write_pictured_study


@pytest.fixture
def records(tmp_path):
    """Two trials of different caption and rank at epochs 3 and 6, each picture in a grey of its own, and a control at the same guidance."""
    written = Records(tmp_path / "g", clock=lambda: 1.0)
    for name, grey in {"a3": 10, "a6": 20, "b3": 30, "b6": 40, "none": 50}.items():
        written.study_dir.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (grey,) * 3).save(written.study_dir / f"{name}.png")
        key, epoch = ("none", 0) if name == "none" else (f"k{name[0]}", int(name[1]))
        images = [{"prompt": "p", "seed": 5, "lpips": grey / 100, "path": f"{name}.png"}]
        configuration = {"guidance": 3.0, "infer_vae": None, "prompts": ["p"]}
        written.append_evaluation({"evaluation_key": name, "training_key": key, "epoch": epoch, "configuration": configuration}, images)
    for number, (name, caption, rank) in enumerate([("a", "v1", 4), ("b", "v2", 8)]):
        rungs = [[3, 0.5, f"{name}3"], [6, 0.4 + number, f"{name}6"]]
        ended = {"state": "COMPLETE", "best_epoch": 6, "objective": 0.4 + number, "rung_values": rungs, "training_key": f"k{name}"}
        configuration = {"caption": caption, "rank": rank}
        written.append_trial({"study": "g", "trial": f"t{number}", "number": number, "configuration": configuration, **ended})
    return load_study_records(written.study_dir)


def test_every_picture_stands_at_its_epoch_and_caption_with_the_control_below(records):
    grid = grid_of(records, "epoch", "caption")
    assert grid.x_values == (3, 6) and grid.y_values == (("v1", "v2", NO_ADAPTER),)
    names = [[cell.picture.stem for cell in row] for row in grid.cells[0]]
    assert names == [["a3", "a6"], ["b3", "b6"], ["none", "none"]]
    assert grid.varying == ("rank",) and grid.seed == 5


def test_a_pair_that_no_trial_has_is_empty(records):
    cells = grid_of(records, "rank", "caption").cells[0]
    assert [[cell.picture is not None for cell in row] for row in cells[:2]] == [[True, False], [False, True]]


def test_the_drawn_grid_shows_the_pictures_in_order(records):
    sheet = draw_grid(grid_of(records, "epoch", "caption"))
    greys = [pixel[1] for _, pixel in sorted(sheet.getcolors(10**6), reverse=True)]
    assert {10, 20, 30, 40, 50} <= set(greys[:12]) and sheet.width > 2 * CELL_PIXELS


@pytest.mark.parametrize(
    "axes, wanted, message",
    [
        (("epoch", "captoin"), {}, "`captoin` is none of epoch, caption, rank"),
        (("rank", "rank"), {}, "the axes are rank, rank"),
        (("rank", "caption"), {"prompt": "q"}, "'q' is none of: p"),
        (("rank", "caption"), {"seed": 9}, "9 is none of: 5"),
    ],
)
def test_what_the_records_lack_is_refused_by_its_value(records, axes, wanted, message):
    with pytest.raises(RecordsError, match=message):
        grid_of(records, *axes, **wanted)


def test_a_missing_picture_is_named(records):
    (records.folder / "a6.png").unlink()
    with pytest.raises(RecordsError, match="a6.png is not"):
        draw_grid(grid_of(records, "epoch", "caption"))


def test_the_row_without_the_trigger_word_has_the_picture_of_the_same_number_as_its_noise_is_another(pictured):
    grid = grid_of(load_study_records(pictured), "guidance", "caption", seed=12)
    assert grid.y_values == (("v1", "v2", NO_TRIGGER, NO_ADAPTER),) and (grid.prompt, grid.seed, grid.bare_seed) == ("J3, smile", 12, 22)
    names = [[cell.picture.relative_to(pictured).as_posix() for cell in row] for row in grid.cells[0]]
    assert names[2:] == [["pictures/e2-3/3.png", "pictures/e3-3/3.png"], ["pictures/none-2/1.png", "pictures/none-6/1.png"]]
    assert grid_of(load_study_records(pictured), "guidance", "caption", prompt="smile").bare_seed is None


@pytest.mark.parametrize("names_nearest, is_by_pixels", [(True, False), (False, True)])
def test_the_nearest_training_image_stands_right_of_each_picture(tmp_path, names_nearest, is_by_pixels):
    records = load_study_records(write_pictured_study(tmp_path / "s", names_nearest=names_nearest))
    plain, grid = grid_of(records, "guidance", "caption"), grid_of(records, "guidance", "caption", nearest=True)
    best = grid.cells[0][1][1]
    assert best.trial == "t0003" and best.nearest.name == "pale.png" and best.is_by_pixels is is_by_pixels and plain.cells[0][1][1].nearest is None
    greys = [pixel[1] for _, pixel in sorted(draw_grid(grid).getcolors(10**6), reverse=True)]
    assert 245 in greys[:12] and 245 not in [pixel[1] for _, pixel in sorted(draw_grid(plain).getcolors(10**6), reverse=True)][:12]
    assert draw_grid(grid).width == 112 + 2 * (2 * CELL_PIXELS + 6) + 6  # names at the left, two columns of pairs with their gaps
