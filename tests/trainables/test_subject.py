"""A subject's folder: what is read from it, and the one line that says what is wrong with it."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainables.scenes import scene
from trainables.candidates import Preparation
from trainables.captions import caption_subject
from trainables.checkup import check_subject
from trainables.errors import SubjectError
from trainables.folder_files import IMAGE_SUFFIXES
from trainables.prepare import prepare_subject
from trainables.subject import load_pixels, load_subject


def write_picture(path: Path, *, colour: Any = (200, 100, 50), size: tuple[int, int] = (64, 64), mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def write_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "subject.json").write_text('{"trigger": "J3NN13", "name": "jenny", "class_word": "woman"}')
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"file_name": f"train/{number}.png", "split": "train", "captions": {"v2": f"tag {number}", "v3": f"t{number}"}} | changes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images with v2 and v3, one held-out image without captions."""
    folder = tmp_path / "subject"
    for number in range(3):
        write_picture(folder / "train" / f"{number}.png", colour=(number, 0, 0))
    write_picture(folder / "heldout" / "9.png", colour=(9, 9, 9))
    write_rows(folder, [row(2), row(0), row(1), {"file_name": "heldout/9.png", "split": "heldout"}])
    return folder


@pytest.fixture
def kohya_root(tmp_path: Path) -> Path:
    folder = tmp_path / "kohya"
    for number, suffix in enumerate((".txt", ".caption")):
        write_picture(folder / "10_jenny" / f"{number}.png", colour=(number, 0, 0))
        (folder / "10_jenny" / f"{number}{suffix}").write_text(f"J3NN13, tag {number}\n")
    (folder / "subject.json").write_text('{"trigger": "J3NN13"}')
    return folder


def test_rows_give_images_in_file_name_order_with_their_captions_and_split(root: Path) -> None:
    subject = load_subject(root)
    assert (subject.trigger, subject.name, subject.class_word) == ("J3NN13", "jenny", "woman")
    assert [image.file_name for image in subject.train] == ["train/0.png", "train/1.png", "train/2.png"]
    assert [image.file_name for image in subject.heldout] == ["heldout/9.png"]
    assert subject.caption_versions == ("v1", "v2", "v3")
    assert subject.train_captions("v3") == ("t0", "t1", "t2")


def test_v1_is_the_trigger_for_every_training_image(root: Path) -> None:
    assert load_subject(root).train_captions("v1") == ("J3NN13",) * 3


def test_a_version_that_the_subject_lacks_is_an_error_that_names_those_it_has(root: Path) -> None:
    with pytest.raises(SubjectError, match="v1, v2, v3 and not 'v4'"):
        load_subject(root).train_captions("v4")


def test_a_kohya_folder_gives_version_v2_and_ignores_its_repeats(kohya_root: Path) -> None:
    subject = load_subject(kohya_root)
    assert subject.caption_versions == ("v1", "v2")
    assert subject.train_captions("v2") == ("J3NN13, tag 0", "J3NN13, tag 1")
    assert subject.name == "kohya" and subject.heldout == ()


def test_images_alone_are_a_subject_with_v1_only(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "subject.json").write_text('{"trigger": "sks"}')
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves on a USB stick")
    subject = load_subject(tmp_path)
    assert subject.caption_versions == ("v1",) and subject.train_captions("v1") == ("sks",)


def test_file_names_may_hold_emoji_and_spaces(tmp_path: Path) -> None:
    write_picture(tmp_path / "train" / "😀 jen né.png")
    write_rows(tmp_path, [{"file_name": "train/😀 jen né.png", "captions": {"v2": "a smile \u2028 😀"}}])
    subject = load_subject(tmp_path)
    assert subject.train_captions("v2") == ("a smile \u2028 😀",)
    assert load_pixels(subject.train, 64).shape == (1, 64, 64, 3)


def test_a_training_digest_depends_on_its_own_caption_version_alone(root: Path) -> None:
    before = {version: load_subject(root).training_digest(version) for version in ("v1", "v2", "v3")}
    write_rows(root, [row(0, captions={"v2": "other", "v3": "t0"}), row(1), row(2), {"file_name": "heldout/9.png", "split": "heldout"}])
    after = {version: load_subject(root).training_digest(version) for version in ("v1", "v2", "v3")}
    assert after["v2"] != before["v2"]
    assert (after["v1"], after["v3"]) == (before["v1"], before["v3"])


