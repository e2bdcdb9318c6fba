"""Draws 64x64 portraits of a person, as a flat outlined drawing or as a shaded photograph, from numbers alone.

It returns pixels and a map of what matters in them. It knows no captions, and stores nothing."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

from trainables.embedded.canvas import FEATURE, FINE, HAIR, INK, SIZE, SKIN, TOP, Canvas, mixed, oval, points_of, scaled
from trainables.embedded.people import Attributes, Colour, Identity, sample_attributes, sample_identity  # noqa: F401

STYLES = ("drawing", "photo")
_TOPS: dict[str, Colour] = {
    "red top": (206, 36, 44),
    "blue top": (40, 84, 206),
    "white shirt": (244, 244, 246),
    "striped top": (240, 236, 226),
    "black jacket": (36, 36, 42),
    "green hoodie": (44, 150, 74),
}


def render(identity: Identity, attributes: Attributes, *, style: str, rng: np.random.Generator) -> np.ndarray:
    """The portrait, uint8 (64, 64, 3). `rng` moves what no caption names: pose, side, hues of the background, grain."""
    return render_with_importance(identity, attributes, style=style, rng=rng)[0]


def render_with_importance(
    identity: Identity, attributes: Attributes, *, style: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The portrait, uint8 (64, 64, 3), and how much each pixel matters, float32 (64, 64): 1 for background, up to 5
    for eyes, mouth, moles and glasses."""
    if style not in STYLES:
        raise ValueError(f"`style` must be one of {STYLES}, but it is {style!r}.")
    close = attributes.framing == "close-up"
    scale = (0.97 if close else 0.63) * rng.uniform(0.96, 1.04)
    canvas = Canvas(
        style,
        scale=scale,
        tilt=rng.uniform(-0.06, 0.06),
        centre=(32 + rng.uniform(-1.5, 1.5), (29.5 if close else 23.5) + rng.uniform(-1, 1)),
    )
    side = 1.0 if rng.random() < 0.5 else -1.0
    _background(canvas, attributes.background, rng)
    _hair_behind(canvas, identity, attributes.hair, side)
    _body(canvas, identity, attributes.top)
    _head(canvas, identity, attributes, side)
    _hair_before(canvas, identity, attributes.hair, side)
    if identity.glasses:
        _glasses(canvas, identity, side * _turn(attributes))
    return _developed(canvas, attributes.light, rng), canvas.importance()


def _background(canvas: Canvas, place: str, rng: np.random.Generator) -> None:
    shift = rng.uniform(-10, 10)
    tone = lambda *rgb: tuple(int(np.clip(c + shift, 0, 255)) for c in rgb)
    {"wall": _wall, "room": _room, "gym": _gym, "outdoor": _outdoor}[place](canvas, tone, rng.uniform(-2, 2))
    if canvas.style == "photo":
        canvas.images[0].paste(canvas.images[0].filter(ImageFilter.GaussianBlur(FINE * 1.1)))


def _wall(canvas: Canvas, tone, x: float) -> None:
    canvas.flat((0, 0, 64, 64), tone(222, 208, 184))


def _room(canvas: Canvas, tone, x: float) -> None:
    canvas.flat((0, 0, 64, 64), tone(196, 120, 96))
    canvas.flat((2 + x, 4, 19 + x, 30), tone(250, 248, 238))
    canvas.flat((4 + x, 6, 17 + x, 28), tone(150, 204, 240))
    canvas.flat((9.5 + x, 4, 11.5 + x, 30), tone(250, 248, 238))
    canvas.flat((45 + x, 16, 66, 19), tone(104, 62, 36))
    for i, colour in enumerate([(222, 180, 60), (70, 120, 160), (180, 60, 70), (90, 150, 90)]):
        canvas.flat((47 + 4 * i + x, 6 + (i % 2) * 2, 50.5 + 4 * i + x, 16), tone(*colour))
    canvas.flat((0, 52, 64, 64), tone(120, 76, 50))


