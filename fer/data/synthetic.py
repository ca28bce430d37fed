"""Drawn faces with seven expressions, for the demo and the tests: no photograph of anyone.

Position, size, tilt, light, noise, hair, skin and the strength of the expression vary from face to
face, so that telling the expressions apart takes learning.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fer.data.emotions import EMOTIONS, SPLITS
from fer.vision.decode import IMAGE_SIZE

SCALE = 3
"""Faces are drawn this much larger than they are kept, for smooth lines."""

SHARES = (0.15, 0.07, 0.14, 0.22, 0.15, 0.13, 0.14)
"""Share of each class, in the order of ``EMOTIONS``: unequal, as in FER2013."""


USAGES = dict(zip(SPLITS, ("Training", "PublicTest", "PrivateTest"), strict=True))
"""What FER2013's ``Usage`` column calls each split."""


@dataclass(frozen=True)
class Faces:
    """Drawn faces: images uint8 (N, 48, 48), labels int (N,), and the split of each."""

    images: np.ndarray
    labels: np.ndarray
    splits: list[str]

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, str]]:
        return iter(zip(self.images, self.labels.tolist(), self.splits, strict=True))


@dataclass(frozen=True)
class Expression:
    """What sets an expression apart from a neutral face, at full strength.

    Lengths are in halves of the head's width; 0 (and 1 for the eyes) is neutral.

    Attributes:
        inner_brow: How much the inner ends of the brows rise.
        outer_brow: How much their outer ends rise.
        eye: How far the eyes are open.
        smile: How much the corners of the mouth rise.
        open: How far the mouth is open.
        width: How much wider the mouth is.
        sneer: How much one side of the upper lip rises, and the nose wrinkles.
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
    """A head in the middle of its canvas: lengths in pixels, shades 0 to 255."""

    half_width: float
    half_height: float
    skin: int
    ink: int
    strength: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point in halves of the head's width, from its middle, down."""
        center = IMAGE_SIZE * SCALE / 2
        return center + x * self.half_width, center + y * self.half_width

    def box(self, x: float, y: float, half_width: float, half_height: float) -> list[float]:
        """Return the box round a point, for an ellipse."""
        return [
            *self.at(x - half_width, y - half_height),
            *self.at(x + half_width, y + half_height),
        ]

    @property
    def line(self) -> int:
        """Width of a line."""
        return max(2, round(self.half_width * 0.07))


def draw_faces(num_faces: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw faces.

    Args:
        num_faces: How many, N; at least one of each class where N allows it.
        seed: The same seed draws the same faces.

    Returns:
        Images uint8 (N, 48, 48) and labels int64 (N,), in random order.
    """
    rng = np.random.default_rng(seed)
    first = np.arange(min(num_faces, len(EMOTIONS)))
    rest = rng.choice(len(EMOTIONS), size=num_faces - len(first), p=SHARES)
    labels = rng.permutation(np.concatenate([first, rest]))
    return np.stack([draw_face(int(label), rng) for label in labels]), labels


def draw_face(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one face, uint8 (48, 48), that expresses the emotion of a label."""
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
    turned = canvas.rotate(
        rng.uniform(-20, 20),
        Image.Resampling.BILINEAR,
        translate=(int(shift_x), int(shift_y)),
        fillcolor=canvas.getpixel((0, 0)),
    )
    return _expose(turned, rng)


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
    tall = head.half_height / head.half_width
    hair = int(rng.integers(0, 120))
    volume = rng.uniform(1.0, 1.2)
    if rng.random() < 0.8:
        draw.ellipse(head.box(0, -0.15, volume, tall * volume), fill=hair)
    draw.ellipse(head.box(0, 0, 1, tall), fill=head.skin, outline=head.ink, width=head.line)
    if rng.random() < 0.5:
        fringe = rng.uniform(0.25, 0.45)
        draw.chord(head.box(0, 0, 1, tall), 180 + 90 * fringe, 360 - 90 * fringe, fill=hair)
    if rng.random() < 0.15:
        draw.arc(head.box(0, 0.1, 0.97, tall * 0.9), 20, 160, fill=hair, width=4 * head.line)


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
    """Scale to size under a light from one side, somewhat blurred and noisy."""
    blurred = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2) * SCALE / 2))
    face = np.asarray(blurred.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX), np.float64)
    steps = np.linspace(-0.5, 0.5, IMAGE_SIZE)
    light = 1 + rng.uniform(-0.6, 0.6) * steps[:, None] + rng.uniform(-0.6, 0.6) * steps
    face = face * light * rng.uniform(0.6, 1.1) + rng.normal(0, rng.uniform(3, 16), face.shape)
    return face.clip(0, 255).round().astype(np.uint8)


def to_csv(faces: Faces) -> bytes:
    """Return faces as FER2013's CSV file writes them: ``emotion,pixels,Usage``."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["emotion", "pixels", "Usage"])
    for image, emotion, split in faces:
        rows.writerow([emotion, " ".join(map(str, image.ravel())), USAGES[split]])
    return text.getvalue().encode()


def to_zip(faces: Faces) -> bytes:
    """Return faces as an archive of PNG files in folders by split and class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (image, emotion, split) in enumerate(faces):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            archive.writestr(f"{split}/{EMOTIONS[emotion]}/{number:05d}.png", png.getvalue())
    return buffer.getvalue()
