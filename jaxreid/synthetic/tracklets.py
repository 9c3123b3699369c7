"""The embedded data set for video: walking pedestrians as tracklets, on disk in MARS's layout.

    python -m jaxreid.synthetic --video --root=runs/synthetic_video

A tracklet is one walk past one camera. From frame to frame the gait goes on and the place moves by
as fast as the feet step; the box follows the person as a tracker would, drifting, and now and then
badly; others pass in front or walk along at the edge. People and cameras are those of `images`:
clothes come from a few colours, cameras shift them, and every fifth person is a twin.

Beside the images lie the true joints and the true silhouettes, so that one can measure whether a
model that looks at some part of the image looks at the person.
"""

import dataclasses
import functools
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from numpy.random import Generator
from PIL import Image

from jaxreid.errors import UserError
from jaxreid.synthetic import scene
from jaxreid.synthetic.drawing import draw_all, identities, validate, write_once
from jaxreid.synthetic.pedestrian import Build, Figure, Person, people
from jaxreid.synthetic.scene import SUPERSAMPLING, Camera, Difficulty, Occluder, stream

VERSION = 1
"""Raised whenever the same spec would give other pictures; part of `spec.json`."""


# ---------------------------------------------------------------------------- specification


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """What to draw. Equal specs give byte-identical files.

    Attributes:
        seed: of everything.
        num_train_ids: identities in `bbox_train`.
        num_test_ids: identities in `bbox_test`; none is in training.
        cameras: how many cameras there are (MARS has 6).
        cameras_per_id: fewest and most cameras that see an identity.
        tracklets_per_camera: fewest and most tracklets of an identity in a camera that sees it.
            At test the first is the query, and stays in the gallery as in MARS.
        frames: fewest and most frames of a tracklet.
        short: share of the tracklets that break off after 1 to 3 frames.
        num_distractors: test tracklets of nobody in particular (pid 0).
        num_junk: test tracklets whose boxes are badly cut (pid -1).
        bad_boxes: share of the frames of any tracklet where the tracker slipped.
        height: of an image, in pixels.
        width: of an image, in pixels.
        difficulty: how hard the cameras make it. `occlusion` is the probability that something
            passes in front during a tracklet; half as often another pedestrian walks along.
    """

    seed: int = 0
    num_train_ids: int = 64
    num_test_ids: int = 40
    cameras: int = 4
    cameras_per_id: tuple[int, int] = (2, 2)
    tracklets_per_camera: tuple[int, int] = (1, 2)
    frames: tuple[int, int] = (6, 16)
    short: float = 0.06
    num_distractors: int = 24
    num_junk: int = 10
    bad_boxes: float = 0.05
    height: int = 128
    width: int = 64
    difficulty: Difficulty = dataclasses.field(default_factory=lambda: Difficulty(occlusion=0.35))


def _validate(spec: VideoSpec) -> None:
    """Raises `UserError` where no data set can follow from the spec."""
    fewest, most = spec.tracklets_per_camera
    shortest, longest = spec.frames
    share = "must lie in 0..1"
    validate(
        spec,
        {
            "tracklets_per_camera": (
                1 <= fewest <= most,
                "must be (fewest, most) with 1 <= fewest <= most",
            ),
            "frames": (
                1 <= shortest <= longest <= 999,  # names have three digits for a frame
                "must be (shortest, longest) with 1 <= shortest <= longest <= 999",
            ),
            "short": (0 <= spec.short <= 1, share),
            "bad_boxes": (0 <= spec.bad_boxes <= 1, share),
        },
    )


# ---------------------------------------------------------------------------- one tracklet


@dataclasses.dataclass(frozen=True)
class Tracklet:
    """One walk past one camera.

    Attributes:
        folder: `bbox_train` or `bbox_test`.
        person: who is in the boxes; nobody, for boxes around background.
        pid: person id; -1 for badly cut boxes.
        camid: camera id, from 1.
        number: of the tracklet among those of this pid and camera, from 1.
        length: in frames.
    """

    folder: str
    person: Person | None
    pid: int
    camid: int
    number: int
    length: int

    @property
    def names(self) -> list[str]:
        """The names of the frames, without their folders."""
        pid = str(self.pid).rjust(4, "0")  # MARS writes -1 as 00-1
        stem = f"{pid}C{self.camid}T{self.number:04d}"
        return [f"{stem}F{frame:03d}.jpg" for frame in range(1, self.length + 1)]


