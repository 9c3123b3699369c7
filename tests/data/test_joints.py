"""Joints from files, hostile ones too, and how near to the truth completing them comes."""

import json

import numpy as np
import pytest

from jaxreid.data import index
from jaxreid.data.joints import CanonicalPoses, complete, fit_poses, read_joints, scale, summary
from jaxreid.errors import UserError
from jaxreid.synthetic.pedestrian import Build, pose

NAMES = ["train/a.jpg", "train/b.png", "query/a.jpg"]


def person(start, joints=18, confidence=0.5):
    points = np.arange(start, start + 2 * joints).reshape(joints, 2)
    return np.concatenate([points, np.full((joints, 1), confidence)], axis=1)


def openpose(*people):
    return json.dumps(
        {"version": 1.3, "people": [{"pose_keypoints_2d": p.ravel().tolist()} for p in people]}
    )


def write(folder, files):
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# ---------------------------------------------------------------------------- reading


def test_reads_openpose_beside_the_images(tmp_path):
    files = {
        "train/a_keypoints.json": openpose(person(10)),
        "train/a.json": openpose(person(30)),  # the first name is looked for first
        "query/a.json": openpose(person(50)),
    }
    joints = read_joints(write(tmp_path, files), np.array(NAMES))
    assert joints.dtype == np.float32
    np.testing.assert_array_equal(joints, [person(10), np.zeros((18, 3)), person(50)])


def test_takes_the_person_openpose_is_surest_of(tmp_path):
    one_sure_joint = person(90, confidence=0)
    one_sure_joint[3, 2] = 1
    people = person(10, confidence=0.3), person(30, confidence=0.6), one_sure_joint
    write(tmp_path, {"a.json": openpose(*people), "b.json": openpose()})
    joints = read_joints(tmp_path, ["a.jpg", "b.jpg"])
    np.testing.assert_allclose(joints, [people[1], np.zeros((18, 3))], rtol=1e-6)


def test_body_25_becomes_the_18(tmp_path):
    # Right and left hip, knee and ankle follow the middle of the hips, then eyes and ears.
    body = person(100, joints=25)
    write(tmp_path, {"a.json": openpose(body)})
    kept = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    np.testing.assert_array_equal(read_joints(tmp_path, ["a.jpg"])[0], body[kept])


def test_reads_arrays_by_name(tmp_path):
    stored = np.stack([person(10), person(30), person(50)])
    np.savez(tmp_path / "j.npz", names=["query/a.jpg", "other.jpg", "train/a.jpg"], joints=stored)
    joints = read_joints(tmp_path / "j.npz", NAMES)
    np.testing.assert_array_equal(joints, [stored[2], np.zeros((18, 3)), stored[0]])


def test_reads_those_of_a_synthetic_set(market):
    data = index.load("synthetic", str(market))
    with np.load(market / "joints.npz") as stored:
        truth = dict(zip(stored["names"].tolist(), stored["joints"]))
    for table in data.splits.values():
        joints = read_joints(market / "joints.npz", table.paths)
        np.testing.assert_array_equal(joints, [truth[name] for name in table.paths])


def test_no_images_no_joints(tmp_path):
    assert read_joints(tmp_path, []).shape == (0, 18, 3)


LATE = person(10)
LATE[4, 1] = np.inf
BELOW = person(10, confidence=-0.5)
SHARES = person(10) / np.array([50, 50, 1])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not OpenPose's JSON"),
        (openpose(person(10))[:-9], "not OpenPose's JSON"),
        (b"\xff\xfe\x00", "not OpenPose's JSON"),
        ("[" * 100_000, "not OpenPose's JSON"),
        ("[]", "not OpenPose's JSON"),
        ("{}", r"KeyError: 'people'"),
        ('{"people": 3}', "not OpenPose's JSON"),
        ('{"people": [{}]}', "KeyError: 'pose_keypoints_2d'"),
        ('{"people": [{"pose_keypoints_2d": null}]}', "not OpenPose's JSON"),
        ('{"people": [{"pose_keypoints_2d": ["x"]}]}', "not OpenPose's JSON"),
        ('{"people": [{"pose_keypoints_2d": [[1], 2]}]}', "not OpenPose's JSON"),
        (openpose(person(10, joints=17)), "17 joints.*expected.*18 or 25"),
        (openpose(person(10).ravel()[:-1]), "not OpenPose's JSON"),
        (openpose(LATE), "joints that cannot be"),
        (openpose(BELOW), "joints that cannot be"),
        (openpose(SHARES), "shares of the image; expected pixels"),
    ],
)
def test_hostile_json(tmp_path, content, says):
    write(tmp_path, {"a_keypoints.json": content})
    with pytest.raises(UserError, match=says) as caught:
        read_joints(tmp_path, ["a.jpg"])
    assert str(caught.value).startswith(f"{tmp_path / 'a_keypoints.json'}: ")
    assert "\n" not in str(caught.value)


