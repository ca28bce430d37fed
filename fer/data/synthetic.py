"""Drawn faces with seven expressions, for the demo and the tests. They are not photographs.

Position, size, tilt, light, noise, hair, skin and the strength of the expression vary from face to
face, so that a network has to learn to distinguish the expressions.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fer.data.emotions import EMOTIONS, SPLITS
from fer.vision.shape import IMAGE_SIZE

SCALE = 3
"""Faces are drawn at this multiple of their final size and scaled down, for smooth lines."""

SHARES = (0.15, 0.07, 0.14, 0.22, 0.15, 0.13, 0.14)
"""Share of each class, in the order of ``EMOTIONS``. They are unequal, as in FER2013."""

USAGES = dict(zip(SPLITS, ("Training", "PublicTest", "PrivateTest"), strict=True))
"""Value of FER2013's ``Usage`` column for each split."""


@dataclass(frozen=True)
class Faces:
    """Drawn faces: images uint8 (N, 48, 48), labels int (N,), and N splits."""

    images: np.ndarray
    labels: np.ndarray
    splits: list[str]

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, str]]:
        return iter(zip(self.images, self.labels.tolist(), self.splits, strict=True))


@dataclass(frozen=True)
class Expression:
    """The differences of an expression from a neutral face, at full strength.

    Lengths are in units of half the head's width. A neutral face has 0 everywhere, and 1 for the
    eyes.

    Attributes:
        inner_brow: Height by which the inner ends of the brows rise.
        outer_brow: Height by which the outer ends of the brows rise.
        eye: Opening of the eyes, relative to a neutral face.
        smile: Height by which the corners of the mouth rise.
        open: Opening of the mouth.
        width: Additional width of the mouth.
        sneer: Height by which one side of the upper lip rises and the nose wrinkles.
    """

    inner_brow: float = 0.0
    outer_brow: float = 0.0
    eye: float = 1.0
    smile: float = 0.0
    open: float = 0.0
    width: float = 0.0
    sneer: float = 0.0


EXPRESSIONS = {
    "angry": Expression(inner_brow=-0.2, outer_brow=0.08, eye=0.8, smile=-0.14, open=0.08),
    "disgust": Expression(inner_brow=-0.1, eye=0.55, smile=-0.1, open=0.08, sneer=0.2),
    "fear": Expression(inner_brow=0.2, outer_brow=0.06, eye=1.45, smile=-0.1, open=0.16, width=0.1),
    "happy": Expression(outer_brow=0.04, eye=0.7, smile=0.26, open=0.1, width=0.16),
    "sad": Expression(inner_brow=0.18, outer_brow=-0.08, eye=0.7, smile=-0.24),
    "surprise": Expression(inner_brow=0.2, outer_brow=0.22, eye=1.5, open=0.42, width=-0.16),
    "neutral": Expression(),
}


@dataclass(frozen=True)
class _Head:
    """A head in the middle of its canvas, with lengths in pixels and shades from 0 to 255.

    Its methods convert coordinates in units of half the head's width, measured to the right and
    down from the head's center, to pixels.
    """

    half_width: float
    half_height: float
    skin: int
    ink: int
    strength: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel coordinates of a point."""
        center = IMAGE_SIZE * SCALE / 2
        return center + x * self.half_width, center + y * self.half_width

    def box(self, x: float, y: float, half_width: float, half_height: float) -> list[float]:
        """Return the bounding box of an ellipse around a point, in pixels."""
        return [
            *self.at(x - half_width, y - half_height),
            *self.at(x + half_width, y + half_height),
        ]

    @property
    def line(self) -> int:
        """Width of a line in pixels."""
        return max(2, round(self.half_width * 0.07))


def draw_faces(num_faces: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw faces of all classes.

    Args:
        num_faces: Number of faces, N. Each class gets at least one if N is large enough.
        seed: Seed of the random numbers. The same seed draws the same faces.

    Returns:
        Images uint8 (N, 48, 48) and labels int64 (N,), in random order.
    """
    rng = np.random.default_rng(seed)
    first = np.arange(min(num_faces, len(EMOTIONS)))
    rest = rng.choice(len(EMOTIONS), size=num_faces - len(first), p=SHARES)
    labels = rng.permutation(np.concatenate([first, rest]))
    return np.stack([draw_face(int(label), rng) for label in labels]), labels