class Film(NamedTuple):
    """What was drawn of a tracklet.

    Attributes:
        images: RGB pixels.
        joints: as (x, y, confidence), see `scene.stage`; zeros for nobody.
        silhouettes: which pixels show the person or what it carries.
    """

    images: UInt8[np.ndarray, "t h w 3"]
    joints: Float[np.ndarray, "t 18 3"]
    silhouettes: Bool[np.ndarray, "t h w"]


class _Boxes(NamedTuple):
    """How the boxes of a tracklet lie about the person, frame by frame.

    Attributes:
        zoom: size of the person in the box, beside the usual one.
        across: of the person from the box's middle, in widths of the box.
        down: the same, in heights.
    """

    zoom: Float[np.ndarray, " t"]
    across: Float[np.ndarray, " t"]
    down: Float[np.ndarray, " t"]


def render(tracklet: Tracklet, camera: Camera, spec: VideoSpec) -> Film:
    """Draws one tracklet."""
    how, person, length = spec.difficulty, tracklet.person, tracklet.length
    keys = tracklet.pid, tracklet.camid, tracklet.number
    rng, grain = (stream(spec.seed, purpose, *keys) for purpose in ("walk", "grain"))
    high, wide = spec.height * SUPERSAMPLING, spec.width * SUPERSAMPLING
    place = scene.scenery(camera, high, wide, how.clutter)

    build = person.build if person else Build()
    usual = high * camera.scale * (0.5 + 0.5 * build.stature)  # pixels for one stature
    start, step = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.75)
    phase = start + step * np.arange(length)
    view = camera.heading(rng) + 8 * _drift(rng, length)
    boxes = _boxes(rng, tracklet, spec)
    # Feet that stand do not slide: the place moves by as far as the legs reach.
    pace = step * _reach(build) * usual / wide * math.sin(math.radians(view.mean()))
    pace = float(np.clip(pace, -5 / length, 5 / length)) if person else 0.0  # the place has an end
    spot = rng.uniform(max(0.0, -pace * length), 5 - max(0.0, pace * length))
    left = np.clip(spot + pace * np.arange(length) - boxes.across, 0, 5) * wide
    spare = place.height - high
    top = np.clip(rng.uniform(0.2, 0.8) * spare - boxes.down * high, 0, spare)
    light = np.exp(how.light * (0.35 * rng.normal() + 0.05 * _drift(rng, length)))
    alone = person is None or tracklet.pid < 0
    passing = [] if alone else _passing(rng, view, pace, boxes, how)

    images = np.zeros((length, spec.height, spec.width, 3), np.uint8)
    joints, silhouettes = np.zeros((length, 18, 3)), np.zeros(images.shape[:3], bool)
    for i in range(length):
        x, y = int(left[i]), int(top[i])
        canvas = place.crop((x, y, x + wide, y + high))
        if person is not None:
            unit = float(usual * boxes.zoom[i])
            feet = (
                float(wide * (0.5 + boxes.across[i])),
                float(high * (0.5 + boxes.down[i]) + 0.475 * unit),
            )
            gait = float(phase[i]), float(view[i]), camera.pitch
            figure = Figure(person, (wide, high), feet, unit, *gait, camera.light_from)
            covers = [track[i].draw((wide, high), camera) for track in passing if i in track]
            joints[i], silhouettes[i] = scene.stage(canvas, figure, covers)
        exposure = stream(spec.seed, "exposure", *keys)  # the same for every frame
        images[i] = scene.develop(canvas, camera, float(light[i]), how, exposure, grain)
    return Film(images, joints, silhouettes)


def _drift(rng: Generator, length: int) -> Float[np.ndarray, " t"]:
    """A slow random walk about zero, of unit variance at every frame."""
    steps, keep = rng.normal(size=length), 0.9
    steps[1:] *= math.sqrt(1 - keep**2)
    for i in range(1, length):
        steps[i] += keep * steps[i - 1]
    return steps


def _reach(build: Build) -> float:
    """How far a body walks in a radian of its gait, in statures: two steps in 2 pi."""
    return 4 * (build.legs - 0.045) * math.sin(math.radians(build.stride)) / (2 * math.pi)


