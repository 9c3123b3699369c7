"""An exported file, unchanged, in BoxMOT and in Ultralytics, in `make trackers`'s environment."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxreid import export
from jaxreid.config import Config, Data
from jaxreid.search import Extractor
from jaxreid.synthetic import scene, street
from jaxreid.synthetic.pedestrian import people
from tests.networks import MODELS
from tests.search.conftest import make_run

# How each is fed: BoxMOT takes mean and deviation out itself, Ultralytics divides by 255 alone.
NORMALISED = {"boxmot": "outside", "ultralytics": "unit"}
HEIGHT, WIDTH = 64, 32


@pytest.fixture(scope="module")
def run(market, tmp_path_factory):
    size = (HEIGHT, WIDTH)
    data = Data(name="synthetic", root=str(market), source="memory", image_size=size, num_ids=4)
    config = Config(model=MODELS["duatm-average"], data=data)
    return make_run(tmp_path_factory.mktemp("run"), config)


@pytest.fixture(scope="module")
def scenery():
    """A frame of a drawn street, and where people are in it."""
    how = scene.Difficulty()
    (camera,) = scene.cameras(0, 1, how)
    walkers = people(scene.stream(0, "people", 9), 8)
    film = street.film(walkers, camera, length=4)
    return film.frames[3], film.boxes[film.number == 3]


def windows(frame, boxes):
    """Windows of the network's own size around people, so that nothing is resized."""
    height, width, _ = frame.shape
    middle = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2)
    least = np.array([WIDTH / 2, HEIGHT / 2])
    middle = np.clip(middle, least, np.array([width, height]) - least)
    return np.concatenate([middle - least, middle + least], axis=1)


def foreign(package, file, frame, boxes, folder):
    np.savez(folder / "in.npz", frame=frame, boxes=boxes)
    script = Path(__file__).with_name("foreign.py")
    python = os.environ["JAXREID_TRACKERS_PYTHON"]
    given = [package, file, folder / "in.npz", folder / "out.npy"]
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "YOLO_OFFLINE": "true"}
    ended = subprocess.run(
        [python, script, *map(str, given)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=kept,
    )
    assert ended.returncode == 0, ended.stderr
    return unit(np.load(folder / "out.npy"))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def asked(package, boxes):
    """The boxes whose crops are `boxes`: Ultralytics adds 2 % and 10 pixels, and rounds down."""
    if package == "boxmot":
        return boxes
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = (size + 0.5 - 10) / 1.02 / 2
    return np.concatenate([middle - half, middle + half], axis=1) + 0.5


@pytest.mark.parametrize("package", list(NORMALISED))
def test_their_features_are_ours(package, run, scenery, tmp_path):
    file = tmp_path / "reid.onnx"
    flags = ["--format=onnx", "--layout=nchw", f"--normalised={NORMALISED[package]}"]
    assert export.main([f"--workdir={run}", f"--out={file}", *flags]) == 0
    frame, boxes = scenery
    reid = Extractor(run)
    # Where they resize, they do so without a filter against aliasing.
    for crops, near in ((windows(frame, boxes), 1e-4), (np.rint(boxes), 0.2)):
        ours = unit(reid.vectors(reid.crops(frame, crops)))
        found = foreign(package, file, frame, asked(package, crops), tmp_path)
        apart = np.linalg.norm(ours[:, None] - ours, axis=-1)
        between = np.median(apart[~np.eye(len(ours), dtype=bool)])
        assert (np.linalg.norm(found - ours, axis=1) < near * between).all()
