"""Cameras, the places they look at, and what they do to a picture.

A place is a backdrop, a pavement and objects that stand about (`scenery`); before it a person
casts a shadow and may be hidden by an `Occluder` (`stage`); `develop` turns the painted canvas into
what the camera would have recorded.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator, SeedSequence, default_rng
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from jaxreid.synthetic.pedestrian import (
    CLOTHES,
    SKIN,
    Colour,
    Figure,
    Person,
    jittered,
    pick,
    shaded,
)

SUPERSAMPLING = 3  # everything is drawn this much larger, then averaged

_STREAMS = (  # a purpose is known by its place: new ones come last
    *("pids", "people", "cameras", "scene", "names", "visit", "image", "distractor", "junk"),
    *("lengths", "walk", "exposure", "grain"),
)


def stream(seed: int, purpose: str, *keys: int) -> Generator:
    """An independent stream of random numbers for each purpose and key (keys >= -1)."""
    return default_rng(SeedSequence([seed, _STREAMS.index(purpose), *(key + 1 for key in keys)]))


# ---------------------------------------------------------------------------- cameras


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

    cast: float = 0.05
    light: float = 0.12
    occlusion: float = 0.08
    jitter: float = 0.02
    blur: float = 0.8
    noise: float = 6.0
    clutter: float = 1.0


_BACKDROPS = ("bricks", "windows", "panels", "hedge", "arcade", "plaster")


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

    def heading(self, rng: Generator) -> float:
        """Where somebody walks who comes by: mostly along with the others; see `project`."""
        view = float(rng.normal(self.view, 25))
        return float(rng.uniform(0, 360)) if rng.random() < 0.3 else view


def cameras(seed: int, number: int, how: Difficulty) -> list[Camera]:
    """Cameras, spread evenly over casts, exposures and views."""
    rng, third = stream(seed, "cameras"), 2 * math.pi / 3
    hues = 2 * math.pi * (rng.permutation(number) + rng.uniform(0, 0.6, number)) / number
    light = rng.permutation(np.linspace(-1.3, 0.8, number))
    views = rng.permutation(360.0 * np.arange(number) / number + rng.uniform(0, 30))
    backdrops = rng.permutation(_BACKDROPS).tolist()
    soft, grain = rng.permutation(np.linspace(0.2, 1, number)), rng.uniform(0.3, 1, number)
    found = []
    for i in range(number):
        cast = how.cast * np.array([math.cos(hues[i] - third * channel) for channel in range(3)])
        red, green, blue = np.exp(cast).tolist()
        found.append(
            Camera(
                camid=i + 1,
                seed=seed,
                backdrop=backdrops[i % len(backdrops)],
                view=float(views[i]),
                pitch=float(rng.uniform(4, 20)),
                gain=(red, green, blue),
                exposure=math.exp(how.light * light[i]),
                gamma=math.exp(0.6 * how.light * rng.uniform(-1, 1)),
                contrast=math.exp(0.6 * how.light * rng.uniform(-1.4, 0.6)),
                saturation=math.exp(1.5 * how.cast * rng.uniform(-1.4, 0.6)),
                haze=float(0.35 * how.light * rng.random()),
                scale=float(rng.uniform(0.84, 0.96)),
                blur=float(how.blur * soft[i]),
                noise=float(how.noise * grain[i]),
                quality=int(rng.integers(68, 93)),
                light_from=float(rng.choice([-1, 1])),
            )
        )
    return found


# ---------------------------------------------------------------------------- places

_PLACES: list[Colour] = [
    (176, 166, 150),
    (150, 150, 148),
    (118, 116, 112),
    (158, 118, 96),
    (196, 192, 184),
    (104, 118, 92),
    (132, 140, 152),
]


@functools.lru_cache(maxsize=16)
def scenery(camera: Camera, height: int, width: int, clutter: float) -> Image.Image:
    """A wide view of the place behind the people, six boxes broad."""
    rng = stream(camera.seed, "scene", camera.camid)
    wide, high = 6 * width, int(1.25 * height)
    horizon = int(high * rng.uniform(0.4, 0.62))
    wall, ground = (jittered(pick(rng, _PLACES), rng, 14.0) for _ in range(2))
    scene = Image.new("RGB", (wide, high), wall)
    draw = ImageDraw.Draw(scene)
    kind = camera.backdrop
    if kind == "bricks":
        step = height / 22
        for row in range(int(horizon / step) + 1):
            for x in np.arange(-(row % 2) * step, wide, 2 * step):
                ink = shaded(wall, float(rng.uniform(0.8, 1.12)))
                draw.rectangle((x, row * step, x + 2 * step - 2, (row + 1) * step - 2), fill=ink)
    elif kind in ("windows", "arcade"):
        step = width * rng.uniform(0.55, 0.95)
        top, bottom = (0.12, 0.72) if kind == "windows" else (0.2, 1.0)
        for x in np.arange(0, wide, step):
            ink = jittered((70, 86, 104) if rng.random() < 0.7 else (190, 178, 140), rng, 18.0)
            box = (x, top * horizon, x + 0.62 * step, bottom * horizon)
            draw.rectangle(box, fill=ink, outline=shaded(wall, 0.65), width=max(2, width // 50))
    elif kind == "panels":
        for x in np.arange(0, wide, width * rng.uniform(0.5, 1.1)):
            end = x + width * rng.uniform(0.3, 1)
            draw.rectangle((x, 0, end, horizon), fill=shaded(wall, float(rng.uniform(0.75, 1.2))))
    elif kind == "hedge":
        for _ in range(500):
            x, y, r = rng.uniform(0, wide), rng.uniform(0, horizon), width * rng.uniform(0.04, 0.16)
            ink = shaded((78, 110, 62), float(rng.uniform(0.55, 1.25)))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    draw.rectangle((0, horizon, wide, high), fill=ground)
    for y in np.geomspace(height / 40, high - horizon, 7):  # rows of the pavement
        draw.line((0, horizon + y, wide, horizon + y), fill=shaded(ground, 0.85), width=3)
    slope = rng.uniform(-0.5, 0.5)
    for x in np.arange(-wide, 2 * wide, width * rng.uniform(0.3, 0.9)):
        end = x + slope * (x - wide / 2)
        draw.line((x, horizon, end, high), fill=shaded(ground, 0.88), width=3)
    for _ in range(round(14 * clutter)):
        _object(draw, rng, wide, height, horizon)
    texture = rng.normal(1, 0.06, (high // 12 + 1, wide // 12 + 1)).clip(0.7, 1.3)
    grain = Image.fromarray((texture * 128).astype(np.uint8)).resize(scene.size)
    pixels = np.asarray(scene, np.float32) * (np.asarray(grain, np.float32)[..., None] / 128)
    fall = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), high)[:, None, None]
    scene = Image.fromarray((pixels * fall).clip(0, 255).astype(np.uint8))
    return scene.filter(ImageFilter.GaussianBlur(SUPERSAMPLING * 0.5))


def _object(
    draw: ImageDraw.ImageDraw, rng: Generator, wide: int, height: int, horizon: int
) -> None:
    """One thing that stands about: a pole, a bin, a poster, a bush, a bicycle, a passer-by."""
    kind = int(rng.integers(6))
    x, y = float(rng.uniform(0, wide)), horizon + height * float(rng.uniform(0.02, 0.25))
    ink = shaded(pick(rng, list(CLOTHES.values())), float(rng.uniform(0.5, 1.0)))
    size = height * float(rng.uniform(0.06, 0.14))
    if kind == 0:
        draw.rectangle((x, 0, x + 0.25 * size, y), fill=shaded((110, 112, 116), 0.9))
    elif kind == 1:
        draw.rounded_rectangle((x, y - 2 * size, x + 1.3 * size, y), size / 5, fill=ink)
    elif kind == 2:
        top = horizon * float(rng.uniform(0.2, 0.5))
        box = (x, top, x + 1.6 * size, top + 2 * size)
        draw.rectangle(box, fill=ink, outline=(225, 225, 220), width=4)
    elif kind == 3:
        for _ in range(14):
            u, v = rng.normal(x, 0.7 * size), y - abs(rng.normal(0, 0.8 * size))
            green = shaded((84, 116, 66), float(rng.uniform(0.6, 1.2)))
            draw.ellipse((u - size / 2, v - size / 2, u + size / 2, v + size / 2), fill=green)
    elif kind == 4:
        for u in (x, x + 1.9 * size):
            box = (u - 0.8 * size, y - 1.6 * size, u + 0.8 * size, y)
            draw.ellipse(box, outline=(48, 48, 52), width=4)
        frame = (x, y - 0.8 * size, x + size, y - 2 * size, x + 1.9 * size, y - 0.8 * size)
        draw.line(frame, fill=ink, width=6)
    else:
        tall = 4.5 * size
        head = (x - 0.3 * size, y - tall, x + 0.3 * size, y - 0.86 * tall)
        draw.ellipse(head, fill=pick(rng, SKIN))
        trunk = (x - 0.5 * size, y - 0.85 * tall, x + 0.5 * size, y - 0.45 * tall)
        draw.rounded_rectangle(trunk, 0.2 * size, fill=ink)
        draw.rectangle((x - 0.35 * size, y - 0.5 * tall, x + 0.35 * size, y), fill=(52, 52, 60))


# ---------------------------------------------------------------------------- in front of a camera


@dataclasses.dataclass(frozen=True)
class Occluder:
    """What stands or passes in front: a pole, a box, or another pedestrian.

    Attributes:
        kind: `pole`, `box` or `person`.
        x: of its middle; 0 and 1 are the left and the right edge of the image.
        y: of a box's top, or of a person's feet; 0 and 1 are the image's top and bottom.
        breadth: of a pole or a box, in widths of the image; of a person, about that.
        ink: colour of a box.
        person: who passes.
        stature: of the person, beside the usual one at this camera.
        phase: of the person's gait, see `body`.
        view: where the person walks, see `project`.
    """

    kind: str
    x: float
    y: float = 0.0
    breadth: float = 0.7
    ink: Colour = (0, 0, 0)
    person: Person | None = None
    stature: float = 1.0
    phase: float = 0.0
    view: float = 0.0

    @classmethod
    def sample(cls, rng: Generator) -> "Occluder":
        """Any of them, where it hides a part of the person in the box and not all."""
        kind = pick(rng, ("pole", "box", "person"), (0.3, 0.3, 0.4))
        if kind == "person":
            return cls.passer(rng)
        ink = shaded(pick(rng, list(CLOTHES.values())), 0.8)
        if kind == "pole":
            left, breadth = float(rng.uniform(0.15, 0.8)), float(rng.uniform(0.07, 0.18))
            return cls(kind, left + breadth / 2, breadth=breadth)
        top, left, breadth = (
            float(rng.uniform(low, high)) for low, high in ((0.62, 0.82), (-0.5, 0.4), (0.6, 1.2))
        )
        return cls(kind, left + breadth / 2, top, breadth, ink)

    @classmethod
    def passer(cls, rng: Generator) -> "Occluder":
        """Another pedestrian, at the edge of the image."""
        return cls(
            "person",
            x=0.5 + float(rng.choice([-1, 1]) * rng.uniform(0.38, 0.6)),
            stature=float(rng.uniform(0.95, 1.1)),
            person=Person.sample(rng),
            y=float(rng.uniform(1.0, 1.12)),
            phase=float(rng.uniform(0, 2 * math.pi)),
            view=float(rng.uniform(0, 360)),
        )

    def draw(self, size: tuple[int, int], camera: Camera) -> Image.Image:
        """A transparent layer of that size with the thing on it."""
        wide, high = size
        if self.person is not None:
            unit, feet = high * camera.scale * self.stature, (wide * self.x, high * self.y)
            gait = self.phase, self.view, camera.pitch
            return Figure(self.person, size, feet, unit, *gait, camera.light_from).layer
        layer = Image.new("RGBA", size)
        draw = ImageDraw.Draw(layer)
        left, breadth = wide * (self.x - self.breadth / 2), wide * self.breadth
        if self.kind == "pole":
            draw.rectangle((left, 0, left + breadth, high), fill=(104, 106, 110, 255))
            draw.rectangle((left, 0, left + 0.3 * breadth, high), fill=(140, 142, 146, 255))
        else:
            top, ink = high * self.y, (*shaded(self.ink, 1.35), 255)
            box = (left, top, left + breadth, top + high)
            draw.rounded_rectangle(box, wide / 12, fill=(*self.ink, 255))
            draw.line((left, top, left + breadth, top), fill=ink, width=wide // 24)
        return layer


def stage(
    canvas: Image.Image, figure: Figure, covers: Sequence[Image.Image]
) -> tuple[Float[np.ndarray, "18 3"], Bool[np.ndarray, "h w"]]:
    """Paints a person onto a place, and in front of the person what hides it.

    Args:
        canvas: the place; painted on.
        figure: the person, of the canvas' size.
        covers: transparent layers of the canvas' size, the nearest last.

    Returns:
        The joints as (x, y, confidence), in pixels of the final image; confidence is 1, or 0
        where the joint is outside the image or something stands in front of it. And which of
        those pixels show the person or what it carries.
    """
    _cast_shadow(canvas, figure.feet, figure.unit)
    canvas.paste(figure.layer, mask=figure.layer)
    joints, seen = figure.joints.copy(), figure.layer.getchannel("A")
    joints[:, 2] = 1
    for cover in covers:
        canvas.paste(cover, mask=cover)
        joints[_covered(joints, cover), 2] = 0
        seen = ImageChops.subtract(seen, cover.getchannel("A"))
    joints[:, :2] /= SUPERSAMPLING
    size = np.divide(canvas.size, SUPERSAMPLING)
    joints[:, 2] *= ((joints[:, :2] >= 0) & (joints[:, :2] < size)).all(axis=1)
    return joints, np.asarray(seen.reduce(SUPERSAMPLING)) >= 128


def _cast_shadow(canvas: Image.Image, feet: tuple[float, float], unit: float) -> None:
    """A soft dark spot on the ground under the feet."""
    mask = Image.new("L", canvas.size)
    x, y = feet
    box = (x - 0.17 * unit, y - 0.035 * unit, x + 0.17 * unit, y + 0.03 * unit)
    ImageDraw.Draw(mask).ellipse(box, fill=95)
    canvas.paste((25, 25, 30), mask=mask)


def _covered(joints: Float[np.ndarray, "18 3"], cover: Image.Image) -> Bool[np.ndarray, "18"]:
    """Which joints lie under the opaque part of a layer; those outside count as on its edge."""
    wide, high = cover.size
    x, y = joints[:, 0].astype(int).clip(0, wide - 1), joints[:, 1].astype(int).clip(0, high - 1)
    return np.asarray(cover.getchannel("A"))[y, x] > 0


def develop(
    canvas: Image.Image,
    camera: Camera,
    light: float,
    how: Difficulty,
    rng: Generator,
    grain: Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """What the camera makes of the light: optics, shadow, colour, tone, and sensor noise.

    Args:
        canvas: what stands before the camera, `SUPERSAMPLING` times as large as the image.
        camera: which one.
        light: how much of it there is; 1 is usual.
        how: how hard it is.
        rng: for focus, shadow and colour.
        grain: for the noise of the sensor.
    """
    image = canvas.reduce(SUPERSAMPLING)
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
    x = 255 * x + camera.noise * grain.standard_normal(x.shape, dtype=np.float32)
    return x.clip(0, 255).astype(np.uint8)