def _boxes(rng: Generator, tracklet: Tracklet, spec: VideoSpec) -> _Boxes:
    """A tracker's boxes: they drift, they tremble, and now and then they slip."""
    length = tracklet.length
    size, across, down = (
        spec.difficulty.jitter * (1.5 * _drift(rng, length) + 0.4 * rng.normal(size=length))
        for _ in range(3)
    )
    zoom = np.exp(size)
    slips = rng.random(length) < spec.bad_boxes
    zoom[slips] *= rng.uniform(1.1, 1.6, slips.sum())
    across[slips] += rng.choice([-1, 1], slips.sum()) * rng.uniform(0.15, 0.4, slips.sum())
    down[slips] += rng.uniform(-0.25, 0.4, slips.sum())
    if tracklet.pid < 0:
        zoom *= rng.uniform(1.3, 2.0)
        across += rng.choice([-1, 1]) * rng.uniform(0.3, 0.5)
        down += rng.uniform(-0.5, 0.9)
    return _Boxes(zoom, across, down)


def _passing(
    rng: Generator, view: Float[np.ndarray, " t"], pace: float, boxes: _Boxes, how: Difficulty
) -> list[dict[int, Occluder]]:
    """What comes into the way: for each thing, where it is in the frames that show it."""
    frames, found = np.arange(len(view)), []
    if rng.random() < how.occlusion:
        thing = Occluder.sample(rng)
        speed, meeting = rng.uniform(0.1, 0.25), rng.uniform(-1, len(view))
        if thing.person is not None:
            speed *= rng.choice([-1, 1])
        else:  # what stands nearer than the person moves against the walk, and faster
            speed = -math.copysign(max(0.08, 1.4 * abs(pace)), pace)
        sideways = math.copysign(90, speed) + rng.normal(0, 15) + 0 * view
        found.append((thing, 0.5 + speed * (frames - meeting), sideways))
    if rng.random() < how.occlusion / 2:
        thing = Occluder.passer(rng)
        aside = (thing.x - 0.5) * (1 + 0.15 * _drift(rng, len(view)))
        found.append((thing, 0.5 + aside, view))
    tracks = []
    for thing, x, heading in found:
        phase = thing.phase + rng.uniform(0.5, 0.75) * frames
        x, y = x + boxes.across, thing.y + boxes.down  # where the box slips, all in it moves
        shown = np.flatnonzero(np.abs(x - 0.5) < 0.5 + 0.5 * thing.breadth).tolist()
        track = {
            i: dataclasses.replace(
                thing, x=float(x[i]), y=float(y[i]), phase=float(phase[i]), view=float(heading[i])
            )
            for i in shown
        }
        tracks.append(track)
    return tracks


# ---------------------------------------------------------------------------- the data set


def cameras(spec: VideoSpec) -> list[Camera]:
    """The cameras of a data set; `camid` 1 comes first."""
    return scene.cameras(spec.seed, spec.cameras, spec.difficulty)


def plan(spec: VideoSpec) -> list[Tracklet]:
    """Every tracklet of the data set, training first, in the order of the names."""
    rng = stream(spec.seed, "pids")
    tracklets: list[Tracklet] = []

    def film(folder: str, person: Person | None, pid: int, camid: int, number: int) -> None:
        lengths = stream(spec.seed, "lengths", pid, camid, number)
        low, high = (1, 3) if lengths.random() < spec.short else spec.frames
        length = int(lengths.integers(low, high + 1))
        tracklets.append(Tracklet(folder, person, pid, camid, number, length))

    for folder, split in zip(("bbox_train", "bbox_test"), identities(spec, rng)):
        for pid, person in split:
            low, high = spec.cameras_per_id
            seen = rng.choice(spec.cameras, int(rng.integers(low, high + 1)), replace=False)
            for camid in (seen + 1).tolist():
                fewest, most = spec.tracklets_per_camera
                for number in range(1, int(rng.integers(fewest, most + 1)) + 1):
                    film(folder, person, pid, camid, number)
    # Trackers also follow strangers, nobody at all, and half a person.
    for i, stranger in enumerate(people(stream(spec.seed, "people", 2), spec.num_distractors)):
        nobody, camid = rng.random() < 0.2, int(rng.integers(1, spec.cameras + 1))
        film("bbox_test", None if nobody else stranger, 0, camid, i + 1)
    for i, guest in enumerate(people(stream(spec.seed, "people", 3), spec.num_junk)):
        film("bbox_test", guest, -1, int(rng.integers(1, spec.cameras + 1)), i + 1)
    return sorted(tracklets, key=lambda tracklet: (tracklet.folder == "bbox_test", tracklet.names))


