"""Contact sheets: every picture at its place, whatever its size."""

from PIL import Image

from analysis.sample_grids import MOST_PIXELS, Cell, sheet


def test_a_sheet_has_its_pictures_row_by_row_and_large_ones_made_smaller(tmp_path):
    for name, size, colour in (("red", 8, (255, 0, 0)), ("green", 600, (0, 255, 0)), ("blue", 600, (0, 0, 255))):
        Image.new("RGB", (size, size), colour).save(tmp_path / f"{name}.png")
    cells = {name: Cell(tmp_path / f"{name}.png", f"a long text about {name}" * 9) for name in ("red", "green", "blue")}
    image = sheet([[cells["red"], cells["green"]], [cells["blue"]]])
    centres = {(x, y): image.getpixel((round(image.width * x), round(image.height * y))) for x in (0.25, 0.75) for y in (0.26, 0.76)}
    assert centres[0.75, 0.26] == (0, 255, 0) and centres[0.25, 0.76] == (0, 0, 255) and centres[0.75, 0.76] == (255, 255, 255)
    assert centres[0.25, 0.26] in ((255, 0, 0), (255, 255, 255)) and image.getpixel((image.width // 4, 90)) == (255, 0, 0)
    assert image.width < 2 * MOST_PIXELS + 20
