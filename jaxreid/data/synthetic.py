"""The embedded data set: pedestrians drawn by a procedure, on disk in Market-1501's layout.

An articulated body walks past cameras that differ in background, light, colour and framing. The
files are ordinary JPEGs with Market's names, so that a demonstration runs through the real parser,
the real decoder and the real protocol, and the true joints lie beside them.

    python -m jaxreid.data.synthetic --root=data/synthetic

Two things make it a task for re-identification and not for a colour histogram: clothes come from
a few colours while cameras shift those colours strongly, and some identities are twins, who
differ in two attributes only.

Body coordinates, in units of the person's stature: x to the person's left, height above the
ground, z forward. Image coordinates: x right, y down. Every random number follows from
`(seed, what, pid, camera, index)`, so that an image does not depend on which process draws it.
"""

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator, SeedSequence, default_rng
from PIL import Image, ImageDraw, ImageFilter

from jaxreid.errors import UserError

VERSION = 1
"""Raised whenever the same spec would give other pictures; part of `spec.json`."""

Colour = tuple[int, int, int]


# ---------------------------------------------------------------------------- specification


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard the cameras make it. Zero switches an effect off.

    Attributes:
        cast: spread of the cameras' colour casts, as the log of the gain of a channel.
        light: spread of exposure between cameras (log), and of shadows within one.
        occlusion: probability that something stands in front of the person.
        jitter: shift and scale of the box, as a fraction of its size (standard deviation).
        blur: largest blur of a camera, in pixels of the final image (sigma).
        noise: largest sensor noise of a camera, in grey levels (sigma).
        clutter: density of objects in the background; 1 is a usual street.
    """

    cast: float = 0.07
    light: float = 0.15
    occlusion: float = 0.10
    jitter: float = 0.025
    blur: float = 0.8
    noise: float = 7.0
    clutter: float = 1.0


@dataclasses.dataclass(frozen=True)
class Spec:
    """What to draw. Equal specs give byte-identical files.

    Attributes:
        seed: of everything.
        num_train_ids: identities in `bounding_box_train`.
        num_test_ids: identities in `query` and `bounding_box_test`; none is in training.
        cameras: how many cameras there are (Market has 6).
        images_per_camera: images of an identity in each camera that sees it.
        cameras_per_id: fewest and most cameras that see an identity.
        num_distractors: gallery images of nobody in particular (pid 0).
        num_junk: gallery images whose box is badly cut (pid -1).
        height: of an image, in pixels.
        width: of an image, in pixels.
        difficulty: how hard the cameras make it.
    """

    seed: int = 0
    num_train_ids: int = 128
    num_test_ids: int = 40
    cameras: int = 6
    images_per_camera: int = 4
    cameras_per_id: tuple[int, int] = (4, 6)
    num_distractors: int = 80
    num_junk: int = 50
    height: int = 128
    width: int = 64
    difficulty: Difficulty = Difficulty()


def _validate(spec: Spec) -> None:
    """Raises `UserError` where no data set can follow from the spec."""
    low, high = spec.cameras_per_id
    rules = {
        "seed": (spec.seed >= 0, "must not be negative"),
        "num_train_ids": (spec.num_train_ids >= 1, "must be at least 1"),
        "num_test_ids": (spec.num_test_ids >= 1, "must be at least 1"),
        "cameras": (2 <= spec.cameras <= 9, "must lie in 2..9"),
        "images_per_camera": (
            spec.images_per_camera >= 2,
            "must be at least 2: one is the query, the rest are its gallery",
        ),
        "cameras_per_id": (
            2 <= low <= high <= spec.cameras,
            f"must be (low, high) with 2 <= low <= high <= cameras = {spec.cameras}",
        ),
        "num_distractors": (spec.num_distractors >= 0, "must not be negative"),
        "num_junk": (spec.num_junk >= 0, "must not be negative"),
        "height": (spec.height >= 32, "must be at least 32 pixels"),
        "width": (spec.width >= 16, "must be at least 16 pixels"),
    }
    for name, (holds, expected) in rules.items():
        if not holds:
            raise UserError(f"Spec.{name} {expected}, not {getattr(spec, name)}")
    number = spec.num_train_ids + spec.num_test_ids
    if number > 4000:  # names have four digits for a pid, and pids have gaps
        raise UserError(f"Spec.num_train_ids + num_test_ids must be at most 4000, not {number}")


_STREAMS = ("pids", "people", "cameras", "scene", "names", "visit", "image", "distractor", "junk")


def _rng(seed: int, stream: str, *keys: int) -> Generator:
    """An independent stream of random numbers for each purpose and key (keys >= -1)."""
    return default_rng(SeedSequence([seed, _STREAMS.index(stream), *(key + 1 for key in keys)]))


# ---------------------------------------------------------------------------- people

CLOTHES: dict[str, Colour] = {
    "black": (34, 34, 38),
    "white": (226, 224, 218),
    "grey": (132, 134, 138),
    "navy": (40, 50, 92),
    "blue": (66, 112, 184),
    "red": (182, 46, 50),
    "green": (62, 118, 72),
    "khaki": (172, 152, 112),
    "brown": (104, 72, 50),
    "yellow": (220, 182, 66),
    "pink": (208, 130, 156),
}
_UPPER = list(CLOTHES)
_LOWER = ["black", "navy", "grey", "blue", "khaki", "brown", "white"]
_SHOES = ["black", "white", "brown", "red", "grey"]
_SKIN: list[Colour] = [
    (240, 204, 178),
    (222, 178, 142),
    (188, 138, 100),
    (136, 92, 64),
    (88, 58, 42),
]
_HAIR: list[Colour] = [(28, 24, 24), (64, 42, 30), (112, 74, 44), (196, 158, 92), (150, 150, 152)]
_HAIR_STYLES = ("short", "long", "ponytail", "bald", "cap", "beanie")
_PATTERNS = ("plain", "horizontal", "vertical", "checks", "logo", "halves")
_BAGS = ("none", "backpack", "shoulder", "hand")
_LOWER_KINDS = ("trousers", "shorts", "skirt")


@dataclasses.dataclass(frozen=True)
class Build:
    """The proportions of a body, and how it walks.

    Attributes:
        stature: height relative to the average person.
        width: girth of torso and limbs relative to the average.
        legs: height of the hip joints, in statures.
        shoulders: half the shoulder width, in statures.
        stride: amplitude of the thigh's swing, in degrees.
    """

    stature: float = 1.0
    width: float = 1.0
    legs: float = 0.5
    shoulders: float = 0.11
    stride: float = 24.0


@dataclasses.dataclass(frozen=True)
class Person:
    """Everything that makes an identity. Colours are RGB, 0..255."""

    build: Build
    skin: Colour
    hair: Colour
    hair_style: str
    hat: Colour
    upper: Colour
    upper_second: Colour
    pattern: str
    pattern_period: float
    long_sleeves: bool
    long_coat: bool
    open_front: bool
    lower: Colour
    lower_kind: str
    shoes: Colour
    bag: str
    bag_colour: Colour
    bag_left: bool

    @classmethod
    def sample(cls, rng: Generator) -> "Person":
        """A new identity."""
        upper, second, hat = (_UPPER[i] for i in rng.choice(len(_UPPER), 3, replace=False))
        return cls(
            build=Build(
                stature=float(rng.uniform(0.88, 1.1)),
                width=float(rng.uniform(0.82, 1.3)),
                legs=float(rng.uniform(0.46, 0.53)),
                shoulders=float(rng.uniform(0.094, 0.124)),
                stride=float(rng.uniform(15, 30)),
            ),
            skin=_jittered(_pick(rng, _SKIN), rng),
            hair=_jittered(_pick(rng, _HAIR), rng),
            hair_style=_pick(rng, _HAIR_STYLES, (0.36, 0.22, 0.14, 0.08, 0.1, 0.1)),
            hat=_jittered(CLOTHES[hat], rng),
            upper=_jittered(CLOTHES[upper], rng),
            upper_second=_jittered(_contrasting(CLOTHES[upper], CLOTHES[second]), rng),
            pattern=_pick(rng, _PATTERNS, (0.35, 0.15, 0.1, 0.12, 0.14, 0.14)),
            pattern_period=float(rng.uniform(0.055, 0.095)),
            long_sleeves=bool(rng.random() < 0.6),
            long_coat=bool(rng.random() < 0.18),
            open_front=bool(rng.random() < 0.25),
            lower=_jittered(CLOTHES[_pick(rng, _LOWER)], rng),
            lower_kind=_pick(rng, _LOWER_KINDS, (0.6, 0.22, 0.18)),
            shoes=_jittered(CLOTHES[_pick(rng, _SHOES)], rng),
            bag=_pick(rng, _BAGS, (0.4, 0.25, 0.2, 0.15)),
            bag_colour=_jittered(CLOTHES[_pick(rng, _UPPER)], rng),
            bag_left=bool(rng.random() < 0.5),
        )

    def twin(self, rng: Generator) -> "Person":
        """Another identity that looks like this one but for two attributes and a little build."""
        other = Person.sample(rng)
        changes: dict[str, Any] = {
            "pattern": {"pattern": _another(rng, _PATTERNS, self.pattern)},
            "bag": {"bag": _another(rng, _BAGS, self.bag)},
            "hair": {"hair_style": _another(rng, _HAIR_STYLES, self.hair_style)},
            "sleeves": {"long_sleeves": not self.long_sleeves},
            "lower": {"lower_kind": _another(rng, _LOWER_KINDS, self.lower_kind)},
            "front": {"open_front": not self.open_front},
            "coat": {"long_coat": not self.long_coat},
        }
        chosen = rng.choice(list(changes), 2, replace=False)
        build = dataclasses.replace(
            self.build,
            stature=0.7 * self.build.stature + 0.3 * other.build.stature,
            width=0.7 * self.build.width + 0.3 * other.build.width,
            stride=other.build.stride,
        )
        changed = {key: value for name in chosen for key, value in changes[str(name)].items()}
        return dataclasses.replace(self, build=build, **changed)


def people(rng: Generator, number: int) -> list[Person]:
    """Identities, of which every third is the twin of the one before it."""
    found: list[Person] = []
    for i in range(number):
        found.append(found[-1].twin(rng) if i % 3 == 2 else Person.sample(rng))
    return found


def _pick(rng: Generator, choices: Any, weights: Any = None) -> Any:
    return choices[int(rng.choice(len(choices), p=weights))]


def _another(rng: Generator, choices: tuple[str, ...], current: str) -> str:
    return str(_pick(rng, [choice for choice in choices if choice != current]))


def _jittered(colour: Colour, rng: Generator, amount: float = 7.0) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.normal(0, amount, 3), 8, 247).astype(int)
    return int(red), int(green), int(blue)


def _contrasting(first: Colour, second: Colour) -> Colour:
    """`second`, or black or white where a pattern of the two could not be seen."""
    if abs(sum(first) - sum(second)) > 150:
        return second
    return CLOTHES["white"] if sum(first) < 380 else CLOTHES["black"]


def _mixed(first: Colour, second: Colour) -> Colour:
    red, green, blue = ((a + b) // 2 for a, b in zip(first, second))
    return red, green, blue


def _shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


# ---------------------------------------------------------------------------- pose

Points = Float[np.ndarray, "n 3"]

NOSE, NECK = 0, 1
RIGHT_SHOULDER, RIGHT_ELBOW, RIGHT_WRIST, LEFT_SHOULDER, LEFT_ELBOW, LEFT_WRIST = range(2, 8)
RIGHT_HIP, RIGHT_KNEE, RIGHT_ANKLE, LEFT_HIP, LEFT_KNEE, LEFT_ANKLE = range(8, 14)
RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR = range(14, 18)

_ANKLE = 0.045  # height of the ankle above the ground, in statures
_UPPER_ARM, _FOREARM = 0.165, 0.155  # in statures


def body(phase: float, build: Build) -> Float[np.ndarray, "18 3"]:
    """The joints of a walking body, in body coordinates.

    Args:
        phase: of the gait, in radians; one stride (two steps) is 2 pi.
        build: proportions.

    Returns:
        18 joints in OpenPose's order: (x to the left, height, z forward), in statures.
    """
    joints = np.zeros((18, 3))
    joints[NOSE] = 0, 0.905, 0.075
    joints[NECK] = 0, 0.828, 0
    swing = math.radians(build.stride)
    sides = (
        (1.0, phase, LEFT_SHOULDER, LEFT_HIP, LEFT_EYE, LEFT_EAR),
        (-1.0, phase + math.pi, RIGHT_SHOULDER, RIGHT_HIP, RIGHT_EYE, RIGHT_EAR),
    )
    for side, turn_, shoulder, hip, eye, ear in sides:
        joints[eye] = side * 0.022, 0.924, 0.055
        joints[ear] = side * 0.055, 0.914, 0.0
        # The leg swings about the hip; the knee bends while the leg comes forward.
        thigh = swing * math.sin(turn_)
        shank = thigh - math.radians(5) - 1.6 * swing * max(0.0, math.cos(turn_)) ** 2
        length = (build.legs - _ANKLE) / 2
        joints[hip] = side * 0.062 * build.width, build.legs, 0
        joints[hip + 1] = joints[hip] + length * _swung(thigh, -side * 0.02)
        joints[hip + 2] = joints[hip + 1] + length * _swung(shank, -side * 0.04)
        # The arm swings against the leg of its side.
        upper = -0.9 * thigh
        fore = upper + math.radians(14) + 0.5 * swing * (1 - math.sin(turn_))
        spread = 0.12 + 0.12 * (build.width - 0.8)
        joints[shoulder] = side * build.shoulders, 0.808, 0
        joints[shoulder + 1] = joints[shoulder] + _UPPER_ARM * _swung(upper, side * spread)
        joints[shoulder + 2] = joints[shoulder + 1] + _FOREARM * _swung(fore, side * 0.04)
    # The body rides on whichever foot stands.
    joints[:, 1] -= joints[[RIGHT_ANKLE, LEFT_ANKLE], 1].min() - _ANKLE
    return joints


def _swung(angle: float, aside: float) -> Float[np.ndarray, "3"]:
    """The direction of a limb that hangs down, swung forward by an angle and a little aside."""
    return np.array([aside, -math.cos(angle), math.sin(angle)])


def project(points: Points, view: float, pitch: float = 0.0) -> Points:
    """Body coordinates to what a distant camera sees.

    Args:
        points: (x to the left, height, z forward), in statures.
        view: degrees. 0 faces the camera, 90 walks to the image's right, 180 shows the back.
        pitch: how far the camera looks down, in degrees.

    Returns:
        (x right, y down, nearness to the camera), in statures from between the feet.
    """
    angle, down = math.radians(view), math.radians(pitch)
    across = points[:, 0] * math.cos(angle) + points[:, 2] * math.sin(angle)
    near = points[:, 2] * math.cos(angle) - points[:, 0] * math.sin(angle)
    return np.stack([across, near * math.sin(down) - points[:, 1] * math.cos(down), near], axis=1)


def pose(phase: float, view: float, build: Build, pitch: float = 0.0) -> Float[np.ndarray, "18 3"]:
    """The joints of a walking body as a camera sees them: `project` of `body`."""
    return project(body(phase, build), view, pitch)


# ---------------------------------------------------------------------------- drawing a person

_SHADE = 0.74  # brightness of the side of a body that the light does not reach


class Pattern(NamedTuple):
    """A patterned cloth, laid over the whole canvas; a garment is cut out of it."""

    shade: Image.Image
    lit: Image.Image


Cloth = Colour | Pattern
Parts = list[tuple[float, Callable[[], None]]]  # (nearness, how to paint it)


def _cloth(person: Person, size: tuple[int, int], feet: tuple[float, float], unit: float) -> Cloth:
    """The cloth of the upper garment, in place for a person who stands at `feet`."""
    if person.pattern in ("plain", "logo"):
        return person.upper
    lit = Image.new("RGB", size, person.upper)
    draw = ImageDraw.Draw(lit)
    (x, y), period = feet, person.pattern_period * unit
    second = person.upper_second
    if person.pattern == "halves":
        draw.rectangle((0, y - 0.68 * unit, size[0], y), fill=second)
    if person.pattern in ("horizontal", "checks"):
        ink = second if person.pattern == "horizontal" else _mixed(person.upper, second)
        for start in np.arange((y - unit) % period, size[1], period):
            draw.rectangle((0, start, size[0], start + 0.45 * period), fill=ink)
    if person.pattern == "vertical":
        for start in np.arange((x - unit) % period - period, size[0], period):
            draw.rectangle((start, 0, start + 0.4 * period, size[1]), fill=second)
    if person.pattern == "checks":
        down = Image.new("L", size)
        stripes = ImageDraw.Draw(down)
        for start in np.arange((x - unit) % period - period, size[0], period):
            stripes.rectangle((start, 0, start + 0.45 * period, size[1]), fill=128)
        lit.paste(second, mask=down)
    return Pattern(lit.point(lambda level: level * _SHADE), lit)


class _Figure:
    """Paints one person on a transparent layer, far parts first."""

    def __init__(
        self,
        person: Person,
        size: tuple[int, int],
        feet: tuple[float, float],
        unit: float,
        phase: float,
        view: float,
        camera: "Camera",
    ) -> None:
        """Places a person.

        Args:
            person: whom to paint.
            size: (width, height) of the layer.
            feet: (x, y) of the point between the feet, in the layer's pixels.
            unit: pixels for one stature.
            phase: of the gait.
            view: see `project`.
            camera: gives the pitch, and where the light comes from.
        """
        self.person, self.feet, self.unit = person, feet, unit
        self.view, self.pitch, self.light = view, camera.pitch, camera.light_from
        self.body = body(phase, person.build)
        self._cloth = _cloth(person, size, feet, unit)
        self.layer = Image.new("RGBA", size, (*person.upper, 0))
        self.draw = ImageDraw.Draw(self.layer)
        self.joints = self._place(self.body)
        self._paint()

    # Geometry

    def _place(self, points: Any) -> Points:
        """Body coordinates to (x, y, nearness): pixels of the layer, and statures."""
        seen = project(np.asarray(points, dtype=np.float64).reshape(-1, 3), self.view, self.pitch)
        seen[:, :2] = seen[:, :2] * self.unit + self.feet
        return seen

    def _facing(self, x: float, z: float) -> float:
        """How much a direction of the body points at the camera: -1..1."""
        angle = math.radians(self.view)
        return z * math.cos(angle) - x * math.sin(angle)

    # Shapes: given in body coordinates, painted in shade with a lit core.

    def _ink(
        self, cloth: Cloth, lit: bool, outline: Any, discs: tuple[tuple[float, ...], ...] = ()
    ) -> None:
        """Fills a polygon, and discs (x, y, radius), in pixels."""
        ink: Colour | int
        if isinstance(cloth, Pattern):
            mask = Image.new("L", self.layer.size)
            draw, ink = ImageDraw.Draw(mask), 255
        else:
            draw, ink = self.draw, cloth if lit else _shaded(cloth, _SHADE)
        draw.polygon([(float(x), float(y)) for x, y in outline], fill=ink)
        for x, y, radius in discs:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        if isinstance(cloth, Pattern):
            self.layer.paste(cloth.lit if lit else cloth.shade, mask=mask)

    def _limb(self, start: Any, end: Any, thick: float, thin: float, cloth: Cloth) -> None:
        """A tapered limb with round ends; radii in statures."""
        ends = self._place([start, end])[:, :2]
        along = ends[1] - ends[0]
        normal = np.array([-along[1], along[0]]) / (math.hypot(*along) or 1.0)
        for lit, share in ((False, 1.0), (True, 0.72)):
            a, b = thick * self.unit * share, thin * self.unit * share
            first, last = ends + ((self.light * 0.2 * thick * self.unit, 0) if lit else (0, 0))
            outline = (first + a * normal, last + b * normal, last - b * normal, first - a * normal)
            self._ink(cloth, lit, outline, ((*first, a), (*last, b)))

    def _tube(self, rings: Any, cloth: Cloth) -> None:
        """A trunk of elliptic rings (height, half width, half depth, z), from top to bottom."""
        height, wide, deep, z = np.asarray(rings, dtype=np.float64).T
        axis = self._place(np.stack([0 * z, height, z], axis=1))[:, :2]
        angle = math.radians(self.view)
        half = self.unit * np.hypot(wide * math.cos(angle), deep * math.sin(angle))
        for lit, share in ((False, 1.0), (True, 0.78)):
            x = axis[:, 0] + (self.light * 0.14 * half if lit else 0)
            left = np.stack([x - share * half, axis[:, 1]], axis=1)
            right = np.stack([x + share * half, axis[:, 1]], axis=1)
            self._ink(cloth, lit, [*left, *right[::-1]])

    def _on_trunk(self, spots: Any, colour: Colour) -> None:
        """A patch on the trunk, an outline of (angle from the front, height); hidden if behind.

        Angles turn to the person's left, in degrees.
        """
        angle, height = np.radians([a for a, _ in spots]), np.array([h for _, h in spots])
        wide, deep = self._trunk(height)
        points = np.stack([wide * np.sin(angle), height, deep * np.cos(angle)], axis=1)
        seen = project(points, self.view, 0.0)[:, 2] > -0.012
        if seen.sum() >= 3:
            outline = self._place(points[seen])[:, :2]
            self._ink(colour, True, outline)

    def _box(self, centre: Any, half: tuple[float, float, float], colour: Colour) -> None:
        """A box with its sides along the body's axes: near faces over far ones."""
        faces = []
        for axis in range(3):
            for side in (-1, 1):
                corners = []
                for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1)):
                    corner = np.array(np.insert([a, b], axis, side), dtype=np.float64)
                    corners.append(np.asarray(centre) + corner * half)
                placed = self._place(corners)
                bright = (0.7, 1.12, 0.95)[axis]
                faces.append((placed[:, 2].mean(), placed[:, :2], _shaded(colour, bright)))
        for _, outline, ink in sorted(faces, key=lambda face: face[0]):
            self._ink(ink, True, outline)

    def _oval(self, centre: Any, wide: float, high: float, colour: Colour) -> None:
        """An upright ellipse about a point of the body; half axes in statures."""
        x, y, _ = self._place([centre])[0]
        a, b = wide * self.unit, high * self.unit
        self.draw.ellipse((x - a, y - b, x + a, y + b), fill=colour)

    # Parts

    def _trunk(self, height: Any) -> tuple[Any, Any]:
        """Half width and half depth of the clothed trunk at a height."""
        build, hip = self.person.build, self.person.build.legs
        girth, half = build.width, build.shoulders
        stops = (hip - 0.02, hip + 0.1, 0.71, 0.78, 0.81, 0.84)
        wide = (0.098 * girth, 0.088 * girth, 0.1 * girth, half, 0.8 * half, 0.035)
        deep = (0.082 * girth, 0.075 * girth, 0.08 * girth, 0.06, 0.05, 0.035)
        loose = 0.008 if self.person.open_front or self.person.long_coat else 0.0
        return np.interp(height, stops, wide) + loose, np.interp(height, stops, deep) + loose

    def _paint(self) -> None:
        """All parts, from far to near."""
        parts: Parts = [
            *self._legs(),
            *self._arms(),
            (0.04, self._torso),
            (0.045, self._head),
            *self._hair(),
            *self._bag(),
        ]
        for _, paint in sorted(parts, key=lambda part: part[0]):
            paint()

    def _legs(self) -> Parts:
        person, girth = self.person, self.person.build.width
        tight = person.skin if person.lower_kind != "trousers" else person.lower

        def leg(hip: int) -> None:
            top, knee, ankle = self.body[hip : hip + 3]
            self._limb(knee, ankle, 0.042 * girth, 0.03 * girth, tight)
            self._limb(top, knee, 0.056 * girth, 0.046 * girth, tight)
            if person.lower_kind == "shorts":
                self._limb(top, top + 0.8 * (knee - top), 0.06 * girth, 0.058 * girth, person.lower)
            shank = ankle - knee
            toes = np.array([0, shank[2], -shank[1]]) / np.linalg.norm(shank)
            heel = np.add(ankle, (0, -0.014, -0.012))
            self._limb(heel, heel + np.add(0.085 * toes, (0, -0.008, 0)), 0.03, 0.023, person.shoes)

        return [
            (0.5 * self.joints[hip, 2], functools.partial(leg, hip))
            for hip in (RIGHT_HIP, LEFT_HIP)
        ]

    def _arms(self) -> Parts:
        person, girth = self.person, self.person.build.width

        def arm(shoulder: int) -> None:
            top, elbow, wrist = self.body[shoulder : shoulder + 3]
            joint = np.subtract(top, (0, 0.024, 0))  # shoulders slope
            forearm = self._cloth if person.long_sleeves else person.skin
            end = elbow if person.long_sleeves else 0.4 * top + 0.6 * elbow
            self._limb(wrist, wrist + 0.18 * (wrist - elbow), 0.021, 0.017, person.skin)
            self._limb(elbow, wrist, 0.033 * girth, 0.025, forearm)
            if not person.long_sleeves:
                self._limb(end, elbow, 0.034 * girth, 0.031 * girth, person.skin)
            self._limb(joint, end, 0.037 * girth, 0.036 * girth, self._cloth)

        return [
            (self.joints[shoulder, 2] + 0.05, functools.partial(arm, shoulder))
            for shoulder in (RIGHT_SHOULDER, LEFT_SHOULDER)
        ]

    def _torso(self) -> None:
        person, hip, girth = self.person, self.person.build.legs, self.person.build.width
        self._limb(self.body[NECK], (0, 0.87, 0.005), 0.032, 0.03, _shaded(person.skin, 0.85))
        # A hem hangs over both thighs, however far they are apart.
        reach = max(0.1 * girth, np.abs(self.body[[LEFT_KNEE, RIGHT_KNEE], 2]).max() + 0.03)
        hem = (hip - 0.19, 0.125 * girth, reach, 0)
        seat = (hip - 0.045, 0.1 * girth, 0.084 * girth, 0)
        waist = (hip + 0.07, 0.088 * girth, 0.075 * girth, 0)
        self._tube([waist, seat, *[hem] * (person.lower_kind == "skirt")], person.lower)
        heights = np.linspace(0.84, hip, 9)
        trunk = [*zip(heights, *self._trunk(heights), np.zeros(9))]
        self._tube([*trunk, *[hem] * person.long_coat], self._cloth)
        if person.open_front:
            half = ((22, 0.83), (16, 0.7), (14, hip + 0.01))
            self._on_trunk([*((-a, h) for a, h in half), *half[::-1]], person.upper_second)
        if person.pattern == "logo":
            for middle, half_width in ((0, 34), (180, 44))[person.open_front :]:
                turns = middle + half_width * np.array([-1, 0, 1])
                spots = [*((a, 0.76) for a in turns), *((a, 0.655) for a in turns[::-1])]
                self._on_trunk(spots, person.upper_second)
        if person.bag == "backpack":
            for side in (-1, 1):
                strap = ((28, 0.825), (30, 0.66), (46, 0.66), (44, 0.825))
                self._on_trunk([(side * a, h) for a, h in strap], person.bag_colour)
        elif person.bag == "shoulder":
            side = 1 if person.bag_left else -1
            heights = np.linspace(0.83, hip + 0.03, 7)
            turns = side * np.linspace(-35, 75, 7)
            for around in (turns, 180 - turns):  # across the chest, and across the back
                lower = zip(around[::-1], heights[::-1] - 0.03)
                self._on_trunk([*zip(around, heights), *lower], person.bag_colour)

    def _head(self) -> None:
        person, light = self.person, self.light * 0.006
        rise = self.body[NOSE, 1] - 0.905
        bare = person.hair_style == "bald"
        crown = person.skin if bare else person.hair
        ears = (RIGHT_EAR, LEFT_EAR) if person.hair_style != "long" else ()
        for ear in ears:  # from the front and from behind, the skull hides their inner half
            self._oval(self.body[ear], 0.011, 0.017, _shaded(person.skin, 0.85))
        across = 0.052 + 0.01 * abs(math.sin(math.radians(self.view)))
        self._oval((0, 0.92 + rise, -0.006), across, 0.066, _shaded(crown, 0.8))
        self._oval((light, 0.922 + rise, -0.006), across * 0.85, 0.058, crown)
        front = self._facing(0.0, 1.0)
        for ear in ears:
            if self._facing(self.body[ear, 0], 0.0) > 0.03:
                self._oval(self.body[ear], 0.011, 0.017, _shaded(person.skin, 0.85))
        if front > -0.35:
            width = 0.03 + 0.014 * max(0.0, front)
            self._oval((0, 0.905 + rise, 0.027), width, 0.051, _shaded(person.skin, 0.86))
            self._oval((light, 0.905 + rise, 0.03), width * 0.84, 0.046, person.skin)
            self._oval(
                self.body[NOSE] - (0, 0.006, 0.012), 0.009, 0.013, _shaded(person.skin, 0.82)
            )
            for eye in (RIGHT_EYE, LEFT_EYE):
                if self._facing(self.body[eye, 0], self.body[eye, 2]) > 0.012:
                    self._oval(self.body[eye], 0.008, 0.006, (30, 26, 26))
            if front > 0.2:
                self._oval((0, 0.877 + rise, 0.055), 0.014, 0.005, _shaded(person.skin, 0.6))
        if person.hair_style in ("cap", "beanie"):
            self._hat(rise)

    def _hat(self, rise: float) -> None:
        x, y, _ = self._place([(0, 0.93 + rise, 0)])[0]
        radius, thick = 0.064 * self.unit, 0.016 * self.unit
        self.draw.pieslice(
            (x - radius, y - radius, x + radius, y + radius), 180, 360, fill=self.person.hat
        )
        ink = _shaded(self.person.hat, 0.78)
        if self.person.hair_style == "beanie":
            fold = (x - radius, y - thick, x + radius, y + 0.6 * thick)
            self.draw.rounded_rectangle(fold, thick / 2, fill=ink)
        elif self._facing(0.0, 1.0) > -0.5:
            left, tip = (0.045, 0.935 + rise, 0.04), (0.035, 0.925 + rise, 0.11)
            mirror = (-1, 1, 1)
            brim = [np.multiply(left, mirror), np.multiply(tip, mirror), tip, left]
            outline = self._place(brim)[:, :2]
            self._ink(ink, True, [*outline, *np.add(outline[::-1], (0, thick))])

    def _hair(self) -> Parts:
        rise = self.body[NOSE, 1] - 0.905
        style, colour = self.person.hair_style, self.person.hair
        if style == "long":
            start, end, thick, thin = (0, 0.905, -0.022), (0, 0.775, -0.055), 0.055, 0.06
        elif style == "ponytail":
            start, end, thick, thin = (0, 0.945, -0.075), (0, 0.8, -0.085), 0.026, 0.014
        else:
            return []
        lift = np.array([0, rise, 0])
        near = 0.05 + self._facing(0.0, -0.06)
        return [(near, lambda: self._limb(start + lift, end + lift, thick, thin, colour))]

    def _bag(self) -> Parts:
        person, side = self.person, 1.0 if self.person.bag_left else -1.0
        if person.bag == "none":
            return []
        half: tuple[float, float, float]
        if person.bag == "backpack":
            centre, half = (
                np.array([0, 0.7, -0.082 * person.build.width - 0.04]),
                (0.082, 0.105, 0.045),
            )
        elif person.bag == "shoulder":
            reach = 0.1 * person.build.width + 0.035
            centre, half = (
                np.array([side * reach, person.build.legs - 0.0, -0.01]),
                (0.03, 0.065, 0.085),
            )
        else:
            wrist = self.body[LEFT_WRIST if person.bag_left else RIGHT_WRIST]
            centre, half = np.add(wrist, (side * 0.01, -0.135, 0)), (0.025, 0.06, 0.075)
        near = self._facing(centre[0], centre[2]) + 0.055

        def paint() -> None:
            if person.bag == "hand":
                wrist = np.add(centre, (0, 0.11, 0))
                for z in (-0.04, 0.04):
                    self._limb(wrist, np.add(centre, (0, 0.05, z)), 0.006, 0.006, person.bag_colour)
            self._box(centre, half, person.bag_colour)

        return [(near, paint)]


