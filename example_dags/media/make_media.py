"""Make the sample portraits, the voice clips and the manifest in this directory anew.

    pip install pillow numpy av        # and espeak-ng: apt-get install espeak-ng
    python example_dags/media/make_media.py

Everything is made by this file: Pillow draws the portraits (nobody's likeness), espeak-ng speaks.
Coordinates are pixels of the finished picture, with the origin at the middle of the face.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

HERE = Path(__file__).resolve().parent

WIDTH, HEIGHT = 768, 960
FACE_X, FACE_Y = 384, 420
SUPERSAMPLING = 3

AUDIO_RATE = 44_100
AUDIO_BIT_RATE = 64_000

Shape = np.ndarray  # (n, 2): the corners of a polygon
Points = Sequence[tuple[float, float]]
Colour = str | tuple[int, int, int]


# Shapes


def curve(points: Points, *, closed: bool = True, steps: int = 14) -> Shape:
    """A smooth (Catmull-Rom) curve through the points."""
    p = np.asarray(points, float)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.vstack(parts if closed else [*parts, p[-1:]])


def symmetric(right_half: Points) -> Shape:
    """A closed curve from its right half, top to bottom; first and last point lie on the axis."""
    return curve([*right_half, *[(-x, y) for x, y in right_half[-2:0:-1]]])


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> Shape:
    t = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    ex, ey = rx * np.cos(t), ry * np.sin(t)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.column_stack([x + c * ex - s * ey, y + s * ex + c * ey])


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Shape:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def stroke(points: Points, width: float, *, start: float = 0.0, end: float = 0.0) -> Shape:
    """A brush stroke, `width` at its middle and that share `start` and `end` of it at its ends."""
    line = curve(points, closed=False)
    t = np.linspace(0, 1, len(line))
    ends = start * (1 - t) + end * t
    half = (width / 2 * (ends + (1 - ends) * np.sin(math.pi * t)))[:, None]
    tangent = np.gradient(line, axis=0)
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.vstack([line + normal * half, (line - normal * half)[::-1]])


def flip(shape: Shape, side: int) -> Shape:
    return shape * (side, 1)


def move(shape: Shape, dx: float = 0, dy: float = 0, *, size: float = 1) -> Shape:
    return np.add(shape * size, (dx, dy))


# Painting


class Canvas:
    """A supersampled picture on which every shape is painted through a mask."""

    def __init__(self) -> None:
        self.size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
        self.image = Image.new("RGB", self.size)

    def mask(self, *shapes: Shape, blur: float = 0, clip: Image.Image | None = None) -> Image.Image:
        mask = Image.new("L", self.size)
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            pixels = np.add(shape, (FACE_X, FACE_Y)) * SUPERSAMPLING
            draw.polygon([(x, y) for x, y in pixels.tolist()], fill=255)
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * SUPERSAMPLING))
        return ImageChops.multiply(mask, clip) if clip else mask

    def fill(self, mask: Image.Image, colour: Colour, opacity: float = 1) -> None:
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
        self.image.paste(colour, (0, 0), mask)

    def gradient(self, mask: Image.Image, top: Colour, bottom: Colour, span: tuple[float, float]) -> None:
        """Fill with `top` turning into `bottom` between the two heights of `span`."""
        rows = np.arange(self.size[1]) / SUPERSAMPLING - FACE_Y
        ramp = np.clip((rows - span[0]) / (span[1] - span[0]), 0, 1)
        ramp = ramp * ramp * (3 - 2 * ramp) * 255
        column = Image.fromarray(ramp.astype(np.uint8)[:, None]).resize(self.size)
        upper, lower = Image.new("RGB", self.size, top), Image.new("RGB", self.size, bottom)
        self.image.paste(Image.composite(lower, upper, column), (0, 0), mask)

    def paint(
        self,
        *shapes: Shape,
        colour: Colour,
        opacity: float = 1,
        blur: float = 0,
        clip: Image.Image | None = None,
    ) -> None:
        self.fill(self.mask(*shapes, blur=blur, clip=clip), colour, opacity)

    def shade_edge(
        self,
        mask: Image.Image,
        dx: float,
        dy: float,
        blur: float,
        colour: Colour,
        opacity: float,
    ) -> None:
        """Shade the inside of the mask along the edges which face towards (dx, dy)."""
        offset = (round(-dx * SUPERSAMPLING), round(-dy * SUPERSAMPLING))
        moved = Image.new("L", self.size)
        moved.paste(mask, offset)
        moved = moved.filter(ImageFilter.GaussianBlur(blur * SUPERSAMPLING))
        self.fill(ImageChops.multiply(ImageChops.invert(moved), mask), colour, opacity)

    def blur(self, radius: float) -> None:
        self.image = self.image.filter(ImageFilter.GaussianBlur(radius * SUPERSAMPLING))

    def finished(self) -> Image.Image:
        small = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        grain = np.random.default_rng(7).normal(0, 1.1, (HEIGHT, WIDTH, 1))
        return Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8))


# People


Part = Callable[[Canvas, "Person"], None]


@dataclass(frozen=True)
class Person:
    name: str
    # what they say, and how
    text: str
    voice: str
    speed: int
    pitch: int
    # how they look
    skin: Colour
    skin_light: Colour
    skin_shadow: Colour
    skin_dark: Colour
    blush: Colour
    lips: Colour
    lips_dark: Colour
    lips_light: Colour
    iris: Colour
    iris_light: Colour
    brow: Colour
    lash: Colour
    jaw: float  # 0 narrow, 1 square
    lashes: bool
    brow_width: float
    lip_height: float
    # the parts which are theirs alone
    background: Part
    hair_behind: Part
    clothes: Part
    hair_before: Part


def head_shape(jaw: float) -> Shape:
    return symmetric(
        [
            (0, -196),
            (70, -186),
            (124, -140),
            (144, -66),
            (145, 4),
            (134 + 6 * jaw, 78),
            (102 + 18 * jaw, 140 + 4 * jaw),
            (52 + 16 * jaw, 186 + 2 * jaw),
            (0, 199 + 3 * jaw),
        ]
    )


def draw_neck(c: Canvas, p: Person) -> None:
    w = 66 + 14 * p.jaw
    neck = c.mask(
        symmetric([(0, 80), (w, 90), (w - 2, 190), (w + 2, 240), (w + 22, 276), (w + 40, 320), (0, 470)])
    )
    c.fill(neck, p.skin)
    c.shade_edge(neck, 34, 0, 22, p.skin_shadow, 0.75)
    c.shade_edge(neck, -16, 0, 14, p.skin_shadow, 0.35)
    chin = move(head_shape(p.jaw), 10, 46)
    c.paint(chin, colour=p.skin_dark, opacity=0.62, blur=16, clip=neck)
    for side in (-1, 1):  # collar bones, and the hollow between them
        bone = flip(stroke([(16, 318), (60, 300), (120, 296)], 9), side)
        c.paint(bone, colour=p.skin_shadow, opacity=0.5, blur=4, clip=neck)
        c.paint(move(bone, 0, -8), colour=p.skin_light, opacity=0.35, blur=5, clip=neck)


def draw_ears(c: Canvas, p: Person) -> None:
    for side in (-1, 1):
        ear = flip(
            curve([(138, -26), (158, -38), (171, -20), (166, 12), (156, 42), (143, 50), (132, 30)]),
            side,
        )
        mask = c.mask(ear)
        c.fill(mask, p.skin)
        c.shade_edge(mask, 8 * side, 6, 7, p.skin_shadow, 0.8)
        fold = flip(stroke([(146, -20), (160, -22), (159, 4), (150, 26)], 6), side)
        c.paint(fold, colour=p.skin_dark, opacity=0.5, blur=2, clip=mask)
        c.paint(flip(ellipse(146, 8, 8, 20), side), colour=p.blush, opacity=0.4, blur=6, clip=mask)


def draw_head(c: Canvas, p: Person) -> None:
    head = c.mask(head_shape(p.jaw))
    c.fill(head, p.skin)
    c.paint(ellipse(-36, -60, 110, 130), colour=p.skin_light, opacity=0.55, blur=48, clip=head)
    c.shade_edge(head, 36, 18, 34, p.skin_shadow, 0.9)
    c.shade_edge(head, -14, 8, 18, p.skin_shadow, 0.4)
    c.shade_edge(head, 10, 6, 8, p.skin_dark, 0.25)
    for side in (-1, 1):
        c.paint(ellipse(82 * side, 62, 40, 30), colour=p.blush, opacity=0.5, blur=20, clip=head)
        strength = 0.55 if side < 0 else 0.3
        cheek = ellipse(80 * side, 40, 26, 15, 18 * side)
        c.paint(cheek, colour=p.skin_light, opacity=strength, blur=11, clip=head)
    c.paint(ellipse(-6, 168, 28, 14), colour=p.skin_light, opacity=0.5, blur=10, clip=head)


def draw_eye(c: Canvas, p: Person, side: int) -> None:
    def at(shape: Shape) -> Shape:
        return move(flip(shape, side), 63 * side, -14, size=1.12)

    def spot(x: float, y: float, radius: float) -> Shape:  # both eyes look the same way: no flip
        return move(ellipse(x, y, radius, radius), 63 * side, -14, size=1.12)

    c.paint(at(ellipse(-4, -10, 42, 25)), colour=p.skin_shadow, opacity=0.5, blur=12)
    c.paint(at(ellipse(4, -30, 30, 7)), colour=p.skin_light, opacity=0.4, blur=7)

    top = [(-33, 7), (-22, -7), (-4, -16), (15, -14), (29, -5), (36, 2)]
    bottom = [(26, 10), (8, 15), (-12, 15), (-26, 11)]
    eye = c.mask(at(curve([*top, *bottom])))
    c.fill(eye, "#f7f3ee")
    c.paint(at(ellipse(-33, 7, 8, 6)), colour=p.blush, opacity=0.6, blur=3, clip=eye)
    c.paint(at(ellipse(36, 2, 12, 12)), colour=p.skin_shadow, opacity=0.4, blur=5, clip=eye)

    iris = c.mask(spot(0, -1, 17), clip=eye)
    c.fill(iris, p.iris)
    c.paint(spot(0, 7, 9.5), colour=p.iris_light, opacity=0.85, blur=4, clip=iris)
    c.shade_edge(iris, 0, 0, 2.5, "#1a120e", 0.8)
    c.paint(spot(0, -1, 8), colour="#120d0b", blur=0.7, clip=eye)
    lid = stroke([(-36, 2), (-20, -14), (0, -21), (20, -17), (38, 0)], 16, start=0.6, end=0.6)
    c.paint(at(lid), colour="#3a2620", opacity=0.5, blur=4, clip=eye)
    c.paint(spot(-6, -7, 4.8), colour="#ffffff", blur=0.5)
    c.paint(spot(6.5, 5.5, 2.4), colour="#ffffff", opacity=0.6, blur=0.5)

    lower = stroke([*bottom[::-1], (35, 3)], 2.6)
    c.paint(at(lower), colour=p.skin_dark, opacity=0.55, blur=0.8)
    c.paint(at(stroke([(-24, 20), (-2, 24), (24, 18)], 5)), colour=p.skin_light, opacity=0.4, blur=3)
    smile = stroke([(-22, 24), (0, 31), (28, 24)], 4)
    c.paint(at(smile), colour=p.skin_shadow, opacity=0.42, blur=3)

    heavy, end = (6.5, (43, -5)) if p.lashes else (4.8, (37, 3))
    c.paint(at(stroke([*top[:-1], end], heavy, start=0.2)), colour=p.lash, blur=0.5)
    if p.lashes:
        for x0, y0, x1, y1 in ((34, -2, 45, -11), (28, -7, 38, -17), (20, -12, 27, -20)):
            lash = stroke([(x0, y0), ((x0 + x1) / 2 + 2, (y0 + y1) / 2 + 2), (x1, y1)], 2.4, start=1)
            c.paint(at(lash), colour=p.lash, blur=0.4)
    crease = stroke([(-30, -7), (-16, -20), (2, -26), (22, -22), (36, -11)], 2.8)
    c.paint(at(crease), colour=p.skin_dark, opacity=0.7, blur=1)


def draw_brow(c: Canvas, p: Person, side: int) -> None:
    spine = [(24, -66), (48, -74), (80, -79), (102, -72), (117, -59)]
    t = np.linspace(0, 1, 5)
    half = p.brow_width * np.array([0.55, 0.68, 0.6, 0.36, 0.04])
    x, y = np.array(spine, float).T
    above, below = np.column_stack([x, y - half]), np.column_stack([x, y + half])
    brow = curve([(px, py) for px, py in np.vstack([above, below[::-1]]).tolist()])
    c.paint(flip(brow, side), colour=p.brow, opacity=0.78, blur=1.6)
    rng = np.random.default_rng(3)
    hairs = []
    for along in np.linspace(0, 0.86, 44):
        hx, hy = np.interp(along, t, x), np.interp(along, t, y)
        width = np.interp(along, t, half)
        hy += rng.uniform(-0.7, 0.9) * width
        reach = 6 + 9 * along
        rise = width * (0.9 - 1.1 * along) - 9 * max(along - 0.55, 0)
        hairs.append(
            flip(stroke([(hx, hy), (hx + reach / 2, hy - rise * 0.7), (hx + reach, hy - rise)], 1.9), side)
        )
    c.paint(*hairs, colour=p.brow, opacity=0.7, blur=0.4)


def draw_nose(c: Canvas, p: Person) -> None:
    side_plane = curve([(13, -40), (18, 0), (20, 34), (36, 56), (30, 68), (14, 58), (10, 10)])
    c.paint(side_plane, colour=p.skin_shadow, opacity=0.75, blur=8)
    c.paint(stroke([(-22, -42), (-15, -20), (-15, 10)], 10), colour=p.skin_shadow, opacity=0.4, blur=6)
    bridge = stroke([(-2, -50), (-3, 0), (-3, 44)], 15, start=0.4, end=0.8)
    c.paint(bridge, colour=p.skin_light, opacity=0.6, blur=6)
    c.paint(ellipse(0, 73, 32, 9), colour=p.skin_dark, opacity=0.5, blur=6)
    c.paint(ellipse(-5, 47, 13, 11), colour=p.skin_light, opacity=0.75, blur=6)
    for side in (-1, 1):
        wing = flip(stroke([(29, 45), (37, 57), (33, 69), (23, 70)], 4.5), side)
        c.paint(wing, colour=p.skin_dark, opacity=0.62, blur=1.6)
        nostril = flip(stroke([(9, 70), (16, 65), (25, 69)], 6.5), side)
        c.paint(nostril, colour=p.skin_dark, opacity=0.95, blur=1.6)
    c.paint(stroke([(-9, 71), (0, 75), (9, 71)], 4), colour=p.skin_dark, opacity=0.5, blur=1.6)


def draw_mouth(c: Canvas, p: Person) -> None:
    def lip(points: Points) -> Shape:  # fuller or thinner around the line between the lips
        return curve([(x, 118 + (y - 118) * p.lip_height) for x, y in points])

    c.paint(stroke([(-3, 80), (-2, 96)], 9), colour=p.skin_shadow, opacity=0.5, blur=3)
    upper = lip(
        [
            (-57, 102),
            (-30, 103),
            (-10, 99),
            (0, 103),
            (10, 99),
            (30, 103),
            (57, 102),
            (30, 117),
            (0, 121),
            (-30, 117),
        ]
    )
    lower = lip([(-54, 104), (-30, 116), (0, 120), (30, 116), (54, 104), (35, 129), (0, 139), (-35, 129)])
    c.paint(stroke([(-34, 144), (0, 151), (34, 144)], 13), colour=p.skin_dark, opacity=0.45, blur=6)
    low, up = c.mask(lower, blur=0.9), c.mask(upper, blur=0.9)
    c.fill(low, p.lips)
    c.fill(up, p.lips_dark)
    c.shade_edge(low, 4, 9, 7, p.lips_dark, 0.6)
    c.paint(ellipse(-8, 127, 20, 5), colour=p.lips_light, opacity=0.8, blur=3.5, clip=low)
    c.paint(stroke([(-34, 103), (-10, 101), (0, 105)], 4), colour=p.lips, opacity=0.9, blur=2, clip=up)
    line = [(-64, 95), (-52, 104), (-28, 115), (0, 119), (28, 115), (52, 104), (64, 95)]
    c.paint(stroke(line, 4, start=0.3, end=0.3), colour="#4a1c1a", opacity=0.8, blur=0.7)
    for side in (-1, 1):
        corner = flip(stroke([(62, 87), (68, 94), (66, 105)], 7), side)
        c.paint(corner, colour=p.skin_dark, opacity=0.5, blur=3)
        fold = flip(stroke([(44, 60), (70, 78), (82, 104)], 5), side)
        c.paint(fold, colour=p.skin_shadow, opacity=0.7, blur=3.5)


def draw(p: Person) -> Image.Image:
    c = Canvas()
    p.background(c, p)
    p.hair_behind(c, p)
    draw_neck(c, p)
    p.clothes(c, p)
    draw_ears(c, p)
    draw_head(c, p)
    for side in (-1, 1):
        draw_eye(c, p, side)
        draw_brow(c, p, side)
    draw_nose(c, p)
    draw_mouth(c, p)
    p.hair_before(c, p)
    return c.finished()


# Parts


def bokeh(c: Canvas, seed: int, colours: Sequence[Colour], count: int, opacity: float) -> None:
    """Lights out of focus."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        x, y = rng.uniform(-400, 400), rng.uniform(-430, 400)
        radius = rng.uniform(16, 58)
        colour = colours[index % len(colours)]
        c.paint(ellipse(x, y, radius, radius), colour=colour, opacity=opacity, blur=3)
        c.paint(ellipse(x, y, radius * 0.86, radius * 0.86), colour=colour, opacity=opacity * 0.5, blur=5)