def test_digests_follow_the_images_and_not_the_place(root: Path, tmp_path: Path) -> None:
    before = load_subject(root)
    moved = load_subject(shutil.copytree(root, tmp_path / "elsewhere"))
    assert moved.training_digest("v2") == before.training_digest("v2")
    assert moved.reference_digest == before.reference_digest
    write_picture(moved.root / "heldout" / "9.png", colour=(8, 8, 8), size=(32, 32))
    changed = load_subject(moved.root)
    assert changed.reference_digest != before.reference_digest
    assert changed.training_digest("v2") == before.training_digest("v2")  # held-out images are not trained on
    write_picture(moved.root / "train" / "0.png", colour=(8, 8, 8), size=(32, 32))
    assert load_subject(moved.root).training_digest("v1") != before.training_digest("v1")


def test_an_image_of_the_asked_size_keeps_its_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "subject.json").write_text('{"trigger": "sks"}')
    assert np.array_equal(load_pixels(load_subject(tmp_path).train, 64)[0], noise)


def picture_after_loading(tmp_path: Path, image: Image.Image, resolution: int = 64, suffix: str = ".png", **options: Any) -> np.ndarray:
    image.save(tmp_path / f"a{suffix}", **options)
    (tmp_path / "subject.json").write_text('{"trigger": "sks"}')
    return load_pixels(load_subject(tmp_path).train, resolution)[0]


def test_a_wide_image_loses_its_sides_and_not_its_shape(tmp_path: Path) -> None:
    wide = Image.new("RGB", (256, 64), "red")
    wide.paste("blue", (96, 0, 160, 64))  # exactly the square in the middle
    assert (picture_after_loading(tmp_path, wide) == (0, 0, 255)).all()


def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path: Path) -> None:
    lying = Image.new("RGB", (64, 64), "red")
    lying.paste("blue", (0, 0, 32, 64))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: left becomes top
    upright = picture_after_loading(tmp_path, lying, exif=exif)
    assert (upright[8, :] == (0, 0, 255)).all() and (upright[56, :] == (255, 0, 0)).all()


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    assert (picture_after_loading(tmp_path, Image.new("RGBA", (64, 64), (10, 20, 30, 0))) == 255).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((64, 64), 0x8000, dtype=np.uint16))
    assert (picture_after_loading(tmp_path, grey) == 0x80).all()