# ---------------------------------------------------------------------------- cameras

_BACKDROPS = ("bricks", "windows", "panels", "hedge", "arcade", "plaster")
_SUPERSAMPLING = 3  # everything is drawn this much larger, then averaged


@dataclasses.dataclass(frozen=True)
class Camera:
    """A place, and what its camera does to light.

    Attributes:
        camid: from 1.
        seed: of the scene.
        backdrop: what the scene is made of; one of `_BACKDROPS`.
        view: the direction in which most people walk; see `project`.
        pitch: how far it looks down, in degrees.
        gain: of the channels red, green and blue.
        exposure: gain of all channels.
        gamma: above 1 darkens the middle tones.
        contrast: about the middle grey.
        saturation: 1 leaves colours as they are.
        haze: how much of the black is lifted, 0..1.
        scale: of a person in the box.
        blur: sigma, in pixels of the final image.
        noise: sigma, in grey levels.
        quality: of the JPEG.
        light_from: -1 left, 1 right.
    """

    camid: int
    seed: int
    backdrop: str
    view: float
    pitch: float
    gain: tuple[float, float, float]
    exposure: float
    gamma: float
    contrast: float
    saturation: float
    haze: float
    scale: float
    blur: float
    noise: float
    quality: int
    light_from: float


def cameras(spec: Spec) -> list[Camera]:
    """The cameras of a data set, spread evenly over casts, exposures and views."""
    rng, how, number = _rng(spec.seed, "cameras"), spec.difficulty, spec.cameras
    hues = 2 * math.pi * (rng.permutation(number) + rng.uniform(0, 0.6, number)) / number
    light = rng.permutation(np.linspace(-1.3, 0.8, number))
    views = rng.permutation(360.0 * np.arange(number) / number + rng.uniform(0, 30))
    backdrops = rng.permutation(_BACKDROPS).tolist()
    soft, grain = rng.permutation(np.linspace(0.2, 1, number)), rng.uniform(0.3, 1, number)
    found = []
    for i in range(number):
        third = 2 * math.pi / 3
        log_gain = how.cast * np.array(
            [math.cos(hues[i] - third * channel) for channel in range(3)]
        )
        red, green, blue = (float(gain) for gain in np.exp(log_gain))
        found.append(
            Camera(
                camid=i + 1,
                seed=spec.seed,
                backdrop=backdrops[i % len(backdrops)],
                view=float(views[i]),
                pitch=float(rng.uniform(4, 20)),
                gain=(red, green, blue),
                exposure=float(math.exp(how.light * light[i])),
                gamma=float(math.exp(0.6 * how.light * rng.uniform(-1, 1))),
                contrast=float(math.exp(0.6 * how.light * rng.uniform(-1.4, 0.6))),
                saturation=float(math.exp(1.5 * how.cast * rng.uniform(-1.4, 0.6))),
                haze=float(0.35 * how.light * rng.random()),
                scale=float(rng.uniform(0.84, 0.96)),
                blur=float(how.blur * soft[i]),
                noise=float(how.noise * grain[i]),
                quality=int(rng.integers(68, 93)),
                light_from=float(rng.choice([-1, 1])),
            )
        )
    return found