def torso(c: Canvas, slope: float = 0) -> Image.Image:
    return c.mask(
        symmetric(
            [
                (0, 250),
                (92, 268),
                (150, 302 + slope),
                (236, 340 + slope),
                (302, 396 + slope),
                (338, 480),
                (354, 580),
                (350, 700),
                (0, 760),
            ]
        )
    )


def curls(c: Canvas, seed: int, centres: Points, radius: float, tones: tuple[Colour, Colour, Colour]) -> None:
    """Curly hair: a cloud of balls, each with a few lit ringlets."""
    dark, middle, light = tones
    rng = np.random.default_rng(seed)
    for x, y in centres:
        r = radius * rng.uniform(0.75, 1.2)
        ball = c.mask(ellipse(x, y, r, r))
        c.fill(ball, middle)
        c.shade_edge(ball, r * 0.35, r * 0.4, r * 0.4, dark, 0.95)
        lit: list[Shape] = []
        unlit: list[Shape] = []
        for _ in range(7):
            angle, at = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.75) * r
            turn = np.linspace(angle, angle + rng.uniform(2, 3.6), 6)
            ox, oy = x + rng.uniform(-0.4, 0.4) * r, y + rng.uniform(-0.4, 0.4) * r
            ringlet = stroke([(ox + at * math.cos(a), oy + at * math.sin(a)) for a in turn], 3)
            (lit if oy + ox * 0.4 < y + x * 0.4 else unlit).append(ringlet)
        c.paint(*lit, colour=light, opacity=0.5, blur=0.8, clip=ball)
        c.paint(*unlit, colour=dark, opacity=0.6, blur=0.8, clip=ball)


