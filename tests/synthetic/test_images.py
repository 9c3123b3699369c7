import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxreid.errors import UserError
from jaxreid.synthetic import images
from jaxreid.synthetic.images import Build, Difficulty, Person, Spec, write_market

TINY = Spec(
    seed=3,
    num_train_ids=3,
    num_test_ids=3,
    cameras=3,
    images_per_camera=2,
    cameras_per_id=(2, 3),
    num_distractors=5,
    num_junk=4,
    height=64,
    width=32,
)
NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return write_market(tmp_path_factory.mktemp("synthetic") / "market", TINY, processes=1)


def labels(root, folder):
    """(pid, camid) of every file, in the order of the names."""
    matches = [NAME.fullmatch(path.name) for path in sorted((root / folder).iterdir())]
    return [(int(match[1]), int(match[2])) for match in matches]


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout_and_names(market):
    assert sorted(p.name for p in market.iterdir()) == [
        "bounding_box_test",
        "bounding_box_train",
        "joints.npz",
        "query",
        "spec.json",
    ]
    for folder in FOLDERS:
        for path in (market / folder).iterdir():
            assert NAME.fullmatch(path.name), path.name
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 64))
    assert not [p for p in market.parent.iterdir() if p.name.startswith(".")]


def test_identities_and_counts(market):
    train, query, gallery = (labels(market, folder) for folder in FOLDERS)
    train_pids, test_pids = {pid for pid, _ in train}, {pid for pid, _ in query}
    assert len(train_pids) == len(test_pids) == 3
    assert not train_pids & test_pids
    assert min(train_pids | test_pids) >= 2
    assert {pid for pid, _ in gallery} == test_pids | {0, -1}
    assert [pid for pid, _ in gallery].count(0) == 5
    assert [pid for pid, _ in gallery].count(-1) == 4
    for pid in train_pids:
        seen = [camid for p, camid in train if p == pid]
        assert len(set(seen)) in (2, 3)
        assert len(seen) == 2 * len(set(seen))


def test_every_query_has_a_match_in_another_camera(market):
    query, gallery = labels(market, "query"), labels(market, "bounding_box_test")
    assert len(query) == len(set(query))
    assert set(query) == {(pid, camid) for pid, camid in gallery if pid > 0}
    for pid, camid in query:
        assert any(p == pid and c != camid for p, c in gallery)


def test_joints(market):
    stored = np.load(market / "joints.npz")
    names, joints = stored["names"], stored["joints"]
    assert names.tolist() == sorted(
        f"{f}/{p.name}" for f in FOLDERS for p in (market / f).iterdir()
    )
    assert joints.shape == (len(names), 18, 3)
    assert joints.dtype == np.float32
    x, y, confidence = np.moveaxis(joints, -1, 0)
    assert set(np.unique(confidence)) == {0, 1}
    seen = confidence == 1
    assert ((x[seen] >= 0) & (x[seen] < 32) & (y[seen] >= 0) & (y[seen] < 64)).all()
    # Heads are above feet wherever both are seen, and most people are seen whole.
    whole = seen[:, 0] & seen[:, 10]
    assert whole.mean() > 0.5
    assert (y[whole, 0] < y[whole, 10]).all()


def test_files_do_not_depend_on_the_number_of_processes(market, tmp_path):
    assert contents(write_market(tmp_path / "again", TINY, processes=2)) == contents(market)


def test_seeds_and_difficulty_change_pictures(tmp_path, market):
    other = write_market(tmp_path / "other", dataclasses.replace(TINY, seed=4), processes=1)
    assert {pid for pid, _ in labels(other, "query")} != {pid for pid, _ in labels(market, "query")}
    easy = dataclasses.replace(
        TINY, difficulty=Difficulty(cast=0.0, light=0.0, occlusion=0.0, blur=0.0, noise=0.0)
    )
    ours, theirs = contents(market), contents(write_market(tmp_path / "easy", easy, processes=1))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours)


def test_second_call_writes_nothing(market):
    before = {path: path.stat().st_mtime_ns for path in market.rglob("*")}
    assert write_market(str(market), TINY) == market
    assert {path: path.stat().st_mtime_ns for path in market.rglob("*")} == before


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (write_market(tmp_path / "empty", TINY, processes=1) / "joints.npz").is_file()


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something other than a synthetic data set"):
        write_market(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="holds something other"):
        write_market(tmp_path / "thesis.tex", TINY)