@functools.lru_cache(maxsize=16)
def _scene(camera: Camera, height: int, width: int, clutter: float) -> Image.Image:
    """A wide view of the place behind the people, six boxes broad."""
    rng = _rng(camera.seed, "scene", camera.camid)
    wide, high = 6 * width, int(1.25 * height)
    horizon = int(high * rng.uniform(0.4, 0.62))
    wall, ground = (_jittered(_pick(rng, _PLACES), rng, 14.0) for _ in range(2))
    scene = Image.new("RGB", (wide, high), wall)
    draw = ImageDraw.Draw(scene)
    kind = camera.backdrop
    if kind == "bricks":
        step = height / 22
        for row in range(int(horizon / step) + 1):
            for x in np.arange(-(row % 2) * step, wide, 2 * step):
                ink = _shaded(wall, float(rng.uniform(0.8, 1.12)))
                draw.rectangle((x, row * step, x + 2 * step - 2, (row + 1) * step - 2), fill=ink)
    elif kind in ("windows", "arcade"):
        step = width * rng.uniform(0.55, 0.95)
        top, bottom = (0.12, 0.72) if kind == "windows" else (0.2, 1.0)
        for x in np.arange(0, wide, step):
            ink = _jittered((70, 86, 104) if rng.random() < 0.7 else (190, 178, 140), rng, 18.0)
            edge = _shaded(wall, 0.65)
            box = (x, top * horizon, x + 0.62 * step, bottom * horizon)
            draw.rectangle(box, fill=ink, outline=edge, width=max(2, width // 50))
    elif kind == "panels":
        for x in np.arange(0, wide, width * rng.uniform(0.5, 1.1)):
            end = x + width * rng.uniform(0.3, 1)
            draw.rectangle((x, 0, end, horizon), fill=_shaded(wall, float(rng.uniform(0.75, 1.2))))
    elif kind == "hedge":
        for _ in range(500):
            x, y, r = rng.uniform(0, wide), rng.uniform(0, horizon), width * rng.uniform(0.04, 0.16)
            ink = _shaded((78, 110, 62), float(rng.uniform(0.55, 1.25)))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    draw.rectangle((0, horizon, wide, high), fill=ground)
    for y in np.geomspace(height / 40, high - horizon, 7):  # rows of the pavement
        draw.line((0, horizon + y, wide, horizon + y), fill=_shaded(ground, 0.85), width=3)
    slope = rng.uniform(-0.5, 0.5)
    for x in np.arange(-wide, 2 * wide, width * rng.uniform(0.3, 0.9)):
        end = x + slope * (x - wide / 2)
        draw.line((x, horizon, end, high), fill=_shaded(ground, 0.88), width=3)
    for _ in range(round(14 * clutter)):
        _object(draw, rng, wide, height, horizon)
    texture = rng.normal(1, 0.06, (high // 12 + 1, wide // 12 + 1)).clip(0.7, 1.3)
    grain = Image.fromarray((texture * 128).astype(np.uint8)).resize(scene.size)
    pixels = np.asarray(scene, np.float32) * (np.asarray(grain, np.float32)[..., None] / 128)
    fall = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), high)[:, None, None]
    scene = Image.fromarray((pixels * fall).clip(0, 255).astype(np.uint8))
    return scene.filter(ImageFilter.GaussianBlur(_SUPERSAMPLING * 0.5))


_PLACES: list[Colour] = [
    (176, 166, 150),
    (150, 150, 148),
    (118, 116, 112),
    (158, 118, 96),
    (196, 192, 184),
    (104, 118, 92),
    (132, 140, 152),
]


def _object(
    draw: ImageDraw.ImageDraw, rng: Generator, wide: int, height: int, horizon: int
) -> None:
    """One thing that stands about: a pole, a bin, a poster, a bush, a bicycle, a passer-by."""
    kind = int(rng.integers(6))
    x, y = float(rng.uniform(0, wide)), horizon + height * float(rng.uniform(0.02, 0.25))
    ink = _shaded(_pick(rng, list(CLOTHES.values())), float(rng.uniform(0.5, 1.0)))
    size = height * float(rng.uniform(0.06, 0.14))
    if kind == 0:
        draw.rectangle((x, 0, x + 0.25 * size, y), fill=_shaded((110, 112, 116), 0.9))
    elif kind == 1:
        draw.rounded_rectangle((x, y - 2 * size, x + 1.3 * size, y), size / 5, fill=ink)
    elif kind == 2:
        top = horizon * float(rng.uniform(0.2, 0.5))
        draw.rectangle(
            (x, top, x + 1.6 * size, top + 2 * size), fill=ink, outline=(225, 225, 220), width=4
        )
    elif kind == 3:
        for _ in range(14):
            u, v = rng.normal(x, 0.7 * size), y - abs(rng.normal(0, 0.8 * size))
            green = _shaded((84, 116, 66), float(rng.uniform(0.6, 1.2)))
            draw.ellipse((u - size / 2, v - size / 2, u + size / 2, v + size / 2), fill=green)
    elif kind == 4:
        for u in (x, x + 1.9 * size):
            box = (u - 0.8 * size, y - 1.6 * size, u + 0.8 * size, y)
            draw.ellipse(box, outline=(48, 48, 52), width=4)
        draw.line(
            (x, y - 0.8 * size, x + size, y - 2 * size, x + 1.9 * size, y - 0.8 * size),
            fill=ink,
            width=6,
        )
    else:
        tall = 4.5 * size
        draw.ellipse(
            (x - 0.3 * size, y - tall, x + 0.3 * size, y - 0.86 * tall), fill=_pick(rng, _SKIN)
        )
        draw.rounded_rectangle(
            (x - 0.5 * size, y - 0.85 * tall, x + 0.5 * size, y - 0.45 * tall), 0.2 * size, fill=ink
        )
        draw.rectangle((x - 0.35 * size, y - 0.5 * tall, x + 0.35 * size, y), fill=(52, 52, 60))


# ---------------------------------------------------------------------------- one image


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image to draw.

    Attributes:
        name: path below the data set's root.
        person: who is in the box; nobody, for a box around background.
        pid: person id; also keys the random numbers.
        camid: camera id, from 1.
        index: of the image among those of this person and camera.
        cut: whether the box is badly cut (junk).
    """

    name: str
    person: Person | None
    pid: int
    camid: int
    index: int
    cut: bool = False


def render(
    shot: Shot, camera: Camera, spec: Spec
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "18 3"]]:
    """Draws one image.

    What a person does on a visit to a camera (direction, place, light) is shared by its images;
    the step, the box and what stands in front differ from one to the next.

    Returns:
        RGB pixels, and joints as (x, y, confidence): in pixels, confidence 1, or 0 where the
        joint is outside the image or something stands in front of it.
    """
    how = spec.difficulty
    stream = "junk" if shot.cut else "image" if shot.pid > 0 else "distractor"
    serial = shot.index if shot.pid <= 0 else 0
    visit = _rng(spec.seed, "visit", shot.pid, shot.camid, serial)
    rng = _rng(spec.seed, stream, shot.pid, shot.camid, shot.index)

    view = float(visit.normal(camera.view, 25))
    if visit.random() < 0.3:
        view = float(visit.uniform(0, 360))
    spot = visit.uniform(0, 4.4)  # where in the scene, in box widths
    light = float(math.exp(0.35 * how.light * visit.normal()))

    high, wide = spec.height * _SUPERSAMPLING, spec.width * _SUPERSAMPLING
    scene = _scene(camera, high, wide, how.clutter)
    left = int(np.clip(spot + 0.25 * rng.normal(), 0, 5) * wide)
    top = int(rng.uniform(0, scene.height - high))
    canvas = scene.crop((left, top, left + wide, top + high))

    joints = np.zeros((18, 3))
    if shot.person is not None:
        zoom, across, down = np.exp(how.jitter * rng.normal()), *(how.jitter * rng.normal(size=2))
        if shot.cut:
            zoom *= rng.uniform(1.3, 2.0)
            across += rng.choice([-1, 1]) * rng.uniform(0.3, 0.5)
            down = rng.uniform(-0.5, 0.9)
        elif rng.random() < 0.3 * how.occlusion:  # the detector missed the feet
            zoom, down = zoom * 1.12, down + rng.uniform(0.12, 0.22)
        stature = 0.5 + 0.5 * shot.person.build.stature
        unit = float(high * camera.scale * zoom * stature)
        feet = (float(wide * (0.5 + across)), float(high * (0.5 + down) + 0.475 * unit))
        phase = float(rng.uniform(0, 2 * math.pi))
        figure = _Figure(
            shot.person,
            (wide, high),
            feet,
            unit,
            phase,
            view + float(rng.normal(0, 8)),
            camera,
        )
        _cast_shadow(canvas, feet, unit)
        canvas.paste(figure.layer, mask=figure.layer)
        joints[:, :2] = figure.joints[:, :2]
        joints[:, 2] = 1
        if not shot.cut and rng.random() < how.occlusion:
            cover = _occluder(rng, (wide, high), camera)
            canvas.paste(cover, mask=cover)
            joints[_covered(joints, cover), 2] = 0
    joints[:, :2] /= _SUPERSAMPLING
    inside = (joints[:, :2] >= 0) & (joints[:, :2] < (spec.width, spec.height))
    joints[:, 2] *= inside.all(axis=1)
    return _develop(canvas, camera, light, how, rng), joints


def _cast_shadow(canvas: Image.Image, feet: tuple[float, float], unit: float) -> None:
    """A soft dark spot on the ground under the feet."""
    mask = Image.new("L", canvas.size)
    x, y = feet
    box = (x - 0.17 * unit, y - 0.035 * unit, x + 0.17 * unit, y + 0.03 * unit)
    ImageDraw.Draw(mask).ellipse(box, fill=95)
    canvas.paste((25, 25, 30), mask=mask)


def _occluder(rng: Generator, size: tuple[int, int], camera: Camera) -> Image.Image:
    """A transparent layer with what stands in front: a pole, a box, or another pedestrian."""
    wide, high = size
    kind = _pick(rng, ("pole", "box", "person"), (0.3, 0.3, 0.4))
    if kind == "person":
        feet = wide * (0.5 + float(rng.choice([-1, 1]) * rng.uniform(0.38, 0.6)))
        unit = high * camera.scale * float(rng.uniform(0.95, 1.1))
        return _Figure(
            Person.sample(rng),
            size,
            (feet, high * float(rng.uniform(1.0, 1.12))),
            unit,
            float(rng.uniform(0, 2 * math.pi)),
            float(rng.uniform(0, 360)),
            camera,
        ).layer
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    ink = _shaded(_pick(rng, list(CLOTHES.values())), 0.8)
    if kind == "pole":
        x, thick = wide * float(rng.uniform(0.15, 0.8)), wide * float(rng.uniform(0.07, 0.18))
        draw.rectangle((x, 0, x + thick, high), fill=(104, 106, 110, 255))
        draw.rectangle((x, 0, x + 0.3 * thick, high), fill=(140, 142, 146, 255))
    else:
        top = high * float(rng.uniform(0.62, 0.82))
        left = wide * float(rng.uniform(-0.5, 0.4))
        box = (left, top, left + wide * float(rng.uniform(0.6, 1.2)), 1.2 * high)
        draw.rounded_rectangle(box, wide / 12, fill=(*ink, 255))
        draw.line((*box[:2], box[2], top), fill=(*_shaded(ink, 1.35), 255), width=wide // 24)
    return layer


def _covered(joints: Float[np.ndarray, "18 3"], cover: Image.Image) -> np.ndarray:
    """Which joints lie under the opaque part of a layer."""
    wide, high = cover.size
    x, y = joints[:, 0].astype(int), joints[:, 1].astype(int)
    inside = (x >= 0) & (x < wide) & (y >= 0) & (y < high)
    alpha = np.asarray(cover.getchannel("A"))
    return inside & (alpha[y.clip(0, high - 1), x.clip(0, wide - 1)] > 0)


def _develop(
    canvas: Image.Image, camera: Camera, light: float, how: Difficulty, rng: Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """What the camera makes of the light: optics, shadow, colour, tone, and sensor noise."""
    image = canvas.reduce(_SUPERSAMPLING)
    sigma = camera.blur * float(rng.uniform(0.7, 1.2))
    if sigma > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    x = np.asarray(image, np.float32) / 255
    grey = x.mean(axis=2, keepdims=True)
    x = grey + camera.saturation * (x - grey)
    h, w = x.shape[:2]
    rows, columns = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)[None]
    slope_y, slope_x = 0.5 * how.light * rng.normal(size=2)
    field = np.exp(slope_y * rows + slope_x * columns)
    gain = np.asarray(camera.gain) * np.exp(0.15 * how.cast * rng.normal(size=3))
    x = x * (field[..., None] * gain * (camera.exposure * light)).astype(np.float32)
    x = np.clip(x, 0, 1) ** np.float32(camera.gamma)
    x = 0.5 + camera.contrast * (x - 0.5)
    x = camera.haze * 0.75 + (1 - camera.haze) * x
    x = 255 * x + camera.noise * rng.standard_normal(x.shape, dtype=np.float32)
    return x.clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------- the data set


def plan(spec: Spec) -> list[Shot]:
    """Every image of the data set: who, where, under which name."""
    number = spec.num_train_ids + spec.num_test_ids
    rng = _rng(spec.seed, "pids")
    # Market's ids have gaps, and so have these: nobody should count on 0..N-1.
    pids = rng.choice(np.arange(2, 2 + max(1500, 2 * number)), number, replace=False)
    train = np.sort(pids[: spec.num_train_ids])
    test = np.sort(pids[spec.num_train_ids :])
    shots: list[Shot] = []
    for which, split in enumerate((train, test)):
        everyone = people(_rng(spec.seed, "people", which), len(split))
        for pid, person in zip(split.tolist(), everyone):
            low, high = spec.cameras_per_id
            seen = rng.choice(spec.cameras, int(rng.integers(low, high + 1)), replace=False)
            for camid in sorted((seen + 1).tolist()):
                shots += _visit(spec, person, pid, camid, which == 1)
    # Detectors also find strangers, nobody at all, and half a person.
    strangers = people(_rng(spec.seed, "people", 2), spec.num_distractors)
    for i, stranger in enumerate(strangers):
        nobody = rng.random() < 0.2
        camid = int(rng.integers(1, spec.cameras + 1))
        name = f"bounding_box_test/0000_c{camid}s{1 + i % 6}_{151 + 25 * i:06d}_{i % 5:02d}.jpg"
        shots.append(Shot(name, None if nobody else stranger, 0, camid, i))
    guests = people(_rng(spec.seed, "people", 3), spec.num_junk)
    for i, guest in enumerate(guests):
        camid = int(rng.integers(1, spec.cameras + 1))
        name = f"bounding_box_test/-1_c{camid}s{1 + i % 6}_{401 + 25 * i:06d}_{1 + i % 5:02d}.jpg"
        shots.append(Shot(name, guest, -1, camid, i, cut=True))
    return sorted(shots, key=lambda shot: shot.name)


def _visit(spec: Spec, person: Person, pid: int, camid: int, test: bool) -> list[Shot]:
    """The images of one person in one camera; at test, the first is the query."""
    rng = _rng(spec.seed, "names", pid, camid)
    sequence, frame = int(rng.integers(1, 7)), int(rng.integers(1, 90_000))
    shots = []
    for index in range(spec.images_per_camera):
        frame += int(rng.integers(10, 60))
        query = test and index == 0
        folder = "query" if query else "bounding_box_test" if test else "bounding_box_train"
        box = 0 if query else int(rng.integers(1, 7))
        name = f"{folder}/{pid:04d}_c{camid}s{sequence}_{frame:06d}_{box:02d}.jpg"
        shots.append(Shot(name, person, pid, camid, index))
    return shots


def write_market(root: Path | str, spec: Spec = Spec(), *, processes: int | None = None) -> Path:
    """Writes the data set in Market-1501's layout, unless it is there already.

    Below `root`: `bounding_box_train/`, `query/`, `bounding_box_test/`; `joints.npz` with `names`
    (paths below the root, sorted) and `joints` (`[n, 18, 3]`, see `render`); and `spec.json`. The
    folder appears whole or not at all.

    Args:
        root: the data set's folder; made if missing.
        spec: what to draw.
        processes: how many draw; every core if None. The files do not depend on it. More than
            one are started afresh, so that a script that calls this needs the usual
            `if __name__ == "__main__":`.

    Returns:
        `root`.

    Raises:
        UserError: the spec or `processes` is impossible, or `root` holds something else.
    """
    _validate(spec)
    if processes is not None and processes < 1:
        raise UserError(f"processes must be at least 1, not {processes}")
    root = Path(root)
    if _holds(root, spec):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        draft.chmod(0o755)
        _fill(draft, spec, processes)
        try:
            draft.rename(root)
        except OSError:
            if not _holds(root, spec):  # another process may have been faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _description(spec: Spec) -> str:
    """The text of `spec.json`; a strength given as 0 is the same as 0.0."""
    fields = {"version": VERSION, **dataclasses.asdict(spec)}
    fields["difficulty"] = {name: float(value) for name, value in fields["difficulty"].items()}
    return json.dumps(fields, indent=2) + "\n"


def _holds(root: Path, spec: Spec) -> bool:
    """Whether `root` holds this very data set; an error if it holds another thing."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / "spec.json").is_file():
        raise UserError(
            f"{root}: holds something other than a synthetic data set; give a new folder"
        )
    if (root / "spec.json").read_text() != _description(spec):
        raise UserError(
            f"{root}: holds a synthetic data set of another spec (see its spec.json); give a new"
            " folder, or remove this one"
        )
    return True


def _fill(folder: Path, spec: Spec, processes: int | None) -> None:
    """Draws everything into an empty folder."""
    shots = plan(spec)
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / name).mkdir()
    draw = functools.partial(_write, folder, spec, cameras(spec))
    if processes is None:  # a few images are drawn sooner than a process starts
        processes = min(os.cpu_count() or 1, 1 + len(shots) // 200)
    if processes > 1:
        # Spawned, not forked: the caller may run JAX's threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            joints = list(pool.map(draw, shots, chunksize=32))
    else:
        joints = [draw(shot) for shot in shots]
    np.savez(
        folder / "joints.npz",
        names=np.array([shot.name for shot in shots]),
        joints=np.stack(joints).astype(np.float32),
    )
    (folder / "spec.json").write_text(_description(spec))


def _write(
    folder: Path, spec: Spec, all_cameras: list[Camera], shot: Shot
) -> Float[np.ndarray, "18 3"]:
    """Draws one image into its file; returns the joints."""
    camera = all_cameras[shot.camid - 1]
    pixels, joints = render(shot, camera, spec)
    Image.fromarray(pixels).save(folder / shot.name, quality=camera.quality)
    return joints


def main(arguments: list[str] | None = None) -> None:
    """The command line: one flag for each whole number of the spec."""
    parser = argparse.ArgumentParser(description="Draws the synthetic data set.")
    parser.add_argument("--root", required=True, help="the folder to make")
    parser.add_argument("--processes", type=int, help="how many draw (default: every core)")
    for field in dataclasses.fields(Spec):
        if field.type is int:
            flag = f"--{field.name.replace('_', '-')}"
            parser.add_argument(flag, type=int, default=field.default, help=f"{field.default}")
    flags = vars(parser.parse_args(arguments))
    root, processes = flags.pop("root"), flags.pop("processes")
    try:
        print(write_market(root, Spec(**flags), processes=processes))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