def strands(
    c: Canvas,
    seed: int,
    mask: Image.Image,
    guides: tuple[Points, Points],
    count: int,
    tones: tuple[Colour, Colour],
    opacity: float = 0.4,
) -> None:
    """Fine hair between two guide curves of as many points."""
    rng = np.random.default_rng(seed)
    first, last = (np.asarray(guide, float) for guide in guides)
    groups: tuple[list[Shape], list[Shape]] = ([], [])
    for index in range(count):
        t = rng.uniform(0, 1)
        line = first * (1 - t) + last * t + rng.normal(0, 2.5, first.shape)
        groups[index % 2].append(stroke([(x, y) for x, y in line.tolist()], rng.uniform(1.2, 4)))
    for shapes, tone in zip(groups, tones, strict=True):
        c.paint(*shapes, colour=tone, opacity=opacity, blur=0.7, clip=mask)


# Ada


ADA_HAIR: tuple[Colour, Colour, Colour] = ("#170e0d", "#2e1c19", "#7a5142")


def ada_background(c: Canvas, p: Person) -> None:
    everything = c.mask(rectangle(-400, -440, 400, 560))
    c.gradient(everything, "#f6c98b", "#e58a6c", (-420, 540))
    c.paint(ellipse(-230, -220, 300, 280), colour="#ffe9bd", opacity=0.85, blur=90)
    bokeh(c, 11, ["#fff2d0", "#ffd39a", "#f9a77f"], 22, 0.2)


