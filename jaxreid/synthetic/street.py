"""A street with several walkers, as a tracker sees it: whole frames, and where everybody is.

Walkers come in from both sides, at several depths, stop, turn back, and hide each other. All of it
follows from the seed.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageChops

from jaxreid.synthetic import scene
from jaxreid.synthetic.pedestrian import Figure, Person
from jaxreid.synthetic.scene import SUPERSAMPLING, Camera, Difficulty, stream

HEIGHT, WIDTH = 160, 80  # The frame is 6 times as wide and 1.25 times as high, as a place is.


class Street(NamedTuple):
    """A film of a street.

    Attributes:
        frames: RGB.
        number: of the frame that each box is in.
        pids: whom it shows.
        boxes: left, top, right, bottom in pixels, of the whole body where it is inside the frame.
        visible: the share of the body's pixels that nobody hides.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    number: Int[np.ndarray, " n"]
    pids: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    visible: Float[np.ndarray, " n"]


def film(
    people: list[Person],
    camera: Camera,
    *,
    length: int,
    seed: int = 0,
    difficulty: Difficulty | None = None,
) -> Street:
    """Films people who walk past a camera, each with its place in the list as its pid.

    Args:
        people: who walks there.
        camera: which one; see `scene.cameras`.
        length: of the film, in frames.
        seed: of the walks, together with the camera's number.
        difficulty: of the light; by default that of the data sets.
    """
    how = difficulty or Difficulty()
    place = scene.scenery(camera, HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING, how.clutter)
    wide, high = place.size
    walks = [_walk(seed, camera, pid, length) for pid in range(len(people))]
    frames = np.zeros((length, high // SUPERSAMPLING, wide // SUPERSAMPLING, 3), np.uint8)
    found: list[tuple[int, int, tuple[float, ...], float]] = []
    grain = stream(seed, "grain", camera.camid)
    for t in range(length):
        canvas, seen = place.copy(), list[tuple[int, Image.Image, Image.Image]]()
        for pid in sorted(range(len(people)), key=lambda pid: walks[pid].depth):
            walk = walks[pid]
            unit = high * (0.42 + 0.2 * walk.depth)
            feet = float(wide * walk.x[t]), float(high * (0.72 + 0.24 * walk.depth))
            if not -0.5 * unit < feet[0] < wide + 0.5 * unit:
                continue
            gait = float(walk.phase[t]), float(walk.view[t]), camera.pitch
            figure = Figure(people[pid], (wide, high), feet, unit, *gait, camera.light_from)
            scene.stage(canvas, figure, [])
            alpha = figure.layer.getchannel("A")
            seen = [(who, whole, ImageChops.subtract(left, alpha)) for who, whole, left in seen]
            seen.append((pid, alpha, alpha))
        for pid, whole, left in seen:
            if box := whole.getbbox():
                share = np.asarray(left, bool).sum() / np.asarray(whole, bool).sum()
                found.append((t, pid, tuple(side / SUPERSAMPLING for side in box), float(share)))
        exposure = stream(seed, "exposure", camera.camid)  # the same for every frame
        frames[t] = scene.develop(canvas, camera, 1.0, how, exposure, grain)
    numbers, pids, boxes, visible = zip(*found) if found else ((), (), (), ())
    return Street(
        frames,
        np.array(numbers, int),
        np.array(pids, int),
        np.array(boxes, float).reshape(-1, 4),
        np.array(visible, float),
    )


class _Walk(NamedTuple):
    """Where a walker is in each frame: x in widths of the place, and its gait; and how near."""

    x: Float[np.ndarray, " t"]
    phase: Float[np.ndarray, " t"]
    view: Float[np.ndarray, " t"]
    depth: float


def _walk(seed: int, camera: Camera, pid: int, length: int) -> _Walk:
    """A walk along the street, with a stop and a turn now and then."""
    rng = stream(seed, "walk", camera.camid, pid)
    way, pace = float(rng.choice([-1, 1])), float(rng.uniform(0.008, 0.016))
    speed = np.zeros(length)
    for t in range(length):
        if rng.random() < 0.02:
            way = -way
        speed[t] = way * pace
    stop = int(rng.integers(length))
    speed[stop : stop + int(rng.integers(0, 12))] = 0
    x = float(rng.uniform(-0.05, 1.05)) + np.cumsum(speed)
    # Nobody is lost for good: who goes far beyond an edge turns back.
    beyond, span = 0.1, 1.2
    x = (x + beyond) % (2 * span)
    speed = np.where(x > span, -speed, speed)
    x = np.minimum(x, 2 * span - x) - beyond
    view = np.where(speed < 0, -90.0, 90.0) + 10 * math.sin(pid)
    phase = float(rng.uniform(0, 2 * math.pi)) + 40 * np.cumsum(np.abs(speed))
    return _Walk(x, phase, view, float(rng.random()))