def _gym(canvas: Canvas, tone, x: float) -> None:
    canvas.flat((0, 0, 64, 64), tone(124, 132, 146))
    canvas.flat((0, 46, 64, 64), tone(70, 74, 84))
    for y in (12, 32):
        canvas.flat((0, y, 64, y + 2.5), tone(40, 42, 48))
        for i, colour in enumerate([(226, 190, 30), (30, 30, 34), (30, 30, 34), (226, 190, 30)]):
            canvas.disc((5, 15, 50, 60)[i] + x, y + 1, 5, tone(*colour))
            canvas.disc((5, 15, 50, 60)[i] + x, y + 1, 1.6, tone(150, 150, 150))


def _outdoor(canvas: Canvas, tone, x: float) -> None:
    canvas.flat((0, 0, 64, 64), tone(126, 196, 246))
    canvas.flat((0, 42, 64, 64), tone(98, 176, 70))
    canvas.disc(9 + x, 10, 5.5, tone(255, 228, 90))
    canvas.flat((53 + x, 24, 57 + x, 46), tone(110, 74, 44))
    canvas.disc(55 + x, 18, 10, tone(50, 128, 56))
    canvas.disc(8 - x, 42, 7, tone(60, 140, 60))


def _hair_behind(canvas: Canvas, who: Identity, style: str, side: float) -> None:
    w, h, hair, dark = who.face_width, who.face_height, who.hair, scaled(who.hair, 0.8)
    if style == "long hair":
        top = oval(0, -4, w + 5.5, h + 2, start=math.pi, stop=2 * math.pi)
        canvas.shape(np.concatenate([top, points_of(w + 7, 20, w + 5, 34, w - 4, 36, -w + 4, 36, -w - 5, 34, -w - 7, 20)]), dark, HAIR)
        return
    if style == "bun":
        canvas.shape(oval(0, -h - 4.5, 8, 6.5), hair, HAIR)
    if style == "ponytail":
        x = side * w
        canvas.shape(
            points_of(
                x * 0.5,
                -h + 1,
                x + side * 7,
                -h + 3,
                x + side * 13,
                -4,
                x + side * 13,
                10,
                x + side * 8,
                24,
                x + side * 4,
                10,
                x + side * 4,
                -4,
                x * 0.6,
                -8,
            ),
            hair,
            HAIR,
        )
    canvas.shape(oval(0, -3, w + 3.0, h + 1), dark, HAIR)


def _body(canvas: Canvas, who: Identity, top: str) -> None:
    h, colour, skin = who.face_height, _TOPS[top], scaled(who.skin, 0.84)
    canvas.shape(points_of(-6, h - 7, 6, h - 7, 7, h + 11, -7, h + 11), skin, SKIN)
    y = h + 3
    outer = points_of(-8, y + 2, -22, y + 7, -29, y + 14, -32, 90, 32, 90, 29, y + 14, 22, y + 7, 8, y + 2)
    canvas.shape(np.concatenate([outer, oval(0, y + 2, 8, 6, n=9, start=0, stop=math.pi)]), colour, TOP)
    if top == "striped top":
        for i in range(4):
            reach = 20 + 4 * min(i, 2)
            canvas.stroke(points_of(-reach, y + 10.5 + 6.5 * i, reach, y + 10.5 + 6.5 * i), (36, 44, 110), 3.0, part=TOP)
    if top == "white shirt":
        canvas.shape(points_of(-8, y, -12, y + 4, -5, y + 12, 0, y + 8, 5, y + 12, 12, y + 4, 8, y, 0, y + 7), (214, 222, 240), TOP)
        canvas.stroke(points_of(0, y + 12, 0, y + 50), (150, 160, 190), 1.2, part=TOP)
    if top == "black jacket":
        canvas.shape(points_of(-6.5, y + 3, 6.5, y + 3, 3, y + 50, -3, y + 50), (226, 150, 40), TOP)
        canvas.stroke(points_of(-7, y + 2, -11, y + 13, -4, y + 30), (104, 104, 114), 1.6, part=TOP)
        canvas.stroke(points_of(7, y + 2, 11, y + 13, 4, y + 30), (104, 104, 114), 1.6, part=TOP)
    if top == "green hoodie":
        hood = np.concatenate(
            [oval(0, y, 14, 8, n=12, start=0.1, stop=math.pi - 0.1), oval(0, y - 1, 8, 5, n=9, start=math.pi - 0.1, stop=0.1)]
        )
        canvas.shape(hood, (28, 104, 50), TOP)
        for x in (-5, 5):
            canvas.stroke(points_of(x, y + 6, x * 1.1, y + 16), (244, 244, 230), 1.5, part=TOP)