def ada_hair_behind(c: Canvas, p: Person) -> None:
    rng = np.random.default_rng(5)
    c.paint(ellipse(0, -40, 226, 214), colour=ADA_HAIR[0])
    centres = []
    for ring, count in ((1.0, 38), (0.86, 34), (0.72, 28), (0.58, 22)):
        for angle in rng.permutation(np.linspace(0.6 * math.pi, 2.4 * math.pi, count)):
            x, y = 240 * ring * math.cos(angle), -50 + 236 * ring * math.sin(angle)
            centres.append((x + rng.uniform(-9, 9), y + rng.uniform(-9, 9)))
    curls(c, 21, centres, 33, ADA_HAIR)
    c.paint(ellipse(-130, -200, 120, 70, -40), colour="#d89a66", opacity=0.24, blur=40)
    c.paint(ellipse(0, 140, 110, 50), colour=ADA_HAIR[0], opacity=0.7, blur=18)


def ada_clothes(c: Canvas, p: Person) -> None:
    body = torso(c, 6)
    neckline = c.mask(symmetric([(0, 200), (112, 210), (118, 290), (76, 352), (0, 376)]))
    knit = ImageChops.subtract(body, neckline)
    c.gradient(knit, "#1f8a86", "#11595f", (280, 560))
    c.shade_edge(knit, 40, 0, 40, "#0b3d44", 0.8)
    c.paint(ellipse(-200, 400, 90, 50, -28), colour="#5fc4b8", opacity=0.4, blur=34, clip=knit)
    ribs = [
        stroke([(x * 0.9, 290), (x, 420), (x * 1.1, 570)], 3, start=1, end=1) for x in range(-370, 371, 14)
    ]
    c.paint(*ribs, colour="#0b3d44", opacity=0.28, blur=1.2, clip=knit)
    collar_line = [(-118, 262), (-114, 300), (-74, 356), (0, 381), (74, 356), (114, 300), (118, 262)]
    collar = c.mask(stroke(collar_line, 26, start=1, end=1), clip=body)
    c.paint(
        stroke([(x, y + 12) for x, y in collar_line], 26, start=1, end=1),
        colour="#08343a",
        opacity=0.5,
        blur=7,
        clip=knit,
    )
    c.fill(collar, "#1b7f7d")
    c.shade_edge(collar, 3, 7, 5, "#0b3d44", 0.7)
    c.shade_edge(collar, -2, -5, 4, "#6fd0c4", 0.5)


