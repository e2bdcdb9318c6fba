"""The paper that portraits are drawn on: shapes in the coordinates of a head, in four times the final resolution.

It keeps three pictures in step: colour, which part of the portrait a pixel is, and how much it matters. What a face
looks like is render.py's."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from trainables.embedded.people import Colour

SIZE = 64
FINE = 4  # supersampling
BACK, HAIR, SKIN, TOP, FEATURE = range(5)
INK = (34, 26, 30)


class Canvas:
    """Paper of 4 x 64 pixels in head coordinates: pixels of a close-up, from the middle of the face, right and down."""

    def __init__(self, style: str, *, scale: float, tilt: float, centre: tuple[float, float]):
        self.style, self.scale, self.centre = style, scale, centre
        self.turned = (math.cos(tilt), math.sin(tilt))
        n = SIZE * FINE
        self.images = Image.new("RGB", (n, n)), Image.new("L", (n, n), BACK), Image.new("L", (n, n), 20)
        self.colour, self.part, self.weight = (ImageDraw.Draw(i) for i in self.images)

    def flat(self, box: tuple[float, float, float, float], fill: Colour) -> None:
        """A rectangle of the background, in picture coordinates 0..64."""
        self.colour.rectangle([v * FINE for v in box], fill=fill)

    def disc(self, x: float, y: float, r: float, fill: Colour) -> None:
        """A circle of the background, in picture coordinates."""
        self.colour.ellipse([(x - r) * FINE, (y - r) * FINE, (x + r) * FINE, (y + r) * FINE], fill=fill)

    def shape(self, points: np.ndarray, fill: Colour, part: int, *, weight: float = 0, outline: bool = True) -> None:
        """A filled polygon; points (n, 2). Drawings get an ink outline, photographs a slightly darker edge."""
        xy = self._placed(points)
        self.colour.polygon(xy, fill=fill)
        self.part.polygon(xy, fill=part)
        if outline:
            width = 1.0 if part in (HAIR, SKIN, TOP) else 0.8
            ink = INK if self.style == "drawing" else tuple(int(0.72 * c) for c in fill)
            self.colour.line(xy + xy[:2], fill=ink, width=round(width * FINE * (1 if self.style == "drawing" else 0.6)), joint="curve")
        if weight:
            self.weight.polygon(xy, fill=round(20 * weight), outline=round(20 * weight), width=FINE)
        elif part in (SKIN, HAIR, TOP):
            self.weight.polygon(xy, fill={SKIN: 30, HAIR: 26, TOP: 24}[part])

    def stroke(self, points: np.ndarray, fill: Colour, width: float, *, weight: float = 0, part: int | None = FEATURE) -> None:
        """An open line of `width` pixels with round ends."""
        xy, w = self._placed(points), width * self.scale * FINE
        for draw, ink, wide in ((self.colour, fill, w), (self.part, part, w), (self.weight, round(20 * weight), w + 2 * FINE)):
            if ink is None or (draw is self.weight and not weight):
                continue
            draw.line(xy, fill=ink, width=max(1, round(wide)), joint="curve")
            for x, y in (xy[0], xy[-1]):
                draw.ellipse([x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2], fill=ink)

    def importance(self) -> np.ndarray:
        """float32 (64, 64), 1..5."""
        return np.asarray(self.images[2].reduce(FINE), dtype=np.float32) / 20

    def _placed(self, points: np.ndarray) -> list[tuple[float, float]]:
        (c, s), (x0, y0) = self.turned, self.centre
        return [(FINE * (x0 + self.scale * (c * x - s * y)), FINE * (y0 + self.scale * (s * x + c * y))) for x, y in points]


def oval(x: float, y: float, rx: float, ry: float, *, n: int = 26, start: float = 0.0, stop: float = 2 * math.pi) -> np.ndarray:
    t = np.linspace(start, stop, n, endpoint=stop - start < 6.28)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1)


def points_of(*xy: float) -> np.ndarray:
    return np.array(xy, dtype=float).reshape(-1, 2)


def scaled(colour: Colour, factor: float) -> Colour:
    return tuple(int(min(255, c * factor)) for c in colour)


def mixed(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(int((1 - t) * u + t * v) for u, v in zip(a, b))