def _turn(attributes: Attributes) -> float:
    return 1.6 if attributes.gaze == "side-look" else 0.0


def _head(canvas: Canvas, who: Identity, attributes: Attributes, side: float) -> None:
    w, h = who.face_width, who.face_height
    if attributes.hair != "long hair":
        for x in (-w, w):
            canvas.shape(oval(x, 2.5, 2.8, 4), scaled(who.skin, 0.92), SKIN)
    face = oval(0, 0, w, h, n=40)
    face[:, 0] *= 1 - who.jaw * np.clip(face[:, 1] / h, 0, 1) ** 2
    canvas.shape(face, who.skin, SKIN)
    turn = side * _turn(attributes)
    made_up = attributes.make_up == "make-up"
    if made_up:
        for x in (-1, 1):
            canvas.shape(oval(turn + x * w * 0.6, 7.5, 3.6, 2.6), mixed(who.skin, (232, 70, 96), 0.36), SKIN, outline=False)
    if who.freckles:
        for x, y in ((-7, 6.4), (-4.4, 5.2), (-9.2, 8), (-5.6, 8.4), (7, 6.4), (4.4, 5.2), (9.2, 8), (5.6, 8.4)):
            canvas.shape(oval(turn + x, y, 0.75, 0.75, n=8), mixed(who.skin, (120, 60, 30), 0.6), FEATURE, outline=False, weight=3)
    for mx, my in who.moles:
        canvas.shape(oval(turn + mx * w * 0.9, my * h * 0.92, 1.35, 1.35, n=12), (52, 28, 24), FEATURE, outline=False, weight=5)
    _eyes(canvas, who, attributes, side, turn, made_up)
    _nose(canvas, who, turn)
    _mouth(canvas, who, attributes.expression, turn, mixed(who.lip, (206, 16, 60), 0.85) if made_up else who.lip)


def _eyes(canvas: Canvas, who: Identity, attributes: Attributes, side: float, turn: float, made_up: bool) -> None:
    wide, shock = attributes.expression == "surprised", attributes.expression
    rx, ry = who.eye_width / 2, who.eye_height / 2 * (1.25 if wide else 1.0)
    brow = mixed(scaled(who.hair, 0.65), INK, 0.35)
    look = side * 2.3 if attributes.gaze == "side-look" else 0.0
    for s in (-1.0, 1.0):
        x, y = turn + s * who.eye_gap, -2.5
        if made_up:
            canvas.shape(oval(x, y - 1.6, rx + 1.2, ry + 1.0), (150, 84, 190), FEATURE, outline=False, weight=3)
        if shock == "wink" and s == side:
            canvas.stroke(oval(x, y + 2.2, rx, 3.4, n=10, start=math.pi * 1.02, stop=math.pi * 1.98), INK, 1.9, weight=4)
        else:
            canvas.shape(oval(x, y, rx, ry), (252, 252, 252), FEATURE, weight=4)
            canvas.shape(oval(x + look, y, 2.7, min(ry, 2.9)), who.iris, FEATURE, outline=False, weight=5)
            canvas.shape(oval(x + look, y, 1.35, 1.45, n=12), (12, 10, 14), FEATURE, outline=False, weight=5)
            canvas.shape(oval(x + look - 0.9, y - 1.0, 0.7, 0.7, n=8), (255, 255, 255), FEATURE, outline=False, weight=5)
            canvas.stroke(oval(x, y, rx, ry, n=10, start=math.pi * 1.02, stop=math.pi * 1.98), INK, 1.9 if made_up else 1.2, weight=4)
        lift = -8.6 if wide else -6.2
        canvas.stroke(
            points_of(x - s * 4.2, y + lift + who.brow_tilt * -0.9, x, y + lift - 0.9, x + s * 4.4, y + lift + who.brow_tilt * 0.9),
            brow,
            who.brow_thickness,
            weight=3,
        )