def ada_hair_before(c: Canvas, p: Person) -> None:
    head = c.mask(head_shape(p.jaw))
    hairline = [
        (-140, -78),
        (-118, -128),
        (-76, -160),
        (-26, -172),
        (30, -170),
        (80, -156),
        (118, -126),
        (140, -78),
    ]
    c.paint(
        stroke([(x, y + 12) for x, y in hairline], 46, start=0.6, end=0.6),
        colour=p.skin_dark,
        opacity=0.5,
        blur=12,
        clip=head,
    )
    line = curve(hairline, closed=False)
    rng = np.random.default_rng(9)
    centres = [(x * 1.04, y - 22 + rng.uniform(-7, 7)) for x, y in line[::6].tolist()]
    upper = [(x * 1.02 + rng.uniform(-8, 8), y - 52 + rng.uniform(-9, 9)) for x, y in line[::7].tolist()]
    curls(c, 22, [*upper, *centres], 25, ADA_HAIR)
    for side in (-1, 1):
        temple = [
            (side * rng.uniform(146, 186), rng.uniform(-112, -28) + rng.uniform(0, 14)) for _ in range(16)
        ]
        curls(c, 23 + side, temple, 20, ADA_HAIR)
    c.paint(ellipse(-70, -196, 90, 26, -22), colour="#d89a66", opacity=0.2, blur=18)
    for side in (-1, 1):  # golden hoops
        ring = ImageChops.subtract(
            c.mask(ellipse(153 * side, 84, 24, 30)), c.mask(ellipse(153 * side, 83, 18, 24))
        )
        c.fill(ring, "#d99a2b")
        c.shade_edge(ring, 2, 2, 2, "#8a5312", 0.7)
        c.shade_edge(ring, -2, -2, 1.5, "#fff0b8", 0.8)


# Grace


def grace_background(c: Canvas, p: Person) -> None:
    everything = c.mask(rectangle(-400, -440, 400, 560))
    c.gradient(everything, "#cfe3ea", "#8fb2c4", (-420, 540))
    rng = np.random.default_rng(31)
    spines = ["#d98b73", "#e9c48a", "#7fa69b", "#f1e6d6", "#5f87a3", "#c46f63", "#a9bcae"]
    for shelf in (-215, 15, 245, 475):
        x = -400.0
        while x < 400:
            width, height = rng.uniform(22, 46), rng.uniform(120, 178)
            if rng.uniform() < 0.86:
                spine = rectangle(x, shelf - height, x + width - 3, shelf)
                c.paint(spine, colour=spines[rng.integers(len(spines))])
            x += width
        c.paint(rectangle(-400, shelf, 400, shelf + 18), colour="#f4ede2")
        c.paint(rectangle(-400, shelf + 18, 400, shelf + 30), colour="#6f8f9f", opacity=0.6)
    c.blur(13)
    c.fill(everything, "#dcebf0", 0.42)
    c.paint(ellipse(-260, -260, 280, 300), colour="#fffaf0", opacity=0.75, blur=90)


def grace_hair_behind(c: Canvas, p: Person) -> None:
    hair = c.mask(
        curve(
            [
                (0, -246),
                (110, -226),
                (176, -150),
                (192, -30),
                (196, 80),
                (178, 168),
                (120, 190),
                (-120, 190),
                (-178, 168),
                (-196, 80),
                (-192, -30),
                (-176, -150),
                (-110, -226),
            ]
        )
    )
    c.fill(hair, "#9aa0aa")
    c.shade_edge(hair, 20, 20, 24, "#5d626e", 0.9)
    inner = symmetric([(0, -200), (150, -100), (160, 60), (130, 200), (0, 230)])
    c.paint(inner, colour="#4c505b", opacity=0.85, blur=16, clip=hair)
    back = c.mask(curve([(-86, 252), (0, 236), (86, 252), (80, 330), (-80, 330)]))
    c.fill(back, "#8f2f43")  # the collar behind the neck


def grace_clothes(c: Canvas, p: Person) -> None:
    body = torso(c, 4)
    neckline = c.mask(curve([(-84, 200), (84, 200), (66, 300), (0, 404), (-66, 300)]))
    front = c.mask(symmetric([(0, 200), (76, 262), (120, 330), (130, 600), (0, 620)]))
    blouse = ImageChops.subtract(front, neckline)
    c.gradient(blouse, "#fffaf2", "#e6dccd", (270, 560))
    c.shade_edge(blouse, 26, 10, 26, "#b9a893", 0.5)
    for side in (-1, 1):

        def at(*points: tuple[float, float], side: int = side) -> Shape:
            return flip(curve(points), side)

        half = c.mask(at((80, 264), (190, 312), (330, 400), (400, 620), (60, 620), (80, 470), (112, 372)))
        jacket = ImageChops.multiply(half, body)
        c.gradient(jacket, "#c9505a", "#8f2f43", (280, 560))
        c.shade_edge(jacket, 34, 0, 34, "#651d33", 0.8)
        if side < 0:
            c.paint(ellipse(-210, 392, 80, 36, -26), colour="#f09a98", opacity=0.4, blur=26, clip=jacket)
        collar = at(
            (70, 256),
            (88, 254),
            (132, 300),
            (160, 372),
            (112, 500),
            (70, 640),
            (50, 620),
            (72, 480),
            (98, 384),
            (86, 312),
        )
        c.paint(move(collar, 8, 8), colour="#4e1428", opacity=0.55, blur=9, clip=jacket)
        c.paint(move(collar, 4, 6), colour="#8a7460", opacity=0.4, blur=6, clip=blouse)
        mask = c.mask(collar)
        c.gradient(mask, "#d9666b", "#b84a58", (260, 560))
        c.shade_edge(mask, 14, 8, 12, "#8f2f43", 0.7)
        c.shade_edge(mask, -4, -3, 4, "#f4a6a4", 0.6)
    chain = curve([(-78, 282), (-46, 332), (0, 356), (46, 332), (78, 282)], closed=False, steps=5)
    for x, y in chain[1:-1].tolist():  # a string of pearls
        pearl = c.mask(ellipse(x, y, 7, 7))
        c.paint(ellipse(x + 2, y + 5, 7, 6), colour="#8a6a58", opacity=0.45, blur=3)
        c.fill(pearl, "#f7f0e6")
        c.shade_edge(pearl, 3, 4, 3, "#a9968a", 0.8)
        c.paint(ellipse(x - 2, y - 2.5, 2, 2), colour="#ffffff", blur=0.5)