def write_mars(
    root: Path | str, spec: VideoSpec = VideoSpec(), *, processes: int | None = None
) -> Path:
    """Writes the data set in MARS's layout, unless it is there already.

    Below `root`: `bbox_train/` and `bbox_test/` with a folder for each pid; `info/` with the lists
    of names and the tables of tracklets and queries; `joints.npz` with `names` (paths below the
    root, training first) and `joints` (`[n, 18, 3]`, see `Film`); `silhouettes.npz`, which
    `read_silhouettes` reads; and `spec.json`. The folder appears whole or not at all.

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

    def fill(folder: Path) -> None:
        tracklets = plan(spec)
        draw = functools.partial(_write, folder, spec, cameras(spec))
        images = sum(tracklet.length for tracklet in tracklets)
        joints, packed = zip(*draw_all(draw, tracklets, images, processes))
        names = [f"{_below(t)}/{name}" for t in tracklets for name in t.names]
        np.savez_compressed(
            folder / "joints.npz", names=names, joints=np.concatenate(joints).astype(np.float32)
        )
        np.savez_compressed(
            folder / "silhouettes.npz",
            names=names,
            packed=np.concatenate(packed),
            size=np.array([spec.height, spec.width]),
        )
        _write_info(folder / "info", tracklets)

    return write_once(root, spec, VERSION, fill)


def _below(tracklet: Tracklet) -> str:
    """The folder of a tracklet's frames, below the root."""
    return f"{tracklet.folder}/{tracklet.names[0][:4]}"


def _write(
    folder: Path, spec: VideoSpec, all_cameras: list[Camera], tracklet: Tracklet
) -> tuple[Float[np.ndarray, "t 18 3"], UInt8[np.ndarray, "t n"]]:
    """Draws one tracklet into its files; returns the joints and the silhouettes' bits."""
    camera = all_cameras[tracklet.camid - 1]
    film = render(tracklet, camera, spec)
    below = folder / _below(tracklet)
    below.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(tracklet.names, film.images):
        Image.fromarray(pixels).save(below / name, quality=camera.quality)
    return film.joints, np.packbits(film.silhouettes.reshape(tracklet.length, -1), axis=1)


def _write_info(folder: Path, tracklets: list[Tracklet]) -> None:
    """The lists of names, and MARS's three tables."""
    folder.mkdir()
    for split in ("train", "test"):
        chosen = [t for t in tracklets if t.folder == f"bbox_{split}"]
        names = [name for t in chosen for name in t.names]
        (folder / f"{split}_name.txt").write_text("".join(f"{name}\n" for name in names))
        _write_table(folder / f"tracks_{split}_info.mat", f"track_{split}_info", _rows(chosen))
        if split == "test":
            first = [i for i, t in enumerate(chosen, start=1) if t.pid > 0 and t.number == 1]
            _write_table(folder / "query_IDX.mat", "query_IDX", np.array([first], np.int32))


def _rows(tracklets: list[Tracklet]) -> Int[np.ndarray, "n 4"]:
    """MARS's table: first and last frame (1-based, inclusive), pid, camid."""
    last = np.cumsum([t.length for t in tracklets])
    rows = [(end - t.length + 1, end, t.pid, t.camid) for end, t in zip(last, tracklets)]
    return np.array(rows, np.int32)


def _write_table(path: Path, key: str, table: Int[np.ndarray, "n m"]) -> None:
    """A MATLAB file of one table, without the date that SciPy would write into it."""
    file = io.BytesIO()
    scipy.io.savemat(file, {key: table})
    text = b"MATLAB 5.0 MAT-file".ljust(116)  # the format's free text is so long
    path.write_bytes(text + file.getvalue()[len(text) :])


def read_silhouettes(
    root: Path | str,
) -> tuple[Shaped[np.ndarray, " n"], Bool[np.ndarray, "n h w"]]:
    """The true silhouettes that lie beside the images.

    Args:
        root: of a data set that `write_mars` wrote.

    Returns:
        The images' paths below the root, and for each which pixels show the person, or what it
        carries, and not something in front of it.

    Raises:
        UserError: there are none.
    """
    path = Path(root) / "silhouettes.npz"
    if not path.is_file():
        raise UserError(f"{path}: not found; jaxreid.synthetic --video writes it")
    with np.load(path) as stored:
        height, width = stored["size"].tolist()
        masks = np.unpackbits(stored["packed"], axis=1, count=height * width).astype(bool)
        return stored["names"], masks.reshape(-1, height, width)