def _nose(canvas: Canvas, who: Identity, turn: float) -> None:
    y, x = -1.0 + who.nose_length, turn * 1.4
    shade = mixed(scaled(who.skin, 0.62), INK, 0.15 if canvas.style == "photo" else 0.4)
    canvas.stroke(
        points_of(
            x - who.nose_width, y - 1.2, x - who.nose_width * 0.6, y + 0.6, x + who.nose_width * 0.6, y + 0.6, x + who.nose_width, y - 1.2
        ),
        shade,
        1.2,
        weight=2.5,
    )
    if canvas.style == "photo":
        canvas.stroke(points_of(x, y - who.nose_length * 0.6, x, y - 1.5), mixed(who.skin, (255, 255, 255), 0.5), 1.3, part=SKIN)


def _mouth(canvas: Canvas, who: Identity, expression: str, turn: float, lip: Colour) -> None:
    x, y, r, full = turn, 11.2, who.mouth_width / 2, who.lip_fullness
    bend = lambda width, depth, n=9: np.stack([x + np.linspace(-width, width, n), y + depth * (1 - np.linspace(-1, 1, n) ** 2)], 1)
    if expression == "neutral":
        canvas.shape(np.concatenate([bend(r * 0.72, -full * 0.8), bend(r * 0.72, full)[::-1]]), lip, FEATURE, weight=4, outline=False)
        canvas.stroke(bend(r * 0.72, 0), scaled(lip, 0.4), 1.1, weight=4)
    elif expression in ("smile", "wink"):
        canvas.shape(np.concatenate([bend(r, 2.2) - (0, 2.2), bend(r, 4.6 + full)[::-1] - (0, 2.2)]), lip, FEATURE, weight=4, outline=False)
        canvas.stroke(bend(r + 0.6, 4.6) - (0, 2.6), scaled(lip, 0.35), 1.4, weight=4)
    elif expression == "surprised":
        canvas.shape(oval(x, y + 0.8, 4.4 + full * 0.5, 5.6), lip, FEATURE, weight=4, outline=False)
        canvas.shape(oval(x, y + 0.8, 3.4, 4.4), (58, 10, 20), FEATURE, weight=4, outline=False)
    else:
        mouth = np.concatenate([bend(r, 0.8) - (0, 2.6), bend(r, 8.6)[::-1] - (0, 2.6)])
        middle = np.array([x, y + 0.6])
        canvas.shape((mouth - middle) * (1.0 + full / 16, 1.0 + full / 9) + middle, lip, FEATURE, weight=4, outline=False)
        if expression == "teeth-smiling":
            canvas.shape(mouth, (255, 255, 255), FEATURE, weight=4)
            canvas.stroke(bend(r * 0.8, 3.6) - (0, 2.2), (150, 140, 150), 0.7, weight=4)
        else:
            canvas.shape(mouth, (70, 12, 24), FEATURE, weight=4, outline=False)
            canvas.shape(
                np.concatenate(
                    [points_of(x - 3.9, y + 0.5), oval(x, y + 5.8, 3.9, 4.2, n=12, start=math.pi, stop=0), points_of(x + 3.9, y + 0.5)]
                ),
                (244, 96, 124),
                FEATURE,
                weight=5,
            )
            canvas.stroke(points_of(x, y + 2, x, y + 6.4), (190, 50, 80), 0.9, weight=5)