def grace_hair_before(c: Canvas, p: Person) -> None:
    head = c.mask(head_shape(p.jaw))
    right = curve(
        [
            (-46, -190),
            (10, -176),
            (62, -150),
            (108, -104),
            (132, -40),
            (142, 40),
            (136, 120),
            (150, 176),
            (190, 168),
            (204, 80),
            (198, -40),
            (178, -150),
            (110, -230),
            (10, -252),
            (-60, -232),
        ]
    )
    left = curve(
        [
            (-40, -196),
            (-72, -160),
            (-112, -112),
            (-132, -40),
            (-142, 40),
            (-138, 120),
            (-152, 176),
            (-190, 168),
            (-204, 80),
            (-198, -40),
            (-178, -150),
            (-116, -226),
            (-40, -246),
        ]
    )
    frame = "#3b2a4a"
    for side in (-1, 1):  # the temples of the glasses, under the hair
        temple = stroke([(118, -24), (132, -26), (146, -24)], 6, start=1, end=1)
        c.paint(flip(temple, side), colour=frame)
    for shape in (left, right):
        c.paint(move(shape, 6, 14), colour=p.skin_dark, opacity=0.5, blur=13, clip=head)
    outer_right: Points = [(-44, -236), (60, -238), (160, -170), (196, -40), (200, 80), (180, 172)]
    inner_right: Points = [(-44, -196), (40, -162), (110, -104), (136, -30), (142, 70), (146, 176)]
    outer_left: Points = [(-44, -240), (-110, -222), (-176, -150), (-196, -40), (-200, 80), (-180, 172)]
    inner_left: Points = [(-44, -196), (-70, -162), (-112, -108), (-136, -30), (-142, 70), (-146, 176)]
    for seed, shape, guides in (
        (41, left, (outer_left, inner_left)),
        (42, right, (outer_right, inner_right)),
    ):
        mask = c.mask(shape)
        c.gradient(mask, "#dfe2e6", "#a4a9b3", (-240, 180))
        c.shade_edge(mask, 18, 10, 16, "#6c717d", 0.75)
        strands(c, seed, mask, guides, 150, ("#767b87", "#ffffff"), 0.33)
    c.paint(ellipse(104, -172, 70, 16, 42), colour="#ffffff", opacity=0.5, blur=12)
    c.paint(ellipse(-132, -150, 56, 14, -56), colour="#ffffff", opacity=0.6, blur=11)
    # round glasses
    for side in (-1, 1):
        lens, rim = ellipse(63 * side, -10, 55, 53), ellipse(63 * side, -10, 60, 58)
        glass = c.mask(lens)
        ring = ImageChops.subtract(c.mask(rim), glass)
        shadow = ImageChops.subtract(c.mask(move(rim, 4, 9)), c.mask(move(lens, 4, 9)))
        shadow = shadow.filter(ImageFilter.GaussianBlur(3 * SUPERSAMPLING))
        c.fill(ImageChops.multiply(shadow, head), p.skin_dark, 0.4)
        x = 63 * side
        glare = curve([(x - 40, -34), (x - 22, -52), (x - 8, -56), (x - 44, -8)])
        c.paint(glare, colour="#ffffff", opacity=0.2, blur=2, clip=glass)
        c.fill(ring, frame)
        c.shade_edge(ring, -1.5, -2, 1.2, "#a58bc0", 0.7)
    c.paint(stroke([(-10, -18), (0, -26), (10, -18)], 6, start=1, end=1), colour=frame)
    for side in (-1, 1):  # the years
        for dy in (0, 9):
            line = flip(stroke([(112, -4 + dy), (121, -2 + dy * 1.6)], 2.4), side)
            c.paint(line, colour=p.skin_shadow, opacity=0.5, blur=1)


# Alan


ALAN_HAIR = ("#4a2413", "#7d4322", "#d08a4e")


def alan_background(c: Canvas, p: Person) -> None:
    everything = c.mask(rectangle(-400, -440, 400, 560))
    c.gradient(everything, "#a9d6e8", "#f3ecd0", (-420, 140))
    c.paint(ellipse(230, -250, 90, 90), colour="#fffbe0", blur=26)
    hills: tuple[tuple[Points, Colour], ...] = (
        ([(-420, 40), (-240, -40), (-40, 30), (170, -60), (420, 20), (420, 600), (-420, 600)], "#a9cdb4"),
        ([(-420, 120), (-200, 150), (60, 90), (420, 140), (420, 600), (-420, 600)], "#7fb38c"),
        ([(-420, 260), (-160, 220), (200, 270), (420, 220), (420, 600), (-420, 600)], "#5c9670"),
    )
    for points, colour in hills:
        c.paint(curve(points), colour=colour)
    rng = np.random.default_rng(51)
    for _ in range(22):
        x, y = rng.uniform(-400, 400), rng.uniform(90, 300)
        c.paint(ellipse(x, y, rng.uniform(20, 46), rng.uniform(28, 60)), colour="#4b8463", opacity=0.75)
    c.blur(15)
    bokeh(c, 52, ["#fffbe0", "#d9f0d0"], 14, 0.16)


def alan_hair_behind(c: Canvas, p: Person) -> None:
    c.paint(symmetric([(0, -226), (96, -206), (142, -140), (148, -40), (0, 0)]), colour=ALAN_HAIR[0])
    back = c.mask(curve([(-92, 236), (0, 222), (92, 236), (90, 330), (-90, 330)]))
    c.fill(back, "#cfc8bd")  # the collar behind the neck


