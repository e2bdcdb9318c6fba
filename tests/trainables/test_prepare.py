"""Raw photographs become a subject that loads: what is dropped and why, what is held out, and what is left when it fails."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tests.trainables.scenes import scene
from trainables import prepare
from trainables.candidates import Preparation
from trainables.errors import SubjectError
from trainables.prepare import prepare_subject
from trainables.subject import load_pixels, load_subject

N_SCENES = 10


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Ten scenes of 128 x 96 pixels."""
    folder = tmp_path / "raw photos"
    folder.mkdir()
    for number in range(N_SCENES):
        scene(number, size=(128, 96)).save(folder / f"{number}.png")
    return folder


def how(**changes) -> Preparation:
    return Preparation(**({"trigger": "J3NN13", "size_pixels": 64} | changes))


def report_of(root: Path) -> dict[str, dict[str, str]]:
    with open(root / "report.csv", encoding="utf-8", newline="") as file:
        return {row["photograph"]: row for row in csv.DictReader(file)}


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_subject_loads_with_squares_of_the_size_and_the_raw_folder_is_as_it_was(raw, tmp_path):
    before = files_under(raw)
    told = []
    prepared = prepare_subject(raw, tmp_path / "jenny", how(class_word="woman"), progress=lambda done, total: told.append((done, total)))
    subject = load_subject(tmp_path / "jenny")
    assert (subject.trigger, subject.name, subject.class_word) == ("J3NN13", "jenny", "woman")
    assert (len(subject.train), len(subject.heldout)) == (8, 2) == (prepared.n_split("train"), prepared.n_split("heldout"))
    assert {Image.open(image.path).size for image in subject.images} == {(64, 64)}
    assert told[-1] == (N_SCENES, N_SCENES)
    assert files_under(raw) == before


def test_cropping_is_what_loading_would_have_cropped(raw, tmp_path):
    prepare_subject(raw, tmp_path / "s", how(heldout=0))
    (raw / "subject.json").write_text('{"trigger": "x"}')
    assert np.array_equal(load_pixels(load_subject(tmp_path / "s").train, 64), load_pixels(load_subject(raw).train, 64))


def test_padding_keeps_all_of_a_photograph_between_white_bars(raw, tmp_path):
    prepare_subject(raw, tmp_path / "s", how(fit="pad"))
    pixels = load_pixels(load_subject(tmp_path / "s").train, 64)
    assert (pixels[:, :8] == 255).all() and (pixels[:, 56:] == 255).all() and (pixels[:, 9:55] != 255).any()


