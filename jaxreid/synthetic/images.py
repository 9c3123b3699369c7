"""The embedded data set: pedestrians drawn by a procedure, on disk in Market-1501's layout.

An articulated body walks past cameras that differ in background, light, colour and framing. The
files are ordinary JPEGs with Market's names, so that a demonstration runs through the real parser,
the real decoder and the real protocol, and the true joints lie beside them.

Two things make it a task for re-identification and not for a colour histogram: clothes come from
a few colours while cameras shift those colours strongly, and some identities are twins, who
differ in two attributes only.

Every random number follows from `(seed, what, pid, camera, index)`.
"""

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxreid.synthetic import scene
from jaxreid.synthetic.drawing import draw_all, identities, validate, write_once
from jaxreid.synthetic.pedestrian import Build, Figure, Person, body, people, pose
from jaxreid.synthetic.scene import SUPERSAMPLING, Camera, Difficulty, Occluder, stream

__all__ = [
    "Build",
    "Camera",
    "Difficulty",
    "Person",
    "Shot",
    "Spec",
    "body",
    "cameras",
    "plan",
    "pose",
    "render",
    "write_market",
]

VERSION = 1
"""Raised whenever the same spec would give other pictures; part of `spec.json`."""


# ---------------------------------------------------------------------------- specification


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
    difficulty: Difficulty = dataclasses.field(default_factory=Difficulty)


# ---------------------------------------------------------------------------- one image


def cameras(spec: Spec) -> list[Camera]:
    """The cameras of a data set; `camid` 1 comes first."""
    return scene.cameras(spec.seed, spec.cameras, spec.difficulty)


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
        RGB pixels, and joints as (x, y, confidence), see `scene.stage`; zeros for nobody.
    """
    how = spec.difficulty
    purpose = "junk" if shot.cut else "image" if shot.pid > 0 else "distractor"
    serial = shot.index if shot.pid <= 0 else 0
    visit = stream(spec.seed, "visit", shot.pid, shot.camid, serial)
    rng = stream(spec.seed, purpose, shot.pid, shot.camid, shot.index)

    view = camera.heading(visit)
    spot = visit.uniform(0, 4.4)  # where in the scene, in box widths
    light = math.exp(0.35 * how.light * visit.normal())

    high, wide = spec.height * SUPERSAMPLING, spec.width * SUPERSAMPLING
    place = scene.scenery(camera, high, wide, how.clutter)
    left = int(np.clip(spot + 0.25 * rng.normal(), 0, 5) * wide)
    top = int(rng.uniform(0, place.height - high))
    canvas = place.crop((left, top, left + wide, top + high))

    joints = np.zeros((18, 3))
    if shot.person is not None:
        zoom, across, down = np.exp(how.jitter * rng.normal()), *(how.jitter * rng.normal(size=2))
        if shot.cut:
            zoom *= rng.uniform(1.3, 2.0)
            across += rng.choice([-1, 1]) * rng.uniform(0.3, 0.5)
            down = rng.uniform(-0.5, 0.9)
        elif rng.random() < 0.3 * how.occlusion:  # the detector missed the feet
            zoom, down = zoom * 1.12, down + rng.uniform(0.12, 0.22)
        unit = float(high * camera.scale * zoom * (0.5 + 0.5 * shot.person.build.stature))
        feet = (float(wide * (0.5 + across)), float(high * (0.5 + down) + 0.475 * unit))
        phase, turn = float(rng.uniform(0, 2 * math.pi)), view + float(rng.normal(0, 8))
        figure = Figure(
            shot.person, (wide, high), feet, unit, phase, turn, camera.pitch, camera.light_from
        )
        hidden = not shot.cut and rng.random() < how.occlusion
        covers = [Occluder.sample(rng).draw((wide, high), camera)] if hidden else []
        joints, _ = scene.stage(canvas, figure, covers)
    return scene.develop(canvas, camera, light, how, rng, rng), joints


# ---------------------------------------------------------------------------- the data set


def plan(spec: Spec) -> list[Shot]:
    """Every image of the data set: who, where, under which name."""
    rng = stream(spec.seed, "pids")
    shots: list[Shot] = []
    for test, split in enumerate(identities(spec, rng)):
        for pid, person in split:
            low, high = spec.cameras_per_id
            seen = rng.choice(spec.cameras, int(rng.integers(low, high + 1)), replace=False)
            for camid in sorted((seen + 1).tolist()):
                shots += _visit(spec, person, pid, camid, test == 1)
    # Detectors also find strangers, nobody at all, and half a person.
    for i, stranger in enumerate(people(stream(spec.seed, "people", 2), spec.num_distractors)):
        nobody = rng.random() < 0.2
        camid = int(rng.integers(1, spec.cameras + 1))
        name = f"bounding_box_test/0000_c{camid}s{1 + i % 6}_{151 + 25 * i:06d}_{i % 5:02d}.jpg"
        shots.append(Shot(name, None if nobody else stranger, 0, camid, i))
    for i, guest in enumerate(people(stream(spec.seed, "people", 3), spec.num_junk)):
        camid = int(rng.integers(1, spec.cameras + 1))
        name = f"bounding_box_test/-1_c{camid}s{1 + i % 6}_{401 + 25 * i:06d}_{1 + i % 5:02d}.jpg"
        shots.append(Shot(name, guest, -1, camid, i, cut=True))
    return sorted(shots, key=lambda shot: shot.name)


def _visit(spec: Spec, person: Person, pid: int, camid: int, test: bool) -> list[Shot]:
    """The images of one person in one camera; at test, the first is the query."""
    rng = stream(spec.seed, "names", pid, camid)
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
    few = "must be at least 2: one is the query, the rest are its gallery"
    validate(spec, {"images_per_camera": (spec.images_per_camera >= 2, few)})

    def fill(folder: Path) -> None:
        shots = plan(spec)
        for name in ("bounding_box_train", "query", "bounding_box_test"):
            (folder / name).mkdir()
        draw = functools.partial(_write, folder, spec, cameras(spec))
        joints = draw_all(draw, shots, len(shots), processes)
        names = np.array([shot.name for shot in shots])
        np.savez(folder / "joints.npz", names=names, joints=np.stack(joints).astype(np.float32))

    return write_once(root, spec, VERSION, fill)


def _write(
    folder: Path, spec: Spec, all_cameras: list[Camera], shot: Shot
) -> Float[np.ndarray, "18 3"]:
    """Draws one image into its file; returns the joints."""
    camera = all_cameras[shot.camid - 1]
    pixels, joints = render(shot, camera, spec)
    Image.fromarray(pixels).save(folder / shot.name, quality=camera.quality)
    return joints