def alan_clothes(c: Canvas, p: Person) -> None:
    body = torso(c, -6)
    c.gradient(body, "#2f4a7c", "#1c2c54", (270, 560))
    c.shade_edge(body, 44, 0, 40, "#101a38", 0.85)
    c.paint(ellipse(-210, 390, 90, 46, -28), colour="#7d9bd0", opacity=0.4, blur=32, clip=body)
    stitches = [
        stroke([(x, y), (x + 4, y + 7), (x + 8, y)], 2.2)
        for y in range(260, 560, 10)
        for x in range(-380, 380, 11)
    ]
    c.paint(*stitches, colour="#14204a", opacity=0.5, blur=0.6, clip=body)
    # the shirt in the neck of the sweater
    edge = [(-112, 254), (-92, 320), (-50, 386), (0, 432), (50, 386), (92, 320), (112, 254)]
    opening = c.mask(curve([*edge, (0, 200)]), clip=body)
    c.fill(opening, "#f3efe8")
    c.shade_edge(opening, 14, 8, 14, "#a9a196", 0.7)
    c.paint(
        stroke([(0, 340), (2, 380), (1, 430)], 2.4, start=1, end=1), colour="#a9a196", blur=0.8, clip=opening
    )
    c.paint(ellipse(8, 394, 5, 5), colour="#8f877c", opacity=0.6, blur=1)
    c.paint(ellipse(7, 392, 5, 5), colour="#fffdf8")
    band = c.mask(stroke(edge, 22, start=1, end=1), clip=body)
    c.paint(move(stroke(edge, 22, start=1, end=1), 2, 10), colour="#0c1430", opacity=0.5, blur=7, clip=body)
    c.fill(band, "#2c4575")
    c.shade_edge(band, 4, 7, 5, "#101a38", 0.8)
    c.shade_edge(band, -3, -5, 4, "#86a2d4", 0.4)
    # open at the throat
    skin = c.mask(
        np.array([(-77, 215), (77, 215), (78, 268), (62, 294), (0, 357), (-62, 294), (-78, 268)], float)
    )
    c.fill(skin, p.skin)
    c.shade_edge(skin, 16, 0, 12, p.skin_shadow, 0.7)
    c.paint(move(head_shape(p.jaw), 10, 46), colour=p.skin_dark, opacity=0.62, blur=16, clip=skin)
    for side in (-1, 1):
        collar = flip(
            np.array(
                [(78, 226), (96, 238), (124, 290), (112, 336), (78, 388), (0, 352), (52, 302), (76, 262)],
                float,
            ),
            side,
        )
        c.paint(move(collar, 4, 10), colour="#0c1430", opacity=0.5, blur=7)
        mask = c.mask(collar, blur=0.8)
        c.gradient(mask, "#ffffff", "#e2dcd2", (240, 400))
        c.shade_edge(mask, 10, 6, 9, "#a49c92", 0.6)


def alan_hair_before(c: Canvas, p: Person) -> None:
    alan_beard(c, p)
    dark, middle, light = ALAN_HAIR
    head = c.mask(head_shape(p.jaw))
    hairline = [
        (-136, -70),
        (-126, -112),
        (-104, -142),
        (-60, -158),
        (0, -156),
        (64, -146),
        (122, -116),
        (136, -70),
    ]
    sides = curve(
        [
            *hairline,
            (142, 6),
            (153, -40),
            (158, -110),
            (120, -200),
            (-120, -200),
            (-158, -110),
            (-153, -40),
            (-142, 6),
        ]
    )
    top = curve(
        [
            *hairline[1:-1],
            (150, -136),
            (158, -172),
            (140, -214),
            (98, -246),
            (36, -274),
            (-36, -286),
            (-104, -266),
            (-150, -212),
            (-152, -148),
        ]
    )
    for shape in (sides, top):
        c.paint(move(shape, 5, 13), colour=p.skin_dark, opacity=0.4, blur=11, clip=head)
    mask = c.mask(sides)
    c.fill(mask, "#5f3019")
    for side in (-1, 1):
        outer: Points = [(158 * side, -150), (160 * side, -70), (148 * side, 6)]
        inner: Points = [(116 * side, -150), (130 * side, -80), (140 * side, 0)]
        strands(c, 70 + side, mask, (outer, inner), 140, (middle, "#5e3018"), 0.55)
    # swept up from the forehead and over to the right
    mask = c.mask(top)
    left: Points = [(-128, -104), (-154, -164), (-136, -240), (-40, -280), (70, -258)]
    right: Points = [(122, -112), (146, -140), (152, -170), (142, -196), (128, -214)]
    c.paint(move(top, 0, 3, size=0.995), colour=middle)
    c.fill(mask, middle)
    c.shade_edge(mask, 20, 16, 22, dark, 0.85)
    c.paint(stroke(hairline[1:-1], 30, start=0.5, end=0.5), colour=dark, opacity=0.6, blur=9, clip=mask)
    rng = np.random.default_rng(75)
    first, last = np.asarray(left), np.asarray(right)
    for index in range(46):
        t = rng.uniform(0, 1)
        line = first * (1 - t) + last * t + rng.normal(0, 4, first.shape)
        lock = stroke([(x, y) for x, y in line.tolist()], rng.uniform(7, 18))
        c.paint(lock, colour=(dark, light, middle)[index % 3], opacity=0.3, blur=2.2, clip=mask)
    strands(c, 76, mask, (left, right), 420, (dark, light), 0.42)
    wisps = []
    for index in range(90):  # loose hair outside the outline
        t = rng.uniform(0, 0.12) if index % 3 else rng.uniform(0.85, 1)
        line = (first * (1 - t) + last * t)[1:] * rng.uniform(0.99, 1.03)
        line += rng.normal(0, 3, line.shape)
        wisps.append(stroke([(x, y) for x, y in line.tolist()], 2.4))
    for x, y in curve(hairline[2:-1], closed=False, steps=9).tolist():  # and at the forehead
        x, y = x + rng.normal(0, 3), y + rng.uniform(0, 9)
        wisps.append(stroke([(x, y), (x - 5, y - 14), (x - 7, y - 32)], 3.4))
    c.paint(*wisps, colour=middle, opacity=0.75, blur=0.5)
    c.paint(ellipse(-62, -214, 70, 20, -24), colour="#f5bd84", opacity=0.45, blur=13, clip=mask)


