"""What cameras and phones write comes out upright, in sRGB, whole."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.trainables.scenes import scene
from trainables.checkup import check_subject
from trainables.digests import file_digest
from trainables.errors import SubjectError
from trainables.photographs import (
    pixels_digest,
    read_photograph,
    read_rgb,
    register_heic,
    size_of,
    why_unusable,
)
from trainables.subject import load_pixels, load_subject


def read(path: Path, *, least_side_pixels: int = 10_000) -> np.ndarray:
    return np.asarray(read_photograph(path, least_side_pixels=least_side_pixels).image)


def swapped_primaries() -> bytes:
    """sRGB's profile with the entries for red and green exchanged: what it calls red is green on a screen."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (n_tags,) = struct.unpack_from(">I", profile, 128)
    entries = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(n_tags)}
    profile[entries[b"rXYZ"] : entries[b"rXYZ"] + 4], profile[entries[b"gXYZ"] : entries[b"gXYZ"] + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_colour_profile_is_turned_into_srgb(tmp_path):
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=swapped_primaries())
    assert np.abs(read(tmp_path / "a.png").astype(int) - [0, 255, 0]).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_profile_or_one_for_other_colours_is_ignored(tmp_path, mode):
    image = scene(0).convert(mode)
    for number, profile in enumerate((b"nonsense", swapped_primaries() if mode != "RGB" else b"")):
        image.save(tmp_path / f"{number}.tif", icc_profile=profile)
        assert np.array_equal(read(tmp_path / f"{number}.tif"), np.asarray(image.convert("RGB")))


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
        assert (read(tmp_path / f"a.{suffix}") == (255, 0, 0)).all(), suffix


def test_transparency_of_a_palette_becomes_white(tmp_path):
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert (read(tmp_path / "a.png") == 255).all()


def test_sixteen_bits_are_scaled_to_eight_in_either_of_pillows_modes(tmp_path):
    grey = np.full((32, 32), 0x8000, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "a.ppm").write_bytes(b"P5 32 32 65535\n" + grey.astype(">u2").tobytes())
    assert (read(tmp_path / "a.png") == 0x80).all() and (read(tmp_path / "a.ppm") == 0x80).all()