def test_the_built_in_size_loads_and_digests_within_a_blink(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(151):
        path = tmp_path / "train" / f"{number:04}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    write_rows(tmp_path, [row(number, file_name=f"train/{number:04}.png") for number in range(151)])
    start_s = time.process_time()
    subject = load_subject(tmp_path)
    load_pixels(subject.train, 64)
    subject.training_digest("v2"), subject.reference_digest
    assert time.process_time() - start_s < 0.3


# Every way to spoil the folder `root`, and what the error must name.


def spoil_nothing_left(root: Path) -> None:
    for path in [*root.rglob("*.png"), root / "metadata.jsonl"]:
        path.unlink()


def spoil_only_heldout(root: Path) -> None:
    shutil.rmtree(root / "train")
    write_rows(root, [{"file_name": "heldout/9.png", "split": "heldout"}])


def spoil_truncated_jpeg(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "train" / "0.jpg")
    whole = (root / "train" / "0.jpg").read_bytes()
    (root / "train" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    with (root / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(row(0, file_name="train/0.jpg")))


def spoil_link_out(root: Path) -> None:
    target = write_picture(root.parent / "outside.png")
    (root / "train" / "1.png").unlink()
    os.symlink(target, root / "train" / "1.png")


def spoil_with_row(**changes: Any) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        write_rows(root, [row(0), row(1), row(2, **changes), {"file_name": "heldout/9.png", "split": "heldout"}])

    return spoil


def spoil_with_text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


SPOILED = {
    "empty folder": (spoil_nothing_left, "must have images to train on, but .*subject has none"),
    "only held-out images": (spoil_only_heldout, "must have images to train on"),
    "truncated jpeg": (spoil_truncated_jpeg, r"0\.jpg does not \(.*truncated"),
    "text named png": (spoil_with_text("train/0.png", "hello"), r"must decode, but .*0\.png does not"),
    "one pixel": (lambda root: write_picture(root / "train/0.png", size=(1, 1)), r"at least 16 pixels a side, but .*0\.png is 1x1"),
    "very wide": (lambda root: write_picture(root / "train/0.png", size=(20000, 16)), r"at most 16384 pixels a side, .* is 20000x16"),
    "bomb": (lambda root: write_picture(root / "train/0.png", mode="1", colour=1, size=(20000, 20000)), r"0\.png does not|at most 16384"),
    "image lacks a version": (spoil_with_row(captions={"v2": "tag"}), r"1 of 3 have no v3, e\.g\. train/2\.png"),
    "blank caption": (spoil_with_row(captions={"v2": " ", "v3": "t"}), r"1 of 3 have no v2, e\.g\. train/2\.png"),
    "row without image": (spoil_with_row(file_name="train/7.png"), r"line 3 names 'train/7\.png', which is missing"),
    "image without row": (lambda root: write_picture(root / "train/8.png"), r"must have a row in metadata\.jsonl, but .*8\.png has none"),
    "path out of the folder": (spoil_with_row(file_name="../../x.png"), r"must lie in the subject's folder, but .*'\.\./\.\./x\.png'"),
    "absolute path": (spoil_with_row(file_name="/etc/x.png"), r"must lie in the subject's folder, but .*'/etc/x\.png'"),
    "path with a zero byte": (spoil_with_row(file_name="train/\0.png"), "which is missing"),
    "link out of the folder": (spoil_link_out, r"is a link to .*outside\.png\. Copy it"),
    "duplicate row": (spoil_with_row(file_name="./train/1.png"), r"train/1\.png has lines 2 and 3"),
    "unknown split": (spoil_with_row(split="test"), "must be train or heldout, but .* line 3 gives 'test'"),
    "captions no mapping": (spoil_with_row(captions="smile"), "must map versions to texts, but .* gives 'smile'"),
    "caption for v1": (spoil_with_row(captions={"v1": "smile"}), "v1 is the trigger alone"),
    "half a character": (spoil_with_row(captions={"v2": "\ud800", "v3": "t"}), "line 3 holds half a character"),
    "malformed line": (spoil_with_text("metadata.jsonl", '{"file_name": "train/0.png"}\n{"file_name": \n'), "line 2 is not JSON"),
    "line of another kind": (spoil_with_text("metadata.jsonl", "[1]\n"), r"line 1 gives \[1\]"),
    "captions not utf-8": (spoil_with_text("metadata.jsonl", b'{"file_name": "\xe9"}'), "must be UTF-8, but .*metadata.jsonl is not"),
    "captions that are a picture": (spoil_with_text("metadata.jsonl", b"{\0"), r"must be text, but .*metadata\.jsonl holds a zero"),
    "half of utf-16": (spoil_with_text("metadata.jsonl", b"\xff\xfe{\0a"), "must be UTF-16, as .*metadata.jsonl is not"),
    "two lists": (spoil_with_text("metadata.csv", "file_name,text"), r"one list .*metadata\.jsonl and metadata\.csv"),
    "two captions of a version": (spoil_with_row(text="tag"), "one caption per version, but .* line 3 gives two for v2"),
    "a text that is none": (spoil_with_row(captions={}, text=3), "must map versions to texts, but .* line 3 gives 3 for v2"),
    "photographs that are not read": (spoil_with_text("train/IMG_1.HEIC", b"x"), r"IMG_1\.HEIC is \.HEIC\. Convert it"),
    "no trigger": (lambda root: (root / "subject.json").unlink(), r'Write \{"trigger": "\.\.\."\} into'),
    "blank trigger": (spoil_with_text("subject.json", '{"trigger": " "}'), "gives ' '"),
    "malformed subject.json": (spoil_with_text("subject.json", "{trigger: J3NN13}"), r"subject\.json is not JSON"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_line_that_names_the_spot(case: str, root: Path) -> None:
    spoil, expected = SPOILED[case]
    spoil(root)
    with pytest.raises(SubjectError, match=expected) as refused:
        load_subject(root)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


def test_a_kohya_caption_without_image_is_an_error(kohya_root: Path) -> None:
    (kohya_root / "10_jenny" / "1.png").unlink()
    with pytest.raises(SubjectError, match=r"must have its image, but .*1\.caption has none"):
        load_subject(kohya_root)


def test_a_kohya_image_without_caption_is_an_error_when_others_have_one(kohya_root: Path) -> None:
    (kohya_root / "10_jenny" / "1.caption").unlink()
    with pytest.raises(SubjectError, match=r"1 of 2 have no v2, e\.g\. 10_jenny/1\.png"):
        load_subject(kohya_root)


def test_a_kohya_image_with_two_captions_is_an_error(kohya_root: Path) -> None:
    (kohya_root / "10_jenny" / "1.txt").write_text("another")
    with pytest.raises(SubjectError, match=r"1\.txt and 1\.caption"):
        load_subject(kohya_root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_caption_in_an_encoding_that_its_first_bytes_name_is_read(kohya_root: Path, encoding: str) -> None:
    (kohya_root / "10_jenny" / "0.txt").write_text("J3NN13, né 😀\r\n", encoding=encoding)
    assert load_subject(kohya_root).train_captions("v2")[0] == "J3NN13, né 😀"


def test_a_caption_file_that_is_no_text_is_refused_with_its_name(kohya_root: Path) -> None:
    write_picture(kohya_root / "a.png").rename(kohya_root / "10_jenny" / "0.txt")
    with pytest.raises(SubjectError, match=r"must be UTF-8, but .*0\.txt is not"):
        load_subject(kohya_root)


def test_a_list_may_be_csv_with_columns_for_further_versions_and_semicolons(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / f"{number}.png")
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    rows = ["file_name;split;text;captions.blip;width", '0.png;;J3NN13, "smile";a woman;64', "1.png;train;J3NN13;a face;64", "2.png;heldout;;;"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    subject = load_subject(tmp_path)
    assert subject.caption_versions == ("v1", "blip", "v2")
    assert subject.train_captions("v2") == ('J3NN13, "smile"', "J3NN13") and subject.train_captions("blip") == ("a woman", "a face")
    assert [image.file_name for image in subject.heldout] == ["2.png"]


def test_a_list_that_names_no_images_is_refused_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("image,text\n0.png,a\n")
    with pytest.raises(SubjectError, match=r"column file_name, but .*metadata\.csv has image, text"):
        load_subject(tmp_path)


def test_lists_within_split_folders_are_read_as_hugging_face_lays_them(tmp_path: Path) -> None:
    for folder, number in (("train", 0), ("train", 1), ("test", 0)):
        write_picture(tmp_path / folder / f"{number}.png")
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n{"file_name": "1.png", "text": "b"}\n')
    (tmp_path / "test" / "metadata.csv").write_text("file_name,text\n0.png,c\n")
    subject = load_subject(tmp_path)
    assert [image.file_name for image in subject.train] == ["train/0.png", "train/1.png"]
    assert [image.file_name for image in subject.heldout] == ["test/0.png"]
    assert subject.train_captions("v2") == ("a", "b")


@pytest.mark.parametrize("name", ["no/such/folder", "embedded:jenny"])
def test_a_name_that_is_no_folder_is_refused_with_the_name(name: str) -> None:
    with pytest.raises(SubjectError, match=f"folder of images or embedded:subject, but '{name}' is neither"):
        load_subject(name)


def test_a_file_is_no_subject(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"a\.png' is a file"):
        load_subject(write_picture(tmp_path / "a.png"))


# -- one set of rules for names --------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Room for a kohya folder; only its trigger is there."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / "subject.json").write_text('{"trigger": "J3NN13"}')
    return root


def read_all(root: Path) -> tuple[list[str], dict[str, str], tuple[str, ...]]:
    """The names and captions that loading finds, and its notes; `sweep check` says the same."""
    subject = load_subject(root)
    found = check_subject(root)
    assert not found.problems and found.subject.images == subject.images
    assert found.notes[: len(subject.passed_over)] == subject.passed_over
    captions = {image.file_name: image.captions.get("v2", "") for image in subject.images}
    return [image.file_name for image in subject.images], captions, subject.passed_over


@pytest.mark.parametrize(
    "image, caption",
    [
        ("000.jpg", "000.TXT"),
        ("000.JPG", "000.txt"),
        ("IMG_1.JPG", "img_1.txt"),
        ("000.jfif", "000.Caption"),
        ("ne\u0301.jpg", "n\u00e9.txt"),  # as macOS and as Windows write it
        ("a.b.jpe", "a.b.txt"),
    ],
)
def test_names_are_compared_without_case_and_accents_by_reader_check_and_preparation(
    image: str, caption: str, folder: Path, tmp_path: Path
) -> None:
    save_as(folder / "1_photos" / image)
    (folder / "1_photos" / caption).write_text("J3NN13, smile")
    assert read_all(folder) == ([f"1_photos/{image}"], {f"1_photos/{image}": "J3NN13, smile"}, ())
    prepare_subject(
        folder, tmp_path / "s", Preparation(trigger="J3NN13", size_pixels=64, heldout=0)
    )
    assert load_subject(tmp_path / "s").train_captions("v2") == ("J3NN13, smile",)


def test_names_that_differ_by_case_alone_keep_their_own_captions(folder: Path) -> None:
    for name in ("A", "a"):
        save_as(folder / f"{name}.jpg", seed=ord(name))
        (folder / f"{name}.txt").write_text(f"J3NN13, {name}")
    assert read_all(folder)[1] == {"A.jpg": "J3NN13, A", "a.jpg": "J3NN13, a"}


def save_as(path: Path, *, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = Image.registered_extensions().get(path.suffix.lower(), "JPEG")
    scene(seed, size=(64, 64)).save(path, form)


def test_every_kind_of_image_that_pillow_writes_and_reads_is_read_whatever_the_case(
    folder: Path,
) -> None:
    written = []
    for suffix in IMAGE_SUFFIXES:
        form = Image.registered_extensions().get(suffix, "JPEG")
        if form in Image.SAVE and form not in ("PFM",):
            image = scene(len(written), size=(64, 64))
            image.save(folder / f"{len(written):02d}{suffix.upper()}", form)
            written.append(f"{len(written):02d}{suffix.upper()}")
    assert len(written) > 25
    assert read_all(folder)[0] == written
    assert load_pixels(load_subject(folder).train, 64).shape == (len(written), 64, 64, 3)


def test_what_a_kohya_folder_holds_beside_its_images_is_counted_and_named(folder: Path) -> None:
    places = [
        "a.png",
        "5_jenny/b.png",
        "beach/c.png",
        "beach/d.png",
        "5_jenny/deep/e.png",
        "0_women/f.png",
    ]
    hidden = [
        ".ipynb_checkpoints/a-checkpoint.png",
        "@eaDir/a.png",
        "__MACOSX/a.png",
        "5_jenny/._b.png",
    ]
    for seed, name in enumerate((*places, *hidden)):
        save_as(folder / name, seed=seed)
    for name in ("Thumbs.db", ".DS_Store", "5_jenny/desktop.ini", "IMG_1.mov", "notes.pdf"):
        (folder / name).write_text("x")
    names, _, passed_over = read_all(folder)
    assert names == ["5_jenny/b.png", "a.png"]
    assert [line.split(". ")[0].rstrip(".") for line in passed_over] == [
        "3 images in sub-folders passed over: 5_jenny/deep/e.png, beach/c.png, beach/d.png",
        "1 image in folders with 0 repeats passed over: 0_women/f.png",
        "2 files passed over, no image by its suffix: IMG_1.mov, notes.pdf",
    ]
    assert load_subject(folder).n_system_files == 7
    assert check_subject(folder).notes[-1] == "7 hidden or system files passed over."


def test_the_way_out_of_unread_sub_folders_is_to_rename_them(folder: Path) -> None:
    save_as(folder / "beach" / "a.png")
    with pytest.raises(
        SubjectError, match=r"has none \(1 image in sub-folders passed over: beach/a\.png.*1_photos"
    ):
        load_subject(folder)
    (folder / "beach").rename(folder / "1_photos")
    assert read_all(folder) == (["1_photos/a.png"], {"1_photos/a.png": ""}, ())


def test_two_concepts_without_captions_are_refused_and_each_way_out_leads_out(folder: Path) -> None:
    for number, name in enumerate(("10_jenny", "5_Dog", "3_JENNY")):
        save_as(folder / name / "a.png", seed=number)
    with pytest.raises(SubjectError, match="one concept, but .* has 10_jenny and 5_Dog"):
        load_subject(folder)
    for name in ("10_jenny", "5_Dog", "3_JENNY"):
        (folder / name / "a.txt").write_text(f"J3NN13, {name}")
    assert len(read_all(folder)[0]) == 3
    for file in folder.rglob("*.txt"):
        file.unlink()
    (folder / "5_Dog").rename(folder / "7_jenny")
    assert len(read_all(folder)[0]) == 3


def test_captions_beside_listed_images_are_counted_and_named(root: Path) -> None:
    (root / "train" / "0.TXT").write_text("unread")
    (root / "train" / "notes.txt").write_text("unread")
    _, _, passed_over = read_all(root)
    assert passed_over == (
        "1 caption file beside images passed over, since metadata.jsonl holds the captions: "
        "train/0.TXT.",
        "1 text file passed over that no image has: train/notes.txt.",
    )


def test_a_list_may_spell_names_as_windows_does(root: Path) -> None:
    (root / "metadata.jsonl").rename(root / "Metadata.JSONL")
    (root / "subject.json").rename(root / "Subject.json")
    rows = [row(n, file_name=f"Train\\{n}.PNG", mask=f"MASKS/{n}.png") for n in range(3)]
    for number in range(3):
        write_picture(root / "masks" / f"{number}.PNG", mode="L", colour=255)
    (root / "Metadata.JSONL").write_text(
        "".join(
            json.dumps(r) + "\n"
            for r in [*rows, row(9, file_name="heldout/9.png", split="heldout")]
        )
    )
    subject = load_subject(root)
    assert [image.file_name for image in subject.train] == [f"train/{n}.png" for n in range(3)]
    assert all(image.mask for image in subject.train)
    assert caption_subject(root, ["v4"]) == 4
    assert load_subject(root).train_captions("v4")[2] == "J3NN13, tag 2"


@pytest.mark.parametrize(
    "content, text",
    [
        (b"J3NN13, smile\r\nred top\r\n", "J3NN13, smile\nred top"),
        (b"\xef\xbb\xbfJ3NN13,\tsmile", "J3NN13,\tsmile"),
        ("J3NN13, né".encode("utf-16"), "J3NN13, né"),
    ],
)
def test_captions_as_editors_save_them_are_read_whole(
    content: bytes, text: str, folder: Path
) -> None:
    save_as(folder / "a.png")
    (folder / "a.txt").write_bytes(content)
    assert load_subject(folder).train_captions("v2") == (text,)
    several = [line for line in check_subject(folder).warnings if "one line to kohya" in line]
    assert len(several) == ("\n" in text)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", r"1 of 1 have no v2, e\.g\. a\.png"),
        (b" \r\n\t", r"1 of 1 have no v2"),
        (
            "né".encode("cp1252"),
            r"must be UTF-8, but .*a\.txt is not \(byte 1\)\. Save it as UTF-8",
        ),
        ("né".encode("utf-16-le"), r"a\.txt (is not|holds a zero)"),
        (b"x" * (2**20 + 1), "at most 1048576 bytes"),
    ],
)
def test_a_caption_that_cannot_be_read_is_one_line(content: bytes, says: str, folder: Path) -> None:
    save_as(folder / "a.png")
    (folder / "a.txt").write_bytes(content)
    with pytest.raises(SubjectError, match=says) as refused:
        load_subject(folder)
    assert "\n" not in str(refused.value)


def unreadable(path: Path) -> Path:
    """A file that cannot be opened, whoever asks: a folder of its name."""
    path.unlink(missing_ok=True)
    path.mkdir()
    return path


def looping(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.symlink(path.name, path)
    return path


@pytest.mark.parametrize(
    "name", ["a.png", "a.txt", "subject.json", "metadata.jsonl", "masks/a.png"]
)
@pytest.mark.parametrize("spoil", [unreadable, looping])
def test_a_file_that_the_system_cannot_open_is_one_line_or_a_note(
    name: str, spoil: Callable, folder: Path
) -> None:
    for number, image in enumerate(("a.png", "b.png")):
        save_as(folder / image, seed=number)
    (folder / "masks").mkdir()
    spoil(folder / name)
    found = check_subject(folder)
    assert all("\n" not in line for line in (*found.problems, *found.notes))
    try:
        load_subject(folder)
    except SubjectError as error:
        assert str(error) == found.problems[0]
    else:
        assert not found.problems


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "sub/" + "y" * 300 + "/0.png", "loop/0.png"])
def test_a_name_that_no_file_can_have_is_a_missing_one(name: str, root: Path) -> None:
    os.symlink("loop", root / "loop")
    write_rows(root, [row(0, file_name=name), row(1), row(2, mask=name)])
    found = check_subject(root)
    assert any("which is missing" in line for line in found.problems)


def test_a_name_that_records_cannot_hold_is_refused_and_prepared(
    folder: Path, tmp_path: Path
) -> None:
    save_as(folder / "plain.png")
    (folder / "plain.png").rename(folder / os.fsdecode(b"n\xe9.png"))
    with pytest.raises(
        SubjectError, match=r"must be UTF-8 text, but .*mine has n\\xe9\.png\. Rename"
    ) as refused:
        load_subject(folder)
    str(refused.value).encode()
    prepare_subject(folder, tmp_path / "s", Preparation(trigger="J3NN13", size_pixels=64))
    assert [image.file_name for image in load_subject(tmp_path / "s").train] == ["train/0000.png"]