def test_the_same_seed_holds_out_the_same_photographs_and_another_seed_others(raw, tmp_path):
    def heldout(name: str, seed: int) -> list[str]:
        prepare_subject(raw, tmp_path / name, how(seed=seed))
        return [row["photograph"] for row in report_of(tmp_path / name).values() if row["split"] == "heldout"]

    assert heldout("a", 0) == heldout("b", 0)
    assert len({tuple(heldout(f"s{seed}", seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("seed", range(5))
def test_similar_photographs_are_on_one_side_of_the_split(raw, tmp_path, seed):
    for number in range(3):
        ImageOps.mirror(scene(number, size=(128, 96))).save(raw / f"{number} mirrored.png")
        ImageEnhance.Brightness(scene(number, size=(128, 96))).enhance(1.15).save(raw / f"{number} brighter.png")
    prepare_subject(raw, tmp_path / "s", how(seed=seed, heldout=0.4))
    report = report_of(tmp_path / "s")
    for number in range(3):
        rows = [row for name, row in report.items() if name.startswith(f"{number}") and row["verdict"] != "dropped"]
        assert len(rows) == 3 and len({row["split"] for row in rows}) == 1
        assert all("similar" in row["reasons"] and row["verdict"] == "flagged" for row in rows)
    assert sum(row["split"] == "heldout" for row in report.values()) in (5, 6)


def test_of_duplicates_the_largest_stays(raw, tmp_path):
    scene(0, size=(128, 96)).resize((256, 192)).save(raw / "large.png")
    scene(0, size=(128, 96)).save(raw / "again.jpg", quality=60)
    prepare_subject(raw, tmp_path / "s", how())
    report = report_of(tmp_path / "s")
    assert report["0.png"]["explanation"] == "it is the same picture as large.png"
    assert [name for name, row in report.items() if row["verdict"] == "dropped"] == ["0.png", "again.jpg"]


def make_oddities(raw: Path) -> dict[str, str]:
    """A photograph for every reason that needs no other, by the reason."""
    scene(20, size=(30, 90)).resize((31, 31)).save(raw / "tiny.png")
    scene(21, size=(60, 60)).save(raw / "enlarged.png")
    scene(22, size=(400, 100)).save(raw / "cropped.png")
    scene(23, size=(128, 128)).filter(ImageFilter.GaussianBlur(6)).save(raw / "blurred.png")
    scene(24, size=(128, 128)).point(lambda v: v // 6).save(raw / "dark.png")
    scene(25, size=(128, 128)).point(lambda v: 215 + v // 8).save(raw / "bright.png")
    return {path.stem: path.name for path in raw.glob("[a-z]*.png")}


def test_every_oddity_is_named_and_only_what_is_asked_is_dropped(raw, tmp_path):
    oddities = make_oddities(raw)
    prepare_subject(raw, tmp_path / "s", how())
    report = report_of(tmp_path / "s")
    for reason, name in oddities.items():
        assert reason in report[name]["reasons"].split(), report[name]
        assert report[name]["verdict"] == ("dropped" if reason == "tiny" else "flagged")
    assert all(row["verdict"] == "kept" for name, row in report.items() if name[0].isdigit())
    prepare_subject(raw, tmp_path / "strict", how(drop=("blurred", "dark", "bright", "cropped", "enlarged", "tiny")))
    assert all(report_of(tmp_path / "strict")[name]["verdict"] == "dropped" for name in oddities.values())


def test_what_is_not_read_is_dropped_with_its_reason_and_nothing_stops(raw, tmp_path):
    scene(30).save(raw / "cut.jpg")
    (raw / "cut.jpg").write_bytes((raw / "cut.jpg").read_bytes()[:2000])
    (raw / "text.png").write_text("hello")
    (raw / "camera.CR2").write_bytes(b"x")
    (raw / "._0.png").write_bytes(b"what macOS leaves on a USB stick")
    scene(31).save(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", raw / "link.png")
    os.mkfifo(raw / "pipe.png")
    prepare_subject(raw, tmp_path / "s", how())
    report = report_of(tmp_path / "s")
    says = {"cut.jpg": "truncated", "text.png": "cannot identify", "camera.CR2": ".CR2", "link.png": "is a link to"}
    assert {name: row["verdict"] for name, row in report.items() if row["reasons"] == "unreadable"} == dict.fromkeys(
        sorted(says), "dropped"
    )
    assert all(words in report[name]["explanation"] for name, words in says.items())
    assert len(report) == N_SCENES + len(says)


def test_names_of_any_kind_are_escaped_in_the_reports(raw, tmp_path):
    names = ["😀 né.png", "<script>alert(1)<script>.png", '=cmd|"x".png', "a,b\nc.png"]
    for number, name in enumerate(names):
        scene(40 + number).save(raw / name)
    (raw / "0.png").rename(raw / os.fsdecode(b"bad\xff.png"))
    prepare_subject(raw, tmp_path / "s", how())
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "default-src 'none'" in page
    assert page.count("data:image/jpeg;base64,") == N_SCENES + len(names)
    report = report_of(tmp_path / "s")
    assert {"😀 né.png", './=cmd|"x".png', "a,b\nc.png", r"bad\xff.png"} <= set(report)


def test_captions_beside_photographs_are_taken_along_and_further_versions_derived(raw, tmp_path):
    for number in range(N_SCENES):
        (raw / f"{number}.txt").write_text(f"J3NN13, smile, red top, tag {number}", encoding="utf-16" if number % 2 else "utf-8")
    (raw / "gone.txt").write_text("no image")
    prepared = prepare_subject(raw, tmp_path / "s", how(heldout=0))
    subject = load_subject(tmp_path / "s")
    assert subject.train_captions("v2")[3] == "J3NN13, smile, red top, tag 3"
    assert subject.train_captions("v3")[3] == "J3NN13, smile, tag 3"
    assert subject.train_captions("v4")[3] == "J3NN13 is smiling wearing a red top, tag 3"
    assert prepared.notes == ("gone.txt is a caption without an image",)
    prepare_subject(raw, tmp_path / "plain", how(derive=False))
    assert load_subject(tmp_path / "plain").caption_versions == ("v1", "v2")


def test_captions_of_a_list_are_taken_along_and_prose_is_kept_as_it_is(raw, tmp_path):
    prose = "a photo of J3NN13 who is standing in a room and smiles"
    rows = [{"file_name": f"{number}.png", "text": prose, "captions": {"blip": "a face"}} for number in range(N_SCENES)]
    (raw / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare_subject(raw, tmp_path / "s", how())
    assert load_subject(tmp_path / "s").caption_versions == ("v1", "blip", "v2")
    assert "are made of tags" in prepared.notes[0]


def test_where_some_have_captions_the_others_get_the_trigger_or_are_dropped(raw, tmp_path):
    for number in range(N_SCENES - 1):
        (raw / f"{number}.txt").write_text(f"J3NN13, smile, tag {number}")
    prepared = prepare_subject(raw, tmp_path / "s", how(heldout=0))
    subject = load_subject(tmp_path / "s")
    assert subject.caption_versions == ("v1", "v2", "v3", "v4") == prepared.caption_versions
    assert subject.train_captions("v2")[8:] == ("J3NN13, smile, tag 8", "J3NN13")
    assert report_of(tmp_path / "s")["9.png"]["explanation"] == "it has no v2"
    (note,) = prepared.notes
    assert note.startswith("1 of 10 photographs have no caption that others have, e.g. 9.png")
    asked = note.rpartition("--drop ")[2]
    assert asked == "tiny,duplicate,uncaptioned"  # what is dropped anyway is dropped as well
    prepare_subject(raw, tmp_path / "dropped", how(drop=tuple(asked.split(","))))
    assert report_of(tmp_path / "dropped")["9.png"]["verdict"] == "dropped"


COPIES = {
    "quality 95, then 60": (
        lambda im, path: save(im, path, quality=95),
        lambda im, path: save(im, path, quality=60),
    ),
    "PNG, then quality 60": (
        lambda im, path: save(im, path),
        lambda im, path: save(im, path, quality=60),
    ),
    "PNG, then quality 95": (
        lambda im, path: save(im, path),
        lambda im, path: save(im, path, quality=95),
    ),
    "quality 90, then 20": (
        lambda im, path: save(im, path, quality=90),
        lambda im, path: save(im, path, quality=20),
    ),
    "quality 95, then WebP": (
        lambda im, path: save(im, path, quality=95),
        lambda im, path: save(im, path, "WEBP"),
    ),
    "quality 95, then 60, then PNG": (
        lambda im, path: save(im, path, quality=95),
        lambda im, path: save(saved_again(im, quality=60), path, "PNG"),
    ),
    "a camera's, then without EXIF": (
        lambda im, path: save(im, path, quality=90, exif=camera_data()),
        lambda im, path: save(im, path, quality=92),
    ),
}


def save(image: Image.Image, path: Path, form: str | None = None, **options) -> None:
    image.save(path, form or ("JPEG" if "quality" in options else "PNG"), **options)


def saved_again(image: Image.Image, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return Image.open(file)


def camera_data() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    return exif


def smooth_portrait() -> Image.Image:
    path = next(iter(load_subject("embedded:subject").train)).path
    return Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("case", COPIES)
@pytest.mark.parametrize("picture", [lambda: scene(0, size=(256, 192)), smooth_portrait])
@pytest.mark.parametrize("names", [("b.jpg", "a.jpg"), ("IMG_1201.jpg", "IMG_1201 (1).jpg")])
def test_an_original_beats_its_compressed_copy_and_takes_its_captions_over(
    case, picture, names, tmp_path
):
    (tmp_path / "raw").mkdir()
    original, copy = names
    for name, write in zip(names, COPIES[case], strict=True):
        write(picture(), tmp_path / "raw" / name)
    (tmp_path / "raw" / copy).with_suffix(".txt").write_text("J3NN13, smile")
    scene(9).save(tmp_path / "raw" / "other.png")
    (tmp_path / "raw" / "other.txt").write_text("J3NN13")
    prepared = prepare_subject(tmp_path / "raw", tmp_path / "s", how(heldout=0, least_sharpness=0))
    report = report_of(tmp_path / "s")
    assert [name for name, row in report.items() if row["verdict"] == "dropped"] == [copy]
    assert (
        report[copy]["explanation"]
        == f"it is the same picture as {original}, which takes over its v2"
    )
    captions = {c.source: c.captions.get("v2") for c in prepared.candidates if not c.dropped}
    assert captions == {original: "J3NN13, smile", "other.png": "J3NN13"} and prepared.notes == ()


def test_of_equal_copies_the_captioned_one_stays_and_then_the_one_of_the_shorter_name(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("IMG_1201 (1).png", "IMG_1201.png", "captioned copy.png"):
        scene(0).save(tmp_path / "raw" / name)
    prepare_subject(tmp_path / "raw", tmp_path / "s", how())
    assert report_of(tmp_path / "s")["IMG_1201.png"]["verdict"] == "kept"
    (tmp_path / "raw" / "captioned copy.TXT").write_text("J3NN13")
    prepare_subject(tmp_path / "raw", tmp_path / "t", how())
    assert report_of(tmp_path / "t")["captioned copy.png"]["verdict"] == "kept"


def test_a_copy_that_is_dropped_for_another_reason_leaves_its_caption_and_its_mask(tmp_path):
    (tmp_path / "raw").mkdir()
    scene(0, size=(128, 128)).save(tmp_path / "raw" / "large.png")
    scene(0, size=(128, 128)).resize((24, 24)).save(tmp_path / "raw" / "thumbnail.png")
    (tmp_path / "raw" / "thumbnail.txt").write_text("J3NN13, smile")
    Image.new("L", (24, 24), 255).save(tmp_path / "raw" / "thumbnail.mask.png")
    prepare_subject(tmp_path / "raw", tmp_path / "s", how())
    subject = load_subject(tmp_path / "s")
    assert report_of(tmp_path / "s")["thumbnail.png"]["reasons"] == "tiny"
    assert subject.train_captions("v2") == ("J3NN13, smile",) and subject.train[0].mask


def test_a_caption_of_a_copy_that_is_not_used_is_told(tmp_path):
    (tmp_path / "raw").mkdir()
    for name, text in (("a", "J3NN13, smile"), ("copy", "J3NN13, frown")):
        scene(0).save(tmp_path / "raw" / f"{name}.png")
        (tmp_path / "raw" / f"{name}.txt").write_text(text)
    prepare_subject(tmp_path / "raw", tmp_path / "s", how(derive=False))
    assert load_subject(tmp_path / "s").train_captions("v2") == ("J3NN13, smile",)
    assert (
        report_of(tmp_path / "s")["copy.png"]["explanation"]
        == "it is the same picture as a.png, whose v2 differs and is used"
    )


def test_what_is_passed_over_is_counted_and_named(raw, tmp_path):
    folders = (
        raw / "0_regularisation",
        raw / "deep" / "er",
        raw / ".ipynb_checkpoints",
        raw / "@eaDir",
    )
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        scene(50 + number).save(folder / "x.png")
    for name in ("Thumbs.db", "IMG_1.MOV", "IMG_2", "0.TXT"):
        (raw / name).write_text("J3NN13")
    os.symlink("nothing", raw / "gone.jpg")
    os.symlink(raw / "deep", raw / "link")
    prepared = prepare_subject(raw, tmp_path / "s", how(heldout=0))
    assert len(prepared.candidates) == N_SCENES + 1 and "deep/er/x.png" in report_of(tmp_path / "s")
    told = " | ".join(prepared.notes)
    for words in (
        "1 image in folders with 0 repeats passed over: 0_regularisation/x.png",
        "2 files passed over, no image by its suffix: IMG_1.MOV, IMG_2",
        "gone.jpg",
        "1 link to a folder not followed: link",
        "3 hidden or system files passed over",
    ):
        assert words in told
    assert load_subject(tmp_path / "s").train_captions("v2")[0] == "J3NN13"  # 0.TXT


def test_two_concepts_without_captions_are_a_note(raw, tmp_path):
    for name in ("10_jenny", "5_dog"):
        (raw / name).mkdir()
        scene(60 + len(name)).save(raw / name / "x.png")
    (note,) = prepare_subject(raw, tmp_path / "s", how()).notes
    assert note.startswith("10_jenny and 5_dog become one subject under one trigger")


def test_heic_without_its_package_is_one_line_with_the_way_out(raw, tmp_path, monkeypatch):
    (raw / "IMG_1.HEIC").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(SubjectError, match=r"pillow-heif, .* has 1, e\.g\. IMG_1\.HEIC\. Install it \(pip install pillow-heif\)"):
        prepare_subject(raw, tmp_path / "s", how())


def test_faces_are_a_note_where_nothing_can_count_them_and_reasons_where_something_can(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "face_counter", lambda: (None, "faces are not counted: no OpenCV"))
    assert prepare_subject(raw, tmp_path / "a", how(faces=True)).notes == ("faces are not counted: no OpenCV",)
    counts = iter([0, 1, 2, *[1] * N_SCENES])
    monkeypatch.setattr(prepare, "face_counter", lambda: (lambda image: next(counts), ""))
    prepare_subject(raw, tmp_path / "b", how(faces=True, drop=("no-face",)))
    report = report_of(tmp_path / "b")
    assert [report[f"{n}.png"]["verdict"] for n in range(3)] == ["dropped", "kept", "flagged"]
    assert report["2.png"]["reasons"] == "many-faces"


def make_file(path: Path) -> Path:
    path.write_text("x")
    return path


def make_full(path: Path) -> Path:
    path.mkdir()
    make_file(path / "mine.txt")
    return path


PLACES = {
    "the same": (lambda raw: (raw, raw), "both are .*raw photos"),
    "inside": (lambda raw: (raw, raw / "subject"), "subject lies in .*raw photos"),
    "through a link": (lambda raw: (raw, linked(raw) / "subject"), "lies in"),
    "not empty": (lambda raw: (raw, make_full(raw.parent / "s")), "is not empty"),
    "a file": (lambda raw: (raw, make_file(raw.parent / "s")), "is a file"),
    "below a file": (lambda raw: (raw, make_file(raw.parent / "f") / "s"), "can be written, but .*f/s is not"),
    "no raw folder": (lambda raw: (raw / "x", raw.parent / "s"), "folder of photographs, but .*x' is neither"),
    "raw is a file": (lambda raw: (raw / "0.png", raw.parent / "s"), "is a file"),
    "no photographs": (lambda raw: (make_full(raw.parent / "texts"), raw.parent / "s"), "has none"),
}


def linked(raw: Path) -> Path:
    os.symlink(raw, raw.parent / "link")
    return raw.parent / "link"


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_used_is_one_line_and_nothing_is_written(case, raw, tmp_path):
    make, says = PLACES[case]
    source, target = make(raw)
    before = files_under(tmp_path)
    with pytest.raises(SubjectError, match=says) as refused:
        prepare_subject(source, target, how())
    assert "\n" not in str(refused.value)
    assert files_under(tmp_path) == before and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SubjectError("x")])
def test_nothing_half_written_stays_when_it_fails_midway(raw, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(prepare, "write_reports", fail)
    with pytest.raises((SubjectError, KeyboardInterrupt)) as raised:
        prepare_subject(raw, tmp_path / "s", how())
    assert os.listdir(tmp_path) == ["raw photos"]
    assert not isinstance(error, OSError) or "No space left on device" in str(raised.value)


def test_an_empty_folder_is_taken_and_everything_dropped_is_refused(raw, tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(SubjectError, match="all photographs of .* are dropped"):
        prepare_subject(raw, tmp_path / "s", how(size_pixels=256))
    prepare_subject(raw, tmp_path / "s", how())
    assert load_subject(tmp_path / "s").train


def test_one_photograph_is_trained_on_and_the_note_says_that_none_is_held_out(raw, tmp_path):
    for number in range(1, N_SCENES):
        (raw / f"{number}.png").unlink()
    prepared = prepare_subject(raw, tmp_path / "s", how(heldout=0.9))
    assert (prepared.n_split("train"), prepared.n_split("heldout")) == (1, 0)
    assert prepared.notes[0].startswith("0 instead of 1 photographs are held out")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"trigger": " "}, "word without commas, but it is ' '"),
        ({"trigger": "a, b"}, "'a, b'"),
        ({"size_pixels": 100}, "multiple of 8 .* 100"),
        ({"size_pixels": 8}, "from 16 .* 8"),
        ({"fit": "bucket"}, "crop, pad or buckets.*'bucket'"),
        ({"heldout": 1.0}, "below 1, but it is 1.0"),
        ({"drop": ("ugly",)}, "holds 'ugly'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_its_value(changes, says):
    with pytest.raises(SubjectError, match=says):
        how(**changes)


def test_with_buckets_photographs_keep_about_their_aspect_ratio(raw, tmp_path):
    scene(20, size=(96, 128)).save(raw / "upright.png")
    scene(21, size=(300, 300)).save(raw / "square.png")
    prepared = prepare_subject(raw, tmp_path / "s", how(fit="buckets", heldout=0))
    sizes = {candidate.source: Image.open(tmp_path / "s" / candidate.file_name).size for candidate in prepared.candidates}
    # 4:3 lies exactly between 64:64 and 80:48, where the first is taken; 3:4 is nearer to 48:80 (0.6) than to 1.
    assert (sizes["0.png"], sizes["upright.png"], sizes["square.png"]) == ((64, 64), (48, 80), (64, 64))
    assert report_of(tmp_path / "s")["square.png"]["fitted"] == "64x64"


def test_a_mask_goes_the_way_of_its_photograph(raw, tmp_path):
    (raw / "masks").mkdir()
    for number, place in ((0, raw / "masks" / "0.png"), (1, raw / "1.mask.png")):
        Image.fromarray(np.where(np.arange(128) < 64, 255, 0).astype(np.uint8)[None].repeat(96, 0)).save(place)
    prepared = prepare_subject(raw, tmp_path / "s", how(heldout=0))
    assert len(prepared.candidates) == N_SCENES
    masked = [image for image in load_subject(tmp_path / "s").train if image.mask]
    assert len(masked) == 2
    pixels = np.asarray(Image.open(masked[0].mask))
    assert pixels.shape == (64, 64) and (pixels[:, :31] == 255).all() and (pixels[:, 33:] == 0).all()


def test_a_padded_mask_is_black_where_the_photograph_is_padded(raw, tmp_path):
    Image.new("L", (128, 96), 255).save(raw / "0.mask.png")
    prepare_subject(raw, tmp_path / "s", how(heldout=0, fit="pad"))
    (image,) = [image for image in load_subject(tmp_path / "s").train if image.mask]
    pixels = np.asarray(Image.open(image.mask))
    assert (pixels[8:56] == 255).all() and (pixels[:7] == 0).all() and (pixels[57:] == 0).all()


def test_a_mask_without_its_photograph_is_noted(raw, tmp_path):
    Image.new("L", (128, 96)).save(raw / "stray.mask.png")
    prepared = prepare_subject(raw, tmp_path / "s", how())
    assert len(prepared.candidates) == N_SCENES and "stray.mask.png is a mask without an image" in prepared.notes