def draw_face(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a face uint8 (48, 48) that expresses the emotion of a label."""
    expression = EXPRESSIONS[EMOTIONS[label]]
    side = IMAGE_SIZE * SCALE
    head = _draw_head(rng, side)
    canvas = Image.new("L", (side, side), int(rng.integers(30, 230)))
    draw = ImageDraw.Draw(canvas)
    _draw_skull(draw, head, rng)
    _draw_eyes(draw, head, expression, rng)
    _draw_nose(draw, head, expression)
    _draw_mouth(draw, head, expression)
    shift_x, shift_y = rng.uniform(-0.08, 0.08, 2) * side
    rotated = canvas.rotate(
        rng.uniform(-20, 20),
        Image.Resampling.BILINEAR,
        translate=(int(shift_x), int(shift_y)),
        fillcolor=canvas.getpixel((0, 0)),
    )
    return _expose(rotated, rng)


def _draw_head(rng: np.random.Generator, side: int) -> _Head:
    half_width = side * rng.uniform(0.3, 0.42)
    skin = int(rng.integers(90, 235))
    return _Head(
        half_width=half_width,
        half_height=half_width * rng.uniform(1.1, 1.35),
        skin=skin,
        ink=max(0, skin - int(rng.integers(60, 130))),
        strength=rng.uniform(0.45, 1.15),
    )


def _draw_skull(draw: ImageDraw.ImageDraw, head: _Head, rng: np.random.Generator) -> None:
    aspect = head.half_height / head.half_width
    hair = int(rng.integers(0, 120))
    volume = rng.uniform(1.0, 1.2)
    if rng.random() < 0.8:
        draw.ellipse(head.box(0, -0.15, volume, aspect * volume), fill=hair)
    draw.ellipse(head.box(0, 0, 1, aspect), fill=head.skin, outline=head.ink, width=head.line)
    if rng.random() < 0.5:
        fringe = rng.uniform(0.25, 0.45)
        draw.chord(head.box(0, 0, 1, aspect), 180 + 90 * fringe, 360 - 90 * fringe, fill=hair)
    if rng.random() < 0.15:
        draw.arc(head.box(0, 0.1, 0.97, aspect * 0.9), 20, 160, fill=hair, width=4 * head.line)


def _draw_eyes(
    draw: ImageDraw.ImageDraw, head: _Head, expression: Expression, rng: np.random.Generator
) -> None:
    openness = 1 + (expression.eye - 1) * head.strength + rng.normal(0, 0.06)
    gaze = rng.uniform(-0.06, 0.06)
    apart, lift = rng.uniform(0.36, 0.46), rng.uniform(0.14, 0.24)
    has_glasses = rng.random() < 0.15
    inner = expression.inner_brow * head.strength + rng.normal(0, 0.03)
    outer = expression.outer_brow * head.strength + rng.normal(0, 0.03)
    for side in (-1, 1):
        x, height = side * apart, max(0.03, 0.13 * openness)
        white = min(255, head.skin + 60)
        draw.ellipse(head.box(x, -lift, 0.19, height), fill=white, outline=head.ink, width=2)
        draw.ellipse(
            head.box(x + gaze, -lift, min(0.09, height), min(0.1, height)), fill=head.ink // 3
        )
        brow = [
            head.at(x - side * 0.2, -lift - 0.27 - inner),
            head.at(x + side * 0.22, -lift - 0.27 - outer),
        ]
        draw.line(brow, fill=head.ink // 2, width=round(1.6 * head.line))
        if has_glasses:
            draw.ellipse(head.box(x, -lift, 0.27, 0.25), outline=30, width=head.line)


def _draw_nose(draw: ImageDraw.ImageDraw, head: _Head, expression: Expression) -> None:
    draw.line(
        [head.at(0, -0.05), head.at(-0.1, 0.3), head.at(0.08, 0.3)], fill=head.ink, width=head.line
    )
    sneer = expression.sneer * head.strength
    if sneer > 0:
        for height in (-0.06, 0.02):
            draw.line(
                [head.at(-0.12, height - sneer / 2), head.at(0.12, height)],
                fill=head.ink,
                width=head.line,
            )


def _draw_mouth(draw: ImageDraw.ImageDraw, head: _Head, expression: Expression) -> None:
    half_width = 0.34 + expression.width * head.strength
    smile, opening, sneer = (
        value * head.strength for value in (expression.smile, expression.open, expression.sneer)
    )
    across = np.linspace(-1, 1, 13)
    bend = 0.62 + smile * (0.5 - across**2)
    upper = bend - opening * (1 - across**2) / 2 - sneer * np.exp(-((across - 0.5) ** 2) * 8)
    lower = bend + opening * (1 - across**2) / 2
    points = [
        head.at(x * half_width, y)
        for x, y in [
            *zip(across, upper, strict=True),
            *reversed([*zip(across, lower, strict=True)]),
        ]
    ]
    if opening > 0.02:
        draw.polygon(points, fill=head.ink // 3)
    draw.line([*points, points[0]], fill=head.ink // 2, width=head.line, joint="curve")


def _expose(drawn: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Scale a drawing to its final size, with random blur, light from one side, and noise."""
    blurred = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2) * SCALE / 2))
    face = np.asarray(blurred.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX), np.float64)
    steps = np.linspace(-0.5, 0.5, IMAGE_SIZE)
    light = 1 + rng.uniform(-0.6, 0.6) * steps[:, None] + rng.uniform(-0.6, 0.6) * steps
    face = face * light * rng.uniform(0.6, 1.1) + rng.normal(0, rng.uniform(3, 16), face.shape)
    return face.clip(0, 255).round().astype(np.uint8)


def to_csv(faces: Faces) -> bytes:
    """Encode faces as a CSV file in FER2013's format: ``emotion,pixels,Usage``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["emotion", "pixels", "Usage"])
    for image, label, split in faces:
        writer.writerow([label, " ".join(map(str, image.ravel())), USAGES[split]])
    return text.getvalue().encode()


def to_zip(faces: Faces) -> bytes:
    """Encode faces as a zip archive of PNG files in the folders ``split/emotion``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (image, label, split) in enumerate(faces):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            archive.writestr(f"{split}/{EMOTIONS[label]}/{number:05d}.png", png.getvalue())
    return buffer.getvalue()