def _hair_before(canvas: Canvas, who: Identity, style: str, side: float) -> None:
    w, h, hair = who.face_width, who.face_height, who.hair
    temple = 4 if style == "long hair" else -3
    outer = oval(0, -4, w + 3, h - 0.5, n=22, start=math.pi, stop=2 * math.pi)
    if who.fringe:
        inner = points_of(
            w + 0.5, temple, w - 2, -h * 0.36, w * 0.5, -h * 0.46, 0, -h * 0.43, -w * 0.5, -h * 0.46, -w + 2, -h * 0.36, -w - 0.5, temple
        )
    else:
        p = who.parting * w * 0.8
        inner = points_of(
            w + 0.5,
            temple,
            w - 1.5,
            -h * 0.3,
            (w + p) / 2,
            -h * 0.56,
            p,
            -h * 0.82,
            (p - w) / 2,
            -h * 0.56,
            -w + 1.5,
            -h * 0.3,
            -w - 0.5,
            temple,
        )
    canvas.shape(np.concatenate([outer, inner]), hair, HAIR)
    if style == "long hair":
        for s in (-1, 1):
            canvas.shape(
                points_of(s * (w + 2.5), -6, s * (w - 1.5), -3, s * (w - 0.5), 12, s * (w - 3), 32, s * (w + 5), 33, s * (w + 6), 14),
                hair,
                HAIR,
            )
    if style == "braided hair":
        for s in (-1, 1):
            for i in range(6):
                colour = hair if i % 2 else scaled(hair, 0.72)
                canvas.shape(oval(s * (w + 2.5 - 0.2 * i), 5 + 5 * i, 4.4, 3.6, n=14), colour, HAIR)


def _glasses(canvas: Canvas, who: Identity, turn: float) -> None:
    y, r = -2.2, min(6.4, who.eye_gap - 0.4)
    for s in (-1, 1):
        x = turn + s * who.eye_gap
        rim = (
            oval(x, y, r, 5.6, n=24)
            if who.glasses == "round"
            else points_of(x - r, y - 4.8, x + r, y - 4.8, x + r, y + 4.8, x - r, y + 4.8)
        )
        canvas.stroke(np.concatenate([rim, rim[:2]]), who.frame, 1.6, weight=3.5)
        canvas.stroke(points_of(x + s * r, y - 1, s * who.face_width, y - 2), who.frame, 1.4, weight=3)


def _developed(canvas: Canvas, light: str, rng: np.random.Generator) -> np.ndarray:
    """The picture at its final size under its light; photographs get shading and grain."""
    pixels = np.asarray(canvas.images[0].reduce(FINE), dtype=np.float32)
    if canvas.style == "photo":
        pixels = _shaded(pixels, canvas, rng)
    if light == "dark":
        pixels = pixels * np.array([0.46, 0.48, 0.66], dtype=np.float32)
    if canvas.style == "photo":
        pixels = pixels + rng.normal(0, 1.6, pixels.shape[:2])[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _shaded(pixels: np.ndarray, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Soft light from one upper side: rounder skin, glossy hair, folds in the top, a vignette; muted colours."""
    parts = np.asarray(canvas.images[1].resize((SIZE, SIZE), Image.NEAREST))
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    (cx, cy), s = canvas.centre, canvas.scale
    u, v = (x - cx) / (16 * s), (y - cy) / (19 * s)
    lit = 0.5 if rng.random() < 0.5 else -0.5
    round_ = np.clip(1.06 + 0.22 * (lit * u - 0.35 * v) - 0.26 * np.clip(u * u + 0.6 * v * v, 0, 1.6), 0.62, 1.15)
    gloss = 0.78 + 0.55 * np.exp(-((u - lit * 0.9) ** 2 / 0.5 + (v + 0.85) ** 2 / 0.12)) + 0.25 * np.exp(-((np.abs(u) - 1.25) ** 2 / 0.03))
    folds = 0.9 + 0.16 * lit * u - 0.08 * np.clip(np.abs(u) - 0.5, 0, 2)
    shade = np.choose(
        parts, [1.04 - 0.28 * (((x - 32) / 45) ** 2 + ((y - 30) / 45) ** 2), gloss, round_, folds, np.clip(round_, 0.9, 1.05)]
    )
    grey = pixels.mean(-1, keepdims=True)
    return (0.86 * pixels + 0.14 * grey) * shade[..., None] * np.array([1.03, 1.0, 0.95], dtype=np.float32)
