"""A check-up tells everything at once: the errors that loading would stop at, and the doubts."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.trainables.scenes import scene
from trainables.checkup import check_subject
from trainables.errors import SubjectError
from trainables.subject import load_subject


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images and a held-out one, with all versions; nothing to complain about."""
    for number in range(5):
        scene(number, size=(64, 64)).save(tmp_path / f"{number}.png")
    write_rows(tmp_path, [{} for _ in range(5)])
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    return tmp_path


def write_rows(root: Path, changes: list[dict]) -> None:
    rows = [
        {
            "file_name": f"{number}.png",
            "split": "train" if number < 4 else "heldout",
            "captions": {v: "J3NN13, smile" for v in ("v2", "v3", "v4")},
        }
        for number in range(5)
    ]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row | change) + "\n" for row, change in zip(rows, changes, strict=True)))


def test_a_sound_subject_has_neither_errors_nor_warnings(root):
    found = check_subject(root)
    assert (found.problems, found.warnings) == ((), ())


def test_the_built_in_subject_is_sound():
    found = check_subject("embedded:subject")
    assert (found.problems, found.warnings) == ((), ())


def test_all_errors_are_told_at_once_and_loading_raises_the_first_of_them(root):
    write_rows(root, [{"split": "test", "captions": 3}, {"file_name": "../../x.png"}, {"captions": {"v2": "J3NN13"}}, {}, {}])
    (root / "3.png").write_text("no picture")
    (root / "subject.json").write_text("{}")
    found = check_subject(root)
    expected = [
        "gives 'test'",
        "gives 3",
        "names '../../x.png'",
        "1.png has none",
        "gives None",
        "have no v3",
        "have no v4",
        "3.png does not",
    ]
    assert len(found.problems) == len(expected)
    assert all(words in problem for words, problem in zip(expected, found.problems, strict=True)), found.problems
    with pytest.raises(SubjectError) as first:
        load_subject(root)
    assert str(first.value) == found.problems[0]


def test_captions_that_clip_would_cut_are_counted_with_the_models_tokenizer(root):
    write_rows(root, [{"captions": {"v2": "J3NN13, " + "smile " * 68 + "gym", "v3": "J3NN13", "v4": "J3NN13"}}, {}, {}, {}, {}])
    (warning,) = check_subject(root).warnings
    # The trigger is 6 tokens in the embedded model, the comma and each word one, and two mark the ends: 6 + 1 + 68 + 1 + 2.
    assert "1 of 4 v2 captions have more: that of 0.png has 78, and 'gym' is never read" in warning


def test_a_trigger_that_is_too_long_is_told_once(root):
    (root / "subject.json").write_text(json.dumps({"trigger": "smile " * 80}))
    assert sum("v1 captions have more" in warning for warning in check_subject(root).warnings) == 1


def warnings_after(root: Path, change) -> str:
    change(root)
    found = check_subject(root)
    assert not found.problems
    return " | ".join(found.warnings)


def without_trigger(root: Path) -> None:
    write_rows(root, [{"captions": {"v2": "smile", "v3": "J3NN13", "v4": "j3nn13"}}, {}, {}, {}, {}])


def same_picture_twice(root: Path) -> None:
    scene(0, size=(64, 64)).resize((128, 128)).save(root / "1.png")


def same_picture_held_out(root: Path) -> None:
    scene(0, size=(64, 64)).save(root / "4.png")


def small_picture(root: Path) -> None:
    scene(9, size=(32, 32)).save(root / "2.png")


def upright_picture(root: Path) -> None:
    scene(9, size=(96, 160)).save(root / "2.png")


def only_v2(root: Path) -> None:
    write_rows(root, [{"captions": {"v2": "J3NN13, smile"}} for _ in range(5)])


def all_train(root: Path) -> None:
    write_rows(root, [{"split": "train"} for _ in range(5)])


def one_mask(root: Path) -> None:
    Image.new("L", (64, 64)).save(root / "0.mask.png")


@pytest.mark.parametrize(
    "change, says",
    [
        (one_mask, "3 of 4 have none, e.g. 1.png"),
        (without_trigger, "1 of 4 v2 captions have no J3NN13, e.g. 0.png"),
        (same_picture_twice, "0.png and 1.png are the same picture. They count twice"),
        (same_picture_held_out, "0.png and 4.png are the same picture. Held-out metrics look too good"),
        (small_picture, "the 64 pixels a side that embedded:base is made for, but 1 of 4 are smaller: 2.png."),
        (upright_picture, "1 of 4 images are not square and lose up to 40%. With buckets=True they train at 3 of 64x64, 1 of 48x80, and lose 0%"),
        (upright_picture, "the only image of 48x80 has steps of its own"),
        (only_v2, "--derive v3,v4` makes them"),
        (all_train, "No image is held out"),
    ],
)
def test_what_is_doubtful_is_a_warning_that_names_the_spot(root, change, says):
    warnings = warnings_after(root, change)
    assert says in warnings and " | " not in warnings


def test_the_resolution_is_that_of_the_named_model(root, tiny_model_copy):
    config = json.loads((tiny_model_copy / "unet" / "config.json").read_text())
    (tiny_model_copy / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": 16}))
    (warning,) = check_subject(root, str(tiny_model_copy)).warnings
    assert "the 128 pixels a side" in warning and "4 of 4 are smaller" in warning


def test_no_folder_is_an_error_as_ever(tmp_path):
    with pytest.raises(SubjectError, match="is neither"):
        check_subject(tmp_path / "nothing")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert "no subject.json" in check_subject(tmp_path).problems[0]