def test_sides_are_told_upright_and_a_large_jpeg_is_decoded_small(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(0, size=(1024, 512)).save(tmp_path / "a.jpg", exif=exif)
    photograph = read_photograph(tmp_path / "a.jpg", least_side_pixels=128)
    assert (photograph.width, photograph.height) == (512, 1024)
    assert photograph.image.size == (128, 256)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda path: path.write_text("hello"), "cannot identify"),
        (lambda path: Image.new("L", (1, 1)).save(path), "is 1x1"),
        (lambda path: Image.new("L", (20000, 20)).save(path), "is 20000x20"),
        (lambda path: Image.new("1", (15000, 15000)).save(path), "bomb"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name_and_no_warning(tmp_path, make, says):
    make(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SubjectError, match=rf"a\.png.*{says}"):
            read_photograph(tmp_path / "a.png", least_side_pixels=64)


def test_a_heic_is_read_where_its_package_is_installed(tmp_path):
    if not register_heic():
        pytest.skip("pillow-heif is not installed")
    scene(0).save(tmp_path / "a.heic", quality=90)
    assert np.abs(read(tmp_path / "a.heic").astype(int) - np.asarray(scene(0))).mean() < 12


# -- what is accepted can be read everywhere -------------------------------------------------------


def damaged_exif(kind: str) -> bytes:
    """Bytes that begin as EXIF does and mean nothing further on."""
    return (
        b"Exif\0\0"
        + {
            "no header": b"nonsense",
            "no byte order": b"XX*\0\x08\0\0\0\1\0",
            "an entry beyond its end": b"II*\0\x08\0\0\0\1\0"
            + struct.pack("<HHII", 0x0112, 3, 9999, 9999),
            "cut": b"MM\0*\0\0\0\x08\0\5\1\x12",
        }[kind]
    )


@pytest.mark.parametrize("kind", ["no header", "no byte order", "an entry beyond its end", "cut"])
@pytest.mark.parametrize("suffix", [".webp", ".jpg", ".png"])
def test_an_image_with_damaged_exif_is_read_as_it_lies_by_loading_check_and_preparation(
    kind, suffix, tmp_path
):
    path = tmp_path / f"a{suffix}"
    scene(0, size=(96, 64)).save(path, exif=damaged_exif(kind))
    assert why_unusable(path) is None and size_of(path) == (96, 64)
    assert read(path).shape == (64, 96, 3)
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    subject = load_subject(tmp_path)
    assert load_pixels(subject.train, 64).shape == (1, 64, 64, 3) and subject.train_sizes == (
        (96, 64),
    )
    assert not check_subject(tmp_path).problems


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
def test_every_orientation_is_turned_as_pillow_turns_it(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    scene(0, size=(96, 64)).save(path, exif=exif, **lossless)
    with Image.open(path) as opened:
        wanted = ImageOps.exif_transpose(opened)
    assert np.array_equal(np.asarray(read_rgb(path)), np.asarray(wanted))
    assert size_of(path) == wanted.size == ((64, 96) if orientation >= 5 else (96, 64))


def ramp() -> np.ndarray:  # (32, 256) float64, 0 to 1
    return np.tile(np.linspace(0, 1, 256), (32, 1))


LEVELS = np.tile(np.arange(256), (32, 1))
PIXELS = {
    "floats of 0 to 1": (lambda: Image.fromarray(ramp().astype(np.float32)), LEVELS),
    "floats that are levels": (lambda: Image.fromarray(LEVELS.astype(np.float32)), LEVELS),
    "16 bits": (lambda: Image.fromarray((LEVELS * 257).astype(np.uint16)), LEVELS),
    "32 bits with levels of 16": (lambda: Image.fromarray((LEVELS * 257).astype(np.int32)), LEVELS),
    "32 bits with levels of 8": (lambda: Image.fromarray(LEVELS.astype(np.int32)), LEVELS),
    "1 bit": (lambda: Image.fromarray(LEVELS > 127).convert("1"), (LEVELS > 127) * 255),
    "CMYK": (
        lambda: Image.fromarray(LEVELS.astype(np.uint8)).convert("RGB").convert("CMYK"),
        LEVELS,
    ),
    "a palette": (lambda: Image.fromarray(LEVELS.astype(np.uint8)).convert("P"), LEVELS),
}


@pytest.mark.parametrize("kind", PIXELS)
def test_grey_levels_of_every_depth_are_read_as_they_look(kind, tmp_path):
    make, wanted = PIXELS[kind]
    make().save(tmp_path / "a.tif")
    pixels = np.asarray(read_rgb(tmp_path / "a.tif")).astype(int)
    assert np.abs(pixels - wanted[..., None]).max() <= 1
    assert np.array_equal(pixels, read(tmp_path / "a.tif"))  # prepared as it is trained on


def test_lab_is_turned_into_srgb(tmp_path):
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    image = scene(0, size=(64, 64))
    ImageCms.applyTransform(image, to_lab).save(tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").mode == "LAB"
    difference = np.abs(np.asarray(read_rgb(tmp_path / "a.tif")).astype(int) - np.asarray(image))
    assert difference.mean() < 1  # 8 bits of LAB are coarser than 8 of sRGB
    assert (
        np.abs(
            read(tmp_path / "a.tif").astype(int) - np.asarray(read_rgb(tmp_path / "a.tif"))
        ).max()
        <= 2
    )


@pytest.mark.parametrize(
    "value, says",
    [
        (np.nan, "no finite numbers"),
        (np.inf, "no finite numbers"),
        (3.5, "0 to 3.5"),
        (-0.5, "-0.5 to"),
    ],
)
def test_numbers_that_are_no_grey_levels_are_one_line(value, says, tmp_path):
    values = ramp().astype(np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert says in (why_unusable(tmp_path / "a.tif") or "")
    for reader in (read_rgb, lambda path: read_photograph(path, least_side_pixels=64)):
        with pytest.raises(SubjectError, match=says):
            reader(tmp_path / "a.tif")


def test_levels_beyond_16_bits_are_one_line(tmp_path):
    Image.fromarray(np.full((32, 32), 70000, dtype=np.int32)).save(tmp_path / "a.tif")
    assert "70000 to 70000: save it with 8 or 16 bits" in (why_unusable(tmp_path / "a.tif") or "")


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_upright_where_its_package_is_there(orientation, tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    assert register_heic()
    exif = Image.Exif()
    exif[0x0112] = orientation
    heif.from_pillow(scene(0, size=(96, 64))).save(
        tmp_path / "a.heic", exif=exif.tobytes(), quality=95
    )
    photograph = read_photograph(tmp_path / "a.heic", least_side_pixels=64)
    assert (photograph.width, photograph.height) == photograph.image.size
    assert photograph.image.size == ((96, 64) if orientation == 1 else (64, 96))


def test_a_subject_of_floats_has_another_key_than_when_they_were_read_as_black(tmp_path):
    for depth, dtype in ((32, np.float32), (8, np.uint8)):
        path = tmp_path / f"{depth}.tif"
        Image.fromarray((ramp() * (1 if depth == 32 else 255)).astype(dtype)).save(path)
        assert (pixels_digest(path) == file_digest(path)) == (depth == 8)
