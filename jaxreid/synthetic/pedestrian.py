"""Synthetic pedestrians: who they are, how they walk, and the figure that is drawn.

`Person` is an identity, `body` its joints at a phase of the gait, `project` what a distant camera
sees of them, and `Figure` the picture, on a transparent layer.

Body coordinates, in units of the person's stature: x to the person's left, height above the
ground, z forward. Image coordinates: x right, y down.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


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
SKIN = [(240, 204, 178), (222, 178, 142), (188, 138, 100), (136, 92, 64), (88, 58, 42)]
_HAIR = [(28, 24, 24), (64, 42, 30), (112, 74, 44), (196, 158, 92), (150, 150, 152)]
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
            skin=jittered(pick(rng, SKIN), rng),
            hair=jittered(pick(rng, _HAIR), rng),
            hair_style=pick(rng, _HAIR_STYLES, (0.36, 0.22, 0.14, 0.08, 0.1, 0.1)),
            hat=jittered(CLOTHES[hat], rng),
            upper=jittered(CLOTHES[upper], rng),
            upper_second=jittered(_contrasting(CLOTHES[upper], CLOTHES[second]), rng),
            pattern=pick(rng, _PATTERNS, (0.35, 0.15, 0.1, 0.12, 0.14, 0.14)),
            pattern_period=float(rng.uniform(0.055, 0.095)),
            long_sleeves=bool(rng.random() < 0.6),
            long_coat=bool(rng.random() < 0.18),
            open_front=bool(rng.random() < 0.25),
            lower=jittered(CLOTHES[pick(rng, _LOWER)], rng),
            lower_kind=pick(rng, _LOWER_KINDS, (0.6, 0.22, 0.18)),
            shoes=jittered(CLOTHES[pick(rng, _SHOES)], rng),
            bag=pick(rng, _BAGS, (0.4, 0.25, 0.2, 0.15)),
            bag_colour=jittered(CLOTHES[pick(rng, _UPPER)], rng),
            bag_left=bool(rng.random() < 0.5),
        )

    def twin(self, rng: Generator) -> "Person":
        """Another identity that looks like this one but for two attributes and a little build."""
        other = Person.sample(rng)
        changes: dict[str, Any] = {
            "pattern": _another(rng, _PATTERNS, self.pattern),
            "bag": _another(rng, _BAGS, self.bag),
            "hair_style": _another(rng, _HAIR_STYLES, self.hair_style),
            "long_sleeves": not self.long_sleeves,
            "lower_kind": _another(rng, _LOWER_KINDS, self.lower_kind),
            "open_front": not self.open_front,
            "long_coat": not self.long_coat,
        }
        chosen = rng.choice(list(changes), 2, replace=False).tolist()
        build = dataclasses.replace(
            self.build,
            stature=0.7 * self.build.stature + 0.3 * other.build.stature,
            width=0.7 * self.build.width + 0.3 * other.build.width,
            stride=other.build.stride,
        )
        return dataclasses.replace(self, build=build, **{name: changes[name] for name in chosen})


def people(rng: Generator, number: int) -> list[Person]:
    """Identities, of which every fifth is the twin of the one before it."""
    found: list[Person] = []
    for i in range(number):
        found.append(found[-1].twin(rng) if i % 5 == 4 else Person.sample(rng))
    return found


def pick(rng: Generator, choices: Any, weights: Any = None) -> Any:
    """One of several things."""
    return choices[int(rng.choice(len(choices), p=weights))]


def _another(rng: Generator, choices: tuple[str, ...], current: str) -> str:
    return str(pick(rng, [choice for choice in choices if choice != current]))


def jittered(colour: Colour, rng: Generator, amount: float = 7.0) -> Colour:
    """A colour near this one; the amount is a standard deviation, in grey levels."""
    red, green, blue = np.clip(np.asarray(colour) + rng.normal(0, amount, 3), 8, 247).astype(int)
    return int(red), int(green), int(blue)


def _contrasting(first: Colour, second: Colour) -> Colour:
    """`second`, or black or white where a pattern of the two could not be seen."""
    if abs(sum(first) - sum(second)) > 150:
        return second
    return CLOTHES["white"] if sum(first) < 380 else CLOTHES["black"]


def shaded(colour: Colour, factor: float) -> Colour:
    """A darker or, with a factor above 1, a lighter colour."""
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
    for side, turn, shoulder, hip, eye, ear in sides:
        joints[eye] = side * 0.022, 0.924, 0.055
        joints[ear] = side * 0.055, 0.914, 0.0
        # The leg swings about the hip; the knee bends while the leg comes forward.
        thigh = swing * math.sin(turn)
        shank = thigh - math.radians(5) - 1.6 * swing * max(0.0, math.cos(turn)) ** 2
        length = (build.legs - _ANKLE) / 2
        joints[hip] = side * 0.062 * build.width, build.legs, 0
        joints[hip + 1] = joints[hip] + length * _swung(thigh, -side * 0.02)
        joints[hip + 2] = joints[hip + 1] + length * _swung(shank, -side * 0.04)
        # The arm swings against the leg of its side.
        upper = -0.9 * thigh
        fore = upper + math.radians(14) + 0.5 * swing * (1 - math.sin(turn))
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
        both = tuple((a + b) // 2 for a, b in zip(person.upper, second))
        ink = second if person.pattern == "horizontal" else both
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


@dataclasses.dataclass
class Figure:
    """One person, painted on a transparent layer, far parts first.

    Attributes:
        person: whom to paint.
        size: (width, height) of the layer.
        feet: (x, y) of the point between the feet, in the layer's pixels.
        unit: pixels for one stature.
        phase: of the gait, see `body`.
        view: see `project`.
        pitch: see `project`.
        light: where it comes from: -1 left, 1 right.
        layer: the picture, RGBA.
        joints: the 18 joints as (x, y, nearness): pixels of the layer, and statures.
    """

    person: Person
    size: tuple[int, int]
    feet: tuple[float, float]
    unit: float
    phase: float
    view: float
    pitch: float
    light: float

    def __post_init__(self) -> None:
        """Paints."""
        self.body = body(self.phase, self.person.build)
        self._rise = self.body[NOSE, 1] - 0.905  # of the head, with each step
        self._cloth = _cloth(self.person, self.size, self.feet, self.unit)
        self.layer = Image.new("RGBA", self.size, (*self.person.upper, 0))
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
            draw, ink = self.draw, cloth if lit else shaded(cloth, _SHADE)
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
        seen = project(points, self.view)[:, 2] > -0.012
        if seen.sum() >= 3:
            self._ink(colour, True, self._place(points[seen])[:, :2])

    def _box(self, centre: Any, half: tuple[float, float, float], colour: Colour) -> None:
        """A box with its sides along the body's axes: near faces over far ones."""
        faces = []
        for axis, bright in enumerate((0.7, 1.12, 0.95)):
            for side in (-1, 1):
                square = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)])
                corners = np.insert(square, axis, side, axis=1) * half
                placed = self._place(np.asarray(centre) + corners)
                faces.append((placed[:, 2].mean(), placed[:, :2], shaded(colour, bright)))
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
        trunk: Parts = [(0.04, self._torso), (0.045, self._head)]
        parts = [*self._legs(), *self._arms(), *trunk, *self._hair(), *self._bag()]
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

        return [(0.5 * self.joints[hip, 2], partial(leg, hip)) for hip in (RIGHT_HIP, LEFT_HIP)]

    def _arms(self) -> Parts:
        person, girth = self.person, self.person.build.width

        def arm(first: int) -> None:
            top, elbow, wrist = self.body[first : first + 3]
            joint = np.subtract(top, (0, 0.024, 0))  # shoulders slope
            forearm = self._cloth if person.long_sleeves else person.skin
            end = elbow if person.long_sleeves else 0.4 * top + 0.6 * elbow
            self._limb(wrist, wrist + 0.18 * (wrist - elbow), 0.021, 0.017, person.skin)
            self._limb(elbow, wrist, 0.033 * girth, 0.025, forearm)
            if not person.long_sleeves:
                self._limb(end, elbow, 0.034 * girth, 0.031 * girth, person.skin)
            self._limb(joint, end, 0.037 * girth, 0.036 * girth, self._cloth)

        sides = (RIGHT_SHOULDER, LEFT_SHOULDER)
        return [(self.joints[first, 2] + 0.05, partial(arm, first)) for first in sides]

    def _torso(self) -> None:
        person, hip, girth = self.person, self.person.build.legs, self.person.build.width
        self._limb(self.body[NECK], (0, 0.87, 0.005), 0.032, 0.03, shaded(person.skin, 0.85))
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
        person, light, rise = self.person, self.light * 0.006, self._rise
        crown = person.skin if person.hair_style == "bald" else person.hair
        ears = (RIGHT_EAR, LEFT_EAR) if person.hair_style != "long" else ()
        for ear in ears:  # from the front and from behind, the skull hides their inner half
            self._oval(self.body[ear], 0.011, 0.017, shaded(person.skin, 0.85))
        across = 0.052 + 0.01 * abs(math.sin(math.radians(self.view)))
        self._oval((0, 0.92 + rise, -0.006), across, 0.066, shaded(crown, 0.8))
        self._oval((light, 0.922 + rise, -0.006), across * 0.85, 0.058, crown)
        front = self._facing(0.0, 1.0)
        for ear in ears:
            if self._facing(self.body[ear, 0], 0.0) > 0.03:
                self._oval(self.body[ear], 0.011, 0.017, shaded(person.skin, 0.85))
        if front > -0.35:
            width = 0.03 + 0.014 * max(0.0, front)
            self._oval((0, 0.905 + rise, 0.027), width, 0.051, shaded(person.skin, 0.86))
            self._oval((light, 0.905 + rise, 0.03), width * 0.84, 0.046, person.skin)
            self._oval(self.body[NOSE] - (0, 0.006, 0.012), 0.009, 0.013, shaded(person.skin, 0.82))
            for eye in (RIGHT_EYE, LEFT_EYE):
                if self._facing(self.body[eye, 0], self.body[eye, 2]) > 0.012:
                    self._oval(self.body[eye], 0.008, 0.006, (30, 26, 26))
            if front > 0.2:
                self._oval((0, 0.877 + rise, 0.055), 0.014, 0.005, shaded(person.skin, 0.6))
        if person.hair_style in ("cap", "beanie"):
            self._hat()

    def _hat(self) -> None:
        rise = self._rise
        x, y, _ = self._place([(0, 0.93 + rise, 0)])[0]
        radius, thick = 0.064 * self.unit, 0.016 * self.unit
        dome = (x - radius, y - radius, x + radius, y + radius)
        self.draw.pieslice(dome, 180, 360, fill=self.person.hat)
        ink = shaded(self.person.hat, 0.78)
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
        style, colour = self.person.hair_style, self.person.hair
        if style == "long":
            start, end, thick, thin = (0, 0.905, -0.022), (0, 0.775, -0.055), 0.055, 0.06
        elif style == "ponytail":
            start, end, thick, thin = (0, 0.945, -0.075), (0, 0.8, -0.085), 0.026, 0.014
        else:
            return []
        lift = np.array([0, self._rise, 0])
        near = 0.05 + self._facing(0.0, -0.06)
        return [(near, lambda: self._limb(start + lift, end + lift, thick, thin, colour))]

    def _bag(self) -> Parts:
        person, build, side = self.person, self.person.build, 1 if self.person.bag_left else -1
        if person.bag == "none":
            return []
        centre: Any
        if person.bag == "backpack":
            centre, half = (0.0, 0.7, -0.082 * build.width - 0.04), (0.082, 0.105, 0.045)
        elif person.bag == "shoulder":
            centre = side * (0.1 * build.width + 0.035), build.legs, -0.01
            half = (0.03, 0.065, 0.085)
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