def test_json_that_is_a_folder(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json: cannot be read \(Is a directory\)"):
        read_joints(tmp_path, ["a.jpg"])


GOOD = np.stack([person(10), person(30)])


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"names": ["a", "b"]}, "cannot be read .*joints.*expected an .npz with"),
        ({"names": ["a", "b"], "joints": GOOD[:1]}, r"\(1, 18, 3\).*of shape \(2, 18, 3\)"),
        ({"names": ["a", "b"], "joints": GOOD[:, :17]}, r"shape \(2, 17, 3\)"),
        ({"names": ["a", "b"], "joints": GOOD.astype(str)}, "expected numbers"),
        ({"names": ["a", "b"], "joints": GOOD.astype(object)}, "cannot be read"),
        ({"names": ["a", "b"], "joints": GOOD * np.nan}, "joints that cannot be"),
        ({"names": [["a", "b"]], "joints": GOOD}, r"`names` has shape \(1, 2\)"),
        ({"names": [1, 2], "joints": GOOD}, "expected one row of text"),
        ({"names": ["a", "a"], "joints": GOOD}, "`names` holds 'a' more than once"),
        ({"names": ["A", "b"], "joints": GOOD}, "none of the 1 images; .* like 'a', found 'A'"),
        ({"names": np.zeros(0, str), "joints": GOOD[:0]}, "none of the 1 images"),
    ],
)
def test_hostile_arrays(tmp_path, arrays, says):
    np.savez(tmp_path / "j.npz", **arrays)
    with pytest.raises(UserError, match=says) as caught:
        read_joints(tmp_path / "j.npz", ["a"])
    assert str(caught.value).startswith(f"{tmp_path / 'j.npz'}: ")


def test_arrays_that_are_none(tmp_path):
    np.save(tmp_path / "one.npy", GOOD)
    np.savez(tmp_path / "whole.npz", names=["a", "b"], joints=GOOD)
    cut = (tmp_path / "whole.npz").read_bytes()[:-40]
    write(tmp_path, {"cut.npz": cut, "text.npz": "hello"})
    for name in ("one.npy", "cut.npz", "text.npz"):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_joints(tmp_path / name, ["a"])


def test_a_path_that_is_not_there(tmp_path):
    np.savez(tmp_path / "joints.npz", names=["a", "b"], joints=GOOD)
    with pytest.raises(UserError, match=r"joint\.npz: not found; .*did you mean 'joints\.npz'"):
        read_joints(tmp_path / "joint.npz", ["a"])
    with pytest.raises(UserError, match=r"none of the 1 images; .*/x/a_keypoints\.json"):
        read_joints(tmp_path, ["x/a.jpg"])


def test_scale():
    joints = np.stack([person(10), person(30)]).astype(np.float32)
    expected = joints * [3, 1.5, 1]
    np.testing.assert_allclose(scale(joints, (256, 64), (384, 192)), expected)
    sizes = np.array([[256, 64], [384, 96]])
    expected = joints * [[[3, 1.5, 1]], [[2, 1, 1]]]
    found = scale(joints, sizes, (384, 192))
    np.testing.assert_allclose(found, expected)
    assert found.dtype == np.float32


# ---------------------------------------------------------------------------- completing


def walkers(n, seed=0):
    """The joints of people who walk in all directions, of different sizes and places."""
    rng = np.random.default_rng(seed)
    bodies = np.zeros((n, 18, 3), np.float32)
    for body in bodies:
        points = pose(rng.uniform(0, 6), rng.uniform(0, 360), Build(), 5.0)
        body[:, :2] = points[:, :2] * rng.uniform(60, 120) + rng.uniform(0, 60, 2) + [0, 100]
    bodies[..., 2] = 1
    return bodies


def errors(found, truth, where):
    """Distances of some joints in percent of the body's height."""
    height = np.ptp(truth[..., 1], axis=1, keepdims=True)
    return 100 * (np.linalg.norm((found - truth)[..., :2], axis=2) / height)[where]


def test_a_pose_that_is_known_is_recovered_whatever_its_size_and_place():
    shapes = walkers(3)
    poses = fit_poses(shapes)
    assert len(poses.points) == 3
    np.testing.assert_allclose(poses.points.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(poses.points[..., 1], axis=1), 1, rtol=1e-6)
    truth = shapes * np.float32([2.5, 2.5, 1]) + np.float32([40, -30, 0])
    seen = truth.copy()
    seen[:, 4:] *= np.float32([0, 0, 0.1])  # only nose, neck, right shoulder and elbow
    found, known = complete(seen, poses)
    assert known.all()
    np.testing.assert_allclose(found[..., :2], truth[..., :2], atol=0.1)
    np.testing.assert_array_equal(found[:, :4], truth[:, :4])
    np.testing.assert_array_equal(found[:, 4:, 2], 0)


