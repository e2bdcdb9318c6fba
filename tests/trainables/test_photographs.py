"""What cameras and phones write comes out upright, in sRGB, whole."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.trainables.scenes import scene
from trainables.errors import SubjectError
from trainables.photographs import read_photograph, register_heic


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