def test_another_spec_is_refused(market):
    before = contents(market)
    with pytest.raises(UserError, match="another spec"):
        write_market(market, dataclasses.replace(TINY, num_junk=5))
    assert contents(market) == before


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(images, "render", broken)
    with pytest.raises(OSError, match="disk full"):
        write_market(tmp_path / "market", TINY, processes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_per_camera": 1}, r"Spec\.images_per_camera must be at least 2"),
        ({"cameras_per_id": (1, 3)}, r"Spec\.cameras_per_id must be .* cameras = 3, not \(1, 3\)"),
        ({"cameras_per_id": (2, 4)}, r"Spec\.cameras_per_id"),
        ({"cameras": 10}, r"Spec\.cameras must lie in 2\.\.9, not 10"),
        ({"num_junk": -1}, r"Spec\.num_junk must not be negative, not -1"),
    ],
)
def test_impossible_specs(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        write_market(tmp_path / "never", dataclasses.replace(TINY, **change))
    assert list(tmp_path.iterdir()) == []


def test_boxes_however_badly_cut_can_be_drawn():
    wild = Difficulty(cast=0.6, light=1.2, occlusion=1.0, jitter=0.5, blur=4.0, noise=40.0)
    spec = dataclasses.replace(TINY, height=32, width=16, num_junk=120, difficulty=wild)
    cameras = images.cameras(spec)
    for shot in images.plan(spec):
        pixels, joints = images.render(shot, cameras[shot.camid - 1], spec)
        assert pixels.shape == (32, 16, 3)
        assert np.isfinite(joints).all()


def test_spec_json_describes_the_spec(market):
    stored = json.loads((market / "spec.json").read_text())
    assert stored["num_test_ids"] == 3
    assert stored["difficulty"]["occlusion"] == TINY.difficulty.occlusion


def test_twins_differ_in_two_attributes():
    rng = np.random.default_rng(0)
    person = Person.sample(rng)
    for _ in range(20):
        twin = person.twin(rng)
        fields = [f.name for f in dataclasses.fields(Person) if f.name != "build"]
        assert sum(getattr(person, name) != getattr(twin, name) for name in fields) == 2


def test_pose_by_hand():
    build = Build(legs=0.5, shoulders=0.11)
    front, back = images.pose(0.3, 0.0, build), images.pose(0.3, 180.0, build)
    # Seen from the front, the person's left is on the image's right; from behind, on its left.
    assert front[5, 0] == pytest.approx(0.11)
    assert back[5, 0] == pytest.approx(-0.11)
    np.testing.assert_allclose(front[:, 0], -back[:, 0], atol=1e-12)
    np.testing.assert_allclose(front[:, 1], back[:, 1], atol=1e-12)
    # From the side, the nose leads in the direction of the walk.
    assert images.pose(0.3, 90.0, build)[0, 0] == pytest.approx(0.075)
    assert images.pose(0.3, 270.0, build)[0, 0] == pytest.approx(-0.075)


def test_gait_repeats_and_keeps_a_foot_on_the_ground():
    build = Build()
    for phase in np.linspace(0, 2 * math.pi, 9):
        joints = images.body(float(phase), build)
        assert joints[[10, 13], 1].min() == pytest.approx(0.045)
        again = images.body(float(phase) + 2 * math.pi, build)
        np.testing.assert_allclose(joints, again, atol=1e-12)
        # Half a stride later, left and right have changed places.
        later = images.body(float(phase) + math.pi, build)
        np.testing.assert_allclose(joints[8:11, 1:], later[11:14, 1:], atol=1e-12)


def test_command_line_needs_neither_jax_nor_tensorflow(tmp_path):
    program = (
        "import sys; from jaxreid.synthetic.__main__ import main; main(sys.argv[1:]);"
        "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"
    )
    flags = ["--num-train-ids=1", "--num-test-ids=1", "--num-distractors=0", "--num-junk=0"]
    command = [sys.executable, "-c", program, f"--root={tmp_path / 'set'}", *flags, "--jitter=0.1"]
    root = Path(__file__).parents[2]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(tmp_path / "set")
    stored = json.loads((tmp_path / "set" / "spec.json").read_text())
    assert stored["num_train_ids"] == 1
    assert stored["difficulty"] == {**vars(Difficulty()), "jitter": 0.1}


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (Difficulty(jitter=-0.1), "Difficulty.jitter must be 0 or more, not -0.1"),
        (Difficulty(occlusion=2.0), "Difficulty.occlusion must be a probability, not 2.0"),
        (Difficulty(noise=math.nan), "Difficulty.noise must be 0 or more, not nan"),
    ],
)
def test_impossible_difficulties(tmp_path, wrong, line):
    with pytest.raises(UserError) as error:
        images.write_market(tmp_path / "set", dataclasses.replace(TINY, difficulty=wrong))
    assert str(error.value) == line