def fit_loop(body, pose):
    """The least squares of a·p + t by a linear solver, and what they leave."""
    rows, values = [], []
    for (x, y, sure), (px, py) in zip(body.astype(np.float64), pose):
        if sure >= 0.2:
            rows += [[px, 1, 0], [py, 0, 1]]
            values += [x, y]
    solution = np.linalg.lstsq(np.array(rows), np.array(values))[0]
    return solution, np.sum((np.array(rows) @ solution - values) ** 2)


def test_fills_from_the_nearest_pose_by_least_squares():
    poses = fit_poses(walkers(60), seed=1)
    assert poses.points.shape == (8, 18, 2)
    seen = walkers(20, seed=2)
    seen[np.random.default_rng(3).random((20, 18)) < 0.6, 2] = 0.1
    found, known = complete(seen, poses)
    enough = (seen[..., 2] >= 0.2).sum(axis=1) >= 4
    assert 0 < enough.sum() < 20
    np.testing.assert_array_equal(known, enough)
    for i in np.flatnonzero(known):
        fits = [fit_loop(seen[i], pose) for pose in poses.points]
        best = min(range(8), key=lambda k: fits[k][1])
        (a, *shift), _ = fits[best]
        expected = np.where(seen[i, :, 2:] >= 0.2, seen[i, :, :2], a * poses.points[best] + shift)
        np.testing.assert_allclose(found[i, :, :2], expected, atol=1e-3)
    np.testing.assert_array_equal(found[~known], 0)


def test_whole_poses_stay_as_they_are():
    seen = walkers(5)
    found, known = complete(seen, fit_poses(walkers(20, seed=1)))
    np.testing.assert_array_equal(found, seen)
    assert known.all()


def test_without_canonical_poses_only_whole_poses_are_known():
    seen = walkers(3)
    seen[1:, 0, 2] = 0.1
    poses = fit_poses(seen[1:])
    assert poses.points.shape == (0, 18, 2)
    found, known = complete(seen, poses)
    assert known.tolist() == [True, False, False]
    np.testing.assert_array_equal(found, seen * np.float32([1, 0, 0])[:, None, None])


def test_too_few_joints_and_bodies_on_their_heads_are_not_known():
    poses = fit_poses(walkers(20))
    seen = walkers(3, seed=4)
    seen[0, 3:, 2] = 0
    seen[1, 4:, 2] = 0
    seen[2, :, 1] *= -1
    seen[2, 0, 2] = 0
    assert complete(seen, poses)[1].tolist() == [False, True, False]


def test_poses_that_are_points_or_copies():
    same = np.repeat(walkers(1), 5, axis=0)
    flat = same * np.float32([1, 0, 1])
    assert fit_poses(flat).points.shape == (0, 18, 2)
    assert len(fit_poses(same).points) == 1
    on_one_spot = np.ones((1, 18, 3), np.float32)
    on_one_spot[0, 5:, 2] = 0
    assert complete(on_one_spot, fit_poses(same))[1].tolist() == [False]


def test_the_same_seed_gives_the_same_poses():
    bodies = walkers(50)
    first, second = fit_poses(bodies, seed=7), fit_poses(bodies, seed=7)
    np.testing.assert_array_equal(first.points, second.points)


def test_hidden_joints_come_back_near_the_truth(market):
    with np.load(market / "joints.npz") as stored:
        names, truth = stored["names"], stored["joints"]
    whole = (truth[..., 2] == 1).all(axis=1)
    train = np.char.startswith(names, "bounding_box_train")
    poses = fit_poses(truth[train])
    seen = truth[whole & ~train]
    assert len(seen) > 10
    hidden = np.random.default_rng(0).random(seen.shape[:2]) < 0.3
    found, known = complete(np.where(hidden[..., None], 0, seen).astype(np.float32), poses)
    assert known.all()
    wrong = errors(found, seen, hidden)
    one = errors(complete(seen * ~hidden[..., None], fit_poses(truth[train], 1))[0], seen, hidden)
    print(f"{hidden.sum()} joints, median error {np.median(wrong):.2f} % of the height, 90 % below")
    print(f"{np.percentile(wrong, 90):.2f} %; with one pose {np.median(one):.2f} %")
    assert np.median(wrong) < 4
    assert np.median(wrong) < 0.7 * np.median(one)


def test_summary():
    joints = walkers(5)
    joints[1, 0, 2] = 0
    joints[2, 3:, 2] = 0
    joints[3] = 0
    _, known = complete(joints, fit_poses(joints))
    assert summary(joints, known) == (
        "joints: 4 of 5 images have some, 2 all 18; 1 completed from canonical poses, 2 cut into"
        " strips"
    )
    nobody = complete(joints[3:4], CanonicalPoses(np.zeros((0, 18, 2))))[1]
    assert summary(joints[3:4], nobody).startswith("joints: 0 of 1 images have some, 0 all 18; 0 ")
