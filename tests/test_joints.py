"""The command that finds joints. BlazePose itself is in tests/pose, in its own environment."""

import sys

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.joints import read_joints
from jaxreid.joints import find_joints, into_square, main, to_openpose

# BlazePose's landmarks by its own list, and OpenPose's by its.
THEIRS = {
    **{"nose": 0, "left eye": 2, "right eye": 5, "left ear": 7, "right ear": 8},
    **{"left shoulder": 11, "right shoulder": 12, "left elbow": 13, "right elbow": 14},
    **{"left wrist": 15, "right wrist": 16, "left hip": 23, "right hip": 24},
    **{"left knee": 25, "right knee": 26, "left ankle": 27, "right ankle": 28},
}
OURS = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder"),
    *("left elbow", "left wrist", "right hip", "right knee", "right ankle", "left hip"),
    *("left knee", "left ankle", "right eye", "left eye", "right ear", "left ear"),
)
# Stands in for BlazePose: everything is where the picture is brightest.
WORKER = """#!{python}
import struct, sys
import numpy as np
ask, answer = sys.stdin.buffer, sys.stdout.buffer
while head := ask.read(8):
    h, w = struct.unpack("<ii", head)
    light = np.frombuffer(ask.read(3 * h * w), np.uint8).reshape(h, w, 3).sum(axis=2)
    rows, columns = np.nonzero(light == light.max())
    found = np.zeros((33, 3), np.float32)
    if light.max() > light.min():
        found[:] = (columns.mean() + 0.5) / w, (rows.mean() + 0.5) / h, 0.9
    answer.write(found.tobytes())
    answer.flush()
"""


@pytest.fixture
def python(tmp_path):
    file = tmp_path / "python"
    file.write_text(WORKER.format(python=sys.executable))
    file.chmod(0o755)
    return str(file)


def test_joints_are_openposes():
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(0.1, 0.9, (33, 3))
    got = to_openpose(landmarks, square=1000, corner=(300, 200), scale=4.0)
    for name, joint in zip(OURS, got):
        of = [name] if name != "neck" else ["left shoulder", "right shoulder"]
        points = [landmarks[THEIRS[each]] for each in of]
        x, y = np.mean([point[:2] for point in points], axis=0) * 1000
        want = (x - 300) / 4, (y - 200) / 4, min(point[2] for point in points)
        np.testing.assert_allclose(joint, want, atol=1e-9)


@pytest.mark.parametrize("size", [(128, 64), (50, 90), (3, 1), (700, 30)])
def test_the_image_is_in_the_middle_of_a_square(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    square, (left, top), scale = into_square(image)
    assert square.shape == (1024, 1024, 3)
    height, width = (max(1, round(scale * side)) for side in size)
    assert max(height, width) == 512
    assert abs(2 * left + width - 1024) <= 1
    assert abs(2 * top + height - 1024) <= 1
    np.testing.assert_array_equal(square[: top + 1, left], np.tile(square[top, left], (top + 1, 1)))


def test_the_command_finds_what_is_there(python, tmp_path, capsys):
    places = {}
    for k, split in enumerate(("bounding_box_train", "query", "bounding_box_test")):
        for camid in (1, 2):
            image = np.full((60 + 10 * k, 40, 3), 30, np.uint8)
            y, x = 5 + 11 * k, 8 * camid
            image[y : y + 3, x : x + 3] = 255
            name = f"{split}/000{min(k, 1) + 1}_c{camid}s1_000001_00.png"
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / name)
            places[name] = (x + 1.5, y + 1.5)
    nobody = "bounding_box_test/0000_c1s1_000009_00.png"
    Image.new("RGB", (40, 60), (30, 30, 30)).save(tmp_path / nobody)
    out = tmp_path / "joints.npz"
    code = main(["--name=folder", f"--root={tmp_path}", f"--python={python}", f"--out={out}"])
    assert (code, capsys.readouterr().err) == (0, "")
    joints = read_joints(out, [*places, nobody])
    for of, (x, y) in zip(joints, places.values()):
        np.testing.assert_allclose(of, np.tile([x, y, 0.9], (18, 1)), atol=0.5)
    assert not joints[-1].any()


def test_the_order_of_images_is_kept_by_several_processes(python, tmp_path):
    files = []
    for k in range(7):
        image = np.full((64, 32, 3), 30, np.uint8)
        image[8 * k + 2 : 8 * k + 5, 4:7] = 255
        files.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(image).save(files[-1])
    found = find_joints(files, python, processes=3)
    np.testing.assert_allclose(found[:, 0, 1], 8 * np.arange(7) + 3.5, atol=0.5)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("/no/such/python", "cannot be run (No such file or directory)"),
        (sys.executable, "cannot run mediapipe (ModuleNotFoundError: No module named 'mediapipe')"),
    ],
)
def test_an_environment_without_it_is_one_line(python, said, tmp_path, capsys):
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 16)).save(tmp_path / split / "0001_c1s1_000001_00.png")
    flags = ["--name=folder", f"--root={tmp_path}", f"--out={tmp_path / 'joints.npz'}"]
    assert main([*flags, f"--python={python}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"jaxreid: error: --python={python}: {said}; expected ")
    assert line.count("\n") == 1
    assert not (tmp_path / "joints.npz").exists()