def alan_beard(c: Canvas, p: Person) -> None:
    dark, middle, light = ALAN_HAIR
    outside = c.mask(move(head_shape(p.jaw), 0, 3, size=1.025), blur=1.5)
    cheeks = symmetric(
        [(0, 128), (40, 128), (70, 112), (100, 92), (126, 40), (158, -34), (180, 120), (90, 260), (0, 270)]
    )
    moustache = symmetric([(0, 87), (26, 81), (54, 91), (80, 112), (80, 140), (60, 110), (28, 107), (0, 110)])
    area = ImageChops.lighter(c.mask(cheeks, blur=6, clip=outside), c.mask(moustache, blur=2.5))
    mouth = symmetric([(0, 112), (28, 110), (54, 105), (48, 115), (34, 130), (0, 138)])
    beard = ImageChops.subtract(area, c.mask(mouth, blur=1.5))
    c.fill(beard, middle, 0.86)
    c.shade_edge(c.mask(cheeks, clip=outside), 22, 18, 20, dark, 0.55)
    c.shade_edge(c.mask(moustache, blur=1.5), 3, 9, 7, dark, 0.6)
    rng = np.random.default_rng(61)
    tones: tuple[list[Shape], list[Shape]] = ([], [])
    for index in range(2600):
        angle, reach = rng.uniform(-0.14, math.pi + 0.14), rng.uniform(0.4, 1.03)
        x, y = 148 * reach * math.cos(angle), 40 + 168 * reach * math.sin(angle)
        length = rng.uniform(9, 17)
        lean = 0.1 * x / 148 * length + rng.normal(0, 1.6)
        hair = stroke([(x, y), (x + lean * 1.4, y + length / 2), (x + lean, y + length)], 1.5)
        tones[index % 2].append(hair)
    for index in range(240):
        side, along = rng.choice((-1, 1)), rng.uniform(0, 60)
        x, y = side * along, 86 + rng.uniform(0, 12) + along * along / 260
        hair = stroke([(x, y), (x + 4 * side, y + 5), (x + 11 * side, y + 9 + along / 12)], 1.6)
        tones[index % 2].append(hair)
    c.paint(*tones[0], colour=dark, opacity=0.42, blur=0.5, clip=beard)
    c.paint(*tones[1], colour=light, opacity=0.42, blur=0.5, clip=beard)
    c.paint(ellipse(-34, 172, 40, 14, 18), colour=light, opacity=0.35, blur=12, clip=beard)


PEOPLE = (
    Person(
        name="ada",
        text="Good morning! Here is today's news, made by a data pipeline.",
        voice="en-us+f3",
        speed=150,
        pitch=55,
        skin="#9c6142",
        skin_light="#cf9068",
        skin_shadow="#6f3d29",
        skin_dark="#48231a",
        blush="#b3533c",
        lips="#a8433f",
        lips_dark="#7f2d2e",
        lips_light="#e58f80",
        iris="#3d2314",
        iris_light="#8a5327",
        brow="#21130f",
        lash="#140b09",
        jaw=0.1,
        lashes=True,
        brow_width=7.5,
        lip_height=1,
        background=ada_background,
        hair_behind=ada_hair_behind,
        clothes=ada_clothes,
        hair_before=ada_hair_before,
    ),
    Person(
        name="grace",
        text="Hello! One photo and one voice: that is all it takes to make this video.",
        voice="en-gb+f2",
        speed=150,
        pitch=45,
        skin="#f0c7ab",
        skin_light="#ffe9d8",
        skin_shadow="#d39b7f",
        skin_dark="#9b5f4c",
        blush="#e88f80",
        lips="#c9656a",
        lips_dark="#a84750",
        lips_light="#f3b0ab",
        iris="#4f7488",
        iris_light="#a3cbd8",
        brow="#8b8a90",
        lash="#3c3033",
        jaw=0.25,
        lashes=False,
        brow_width=6.5,
        lip_height=0.85,
        background=grace_background,
        hair_behind=grace_hair_behind,
        clothes=grace_clothes,
        hair_before=grace_hair_before,
    ),
    Person(
        name="alan",
        text="Good evening! The pipeline has run, every task is green, and nothing was paid for twice.",
        voice="en-us+m3",
        speed=155,
        pitch=42,
        skin="#e2a684",
        skin_light="#fbd3b4",
        skin_shadow="#bb7654",
        skin_dark="#85472f",
        blush="#d97c62",
        lips="#c06a5c",
        lips_dark="#984a42",
        lips_light="#e8a696",
        iris="#4f6b3a",
        iris_light="#a7b86a",
        brow="#5c3019",
        lash="#33190f",
        jaw=0.9,
        lashes=False,
        brow_width=10.5,
        lip_height=0.8,
        background=alan_background,
        hair_behind=alan_hair_behind,
        clothes=alan_clothes,
        hair_before=alan_hair_before,
    ),
)


# Speech


def speak(p: Person) -> np.ndarray:
    """The person's text as mono samples in -1..1 at AUDIO_RATE, with a short pause around it."""
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "speech.wav"
        options = ["-v", p.voice, "-s", str(p.speed), "-p", str(p.pitch), "-w", str(path)]
        subprocess.run([espeak, *options, p.text], check=True)  # noqa: S603  (our own arguments)
        with wave.open(str(path)) as file:
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = samples[loud[0] : loud[-1] + 1]
    positions = np.arange(0, len(samples) - 1, rate / AUDIO_RATE)
    samples = np.interp(positions, np.arange(len(samples)), samples)
    # take the edge off the synthesiser: a gentle low-pass, then an even level
    kernel = np.hanning(11)
    samples = 0.65 * np.convolve(samples, kernel / kernel.sum(), "same") + 0.35 * samples
    samples = np.tanh(samples / np.sqrt(np.mean(samples**2)) * 0.15)
    pause = np.zeros(round(0.2 * AUDIO_RATE))
    return np.concatenate([pause, samples * (0.85 / np.abs(samples).max()), pause])


def write_mp3(samples: np.ndarray, path: Path) -> None:
    pcm = np.round(samples * 32767).astype(np.int16)[None, :]
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=AUDIO_RATE, layout="mono")
        stream.bit_rate = AUDIO_BIT_RATE
        frame = av.AudioFrame.from_ndarray(pcm, format="s16p", layout="mono")
        frame.sample_rate = AUDIO_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def duration(path: Path) -> float:
    """The seconds of sound which a decoder gets out of the file."""
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def main() -> None:
    manifest = []
    for person in PEOPLE:
        image, audio = HERE / f"{person.name}.jpg", HERE / f"{person.name}.mp3"
        draw(person).save(image, quality=88, optimize=True, progressive=True)
        write_mp3(speak(person), audio)
        manifest.append(
            {
                "person": person.name,
                "image_file_path": image.name,
                "audio_file_path": audio.name,
                "end_seconds": math.floor(duration(audio) * 10) / 10,
            }
        )
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
