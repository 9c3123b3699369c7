import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxreid.data import index
from jaxreid.errors import UserError
from jaxreid.synthetic import images, tracklets
from jaxreid.synthetic.pedestrian import Build, Person, body
from jaxreid.synthetic.scene import Difficulty
from jaxreid.synthetic.tracklets import Tracklet, VideoSpec, read_silhouettes, write_mars

TINY = VideoSpec(
    seed=3,
    num_train_ids=3,
    num_test_ids=4,
    cameras=3,
    cameras_per_id=(2, 3),
    frames=(4, 6),
    short=0.2,
    num_distractors=4,
    num_junk=2,
    height=64,
    width=32,
)
NAME = re.compile(r"(00-1|\d{4})C(\d)T(\d{4})F(\d{3})\.jpg")


@pytest.fixture(scope="module")
def mars(tmp_path_factory):
    return write_mars(tmp_path_factory.mktemp("video") / "mars", TINY, processes=1)


def table(root, file, key):
    return scipy.io.loadmat(root / "info" / f"{file}.mat")[key].astype(int)


def listed(root, split):
    return (root / "info" / f"{split}_name.txt").read_text().splitlines()


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout(mars):
    assert sorted(p.name for p in mars.iterdir()) == [
        "bbox_test",
        "bbox_train",
        "info",
        "joints.npz",
        "silhouettes.npz",
        "spec.json",
    ]
    assert sorted(p.name for p in (mars / "info").iterdir()) == [
        "query_IDX.mat",
        "test_name.txt",
        "tracks_test_info.mat",
        "tracks_train_info.mat",
        "train_name.txt",
    ]
    for split in ("train", "test"):
        files = sorted((mars / f"bbox_{split}").glob("*/*"))
        assert [path.name for path in files] == listed(mars, split)
        for path in files:
            assert NAME.fullmatch(path.name)
            assert path.parent.name == path.name[:4]
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 64))
    train, test = ({p.name for p in (mars / f"bbox_{s}").iterdir()} for s in ("train", "test"))
    assert len(train) == 3
    assert len(test) == 4 + 2
    assert {"00-1", "0000"} <= test
    assert not train & test


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_are_the_tracklets_of_the_names(mars, split):
    names, rows = listed(mars, split), table(mars, f"tracks_{split}_info", f"track_{split}_info")
    expected, start = [], 1
    for i, name in enumerate(names, start=1):
        pid, camid, _, frame = NAME.fullmatch(name).groups()
        assert int(frame) == i - start + 1
        if i == len(names) or names[i][:11] != name[:11]:
            expected.append([start, i, -1 if pid == "00-1" else int(pid), int(camid)])
            start = i + 1
    assert rows.tolist() == expected
    lengths = rows[:, 1] - rows[:, 0] + 1
    assert set(lengths) <= {1, 2, 3, 4, 5, 6}
    assert lengths.max() > 3


def test_queries(mars):
    rows = table(mars, "tracks_test_info", "track_test_info")
    query = table(mars, "query_IDX", "query_IDX")
    assert query.shape == (1, len(set(query.ravel())))
    pids, camids = rows[query.ravel() - 1, 2:].T
    # One for each person and camera, and a match in another camera for each.
    pairs = {(p, c) for p, c in rows[:, 2:].tolist() if p > 0}
    assert sorted(zip(pids.tolist(), camids.tolist())) == sorted(pairs)
    for pid, camid in pairs:
        assert ((rows[:, 2] == pid) & (rows[:, 3] != camid)).any()
    assert (rows[:, 2] == 0).sum() == 4
    assert (rows[:, 2] == -1).sum() == 2


def test_joints_and_silhouettes(mars):
    names, masks = read_silhouettes(mars)
    stored = np.load(mars / "joints.npz")
    files = [f"bbox_{s}/{n[:4]}/{n}" for s in ("train", "test") for n in listed(mars, s)]
    assert names.tolist() == stored["names"].tolist() == files
    assert masks.shape == (len(names), 64, 32)
    joints = stored["joints"]
    assert joints.shape == (len(names), 18, 3)
    assert set(np.unique(joints[..., 2])) == {0, 1}
    which, kind = np.nonzero(joints[..., 2])
    x, y, _ = joints[which, kind].astype(int).T
    inside = masks[which, y, x]
    assert inside.mean() > 0.95  # a nose may stick out by a pixel
    assert inside[(kind >= 1) & (kind <= 13)].mean() > 0.99
    assert 0.1 < masks.mean() < 0.4
    # Where nobody is drawn, there is no joint and no silhouette.
    empty = (joints == 0).all(axis=(1, 2))
    assert not masks[empty].any()


def film(spec, person=None, length=8, pid=7):
    """One tracklet in the second camera, drawn."""
    person = person or Person.sample(np.random.default_rng(0))
    shot = Tracklet("bbox_test", person, pid, 2, 1, length)
    return tracklets.render(shot, tracklets.cameras(spec)[1], spec)


CALM = dataclasses.replace(
    TINY, bad_boxes=0.0, difficulty=Difficulty(occlusion=0.0, jitter=0.0, noise=0.0)
)


def test_the_silhouette_is_where_the_person_is_painted():
    # The same walk, by somebody in other clothes: what changes lies under the silhouette.
    red = Person.sample(np.random.default_rng(0))
    red = dataclasses.replace(red, pattern="plain", upper=(220, 20, 20))
    first, second = film(CALM, red), film(CALM, dataclasses.replace(red, upper=(20, 20, 220)))
    np.testing.assert_array_equal(first.silhouettes, second.silhouettes)
    change = np.abs(first.images.astype(int) - second.images).sum(axis=-1) > 150
    assert change.sum() > 500
    assert first.silhouettes[change].mean() > 0.97


def test_what_passes_in_front_is_cut_out_of_the_silhouette():
    rough = dataclasses.replace(
        CALM, difficulty=dataclasses.replace(CALM.difficulty, occlusion=1.0)
    )
    clear, hidden = film(CALM, length=16), film(rough, length=16)
    assert not (hidden.silhouettes & ~clear.silhouettes).any()
    shares = hidden.silhouettes.sum(axis=(1, 2)) / clear.silhouettes.sum(axis=(1, 2))
    assert shares.min() < 0.8
    assert shares.max() > shares.min() + 0.15  # it comes and goes
    np.testing.assert_array_equal(clear.joints[..., :2], hidden.joints[..., :2])
    assert hidden.joints[..., 2].sum() < clear.joints[..., 2].sum()


def test_the_gait_goes_on_from_frame_to_frame():
    joints = film(CALM, length=30).joints[..., :2]
    ankles = joints[:, 10] - joints[:, 13]
    steps = np.abs(np.diff(joints, axis=0)).max(axis=(1, 2))
    assert steps.max() < 12  # of 64 pixels: nothing jumps
    assert np.ptp(np.linalg.norm(ankles, axis=1)) > 4  # the feet part and meet


@pytest.mark.parametrize("stride", [15.0, 30.0])
def test_the_place_moves_as_far_as_the_feet_step(stride):
    build = Build(stride=stride)
    # In a stride of 2 pi, each foot is put forward by the distance between the feet, once.
    phases = np.linspace(0, 2 * math.pi, 200)
    apart = [np.ptp(body(float(phase), build)[[10, 13], 2]) for phase in phases]
    walked = 2 * math.pi * tracklets._reach(build)
    assert walked == pytest.approx(2 * max(apart), rel=0.1)


def test_a_tracklet_may_have_one_frame():
    one = film(TINY, length=1)
    assert one.images.shape == (1, 64, 32, 3)
    assert one.silhouettes.any()
    spec = dataclasses.replace(TINY, short=1.0)
    lengths = [tracklet.length for tracklet in tracklets.plan(spec)]
    assert set(lengths) == {1, 2, 3}


def test_long_tracklets_and_wild_boxes_can_be_drawn():
    wild = Difficulty(cast=0.6, light=1.2, occlusion=1.0, jitter=0.5, blur=4.0, noise=40.0)
    spec = dataclasses.replace(TINY, height=32, width=16, bad_boxes=0.5, difficulty=wild)
    for pid in (-1, 9):
        drawn = film(spec, length=60, pid=pid)
        assert drawn.images.shape == (60, 32, 16, 3)
        assert np.isfinite(drawn.joints).all()


def test_files_do_not_depend_on_the_number_of_processes(mars, tmp_path):
    assert contents(write_mars(tmp_path / "again", TINY, processes=2)) == contents(mars)


def test_seeds_change_pictures():
    other = dataclasses.replace(TINY, seed=4)
    pids, others = ({t.pid for t in tracklets.plan(spec)} for spec in (TINY, other))
    assert pids & others == {-1, 0}
    assert (film(TINY).images != film(other).images).mean() > 0.5


def test_the_parser_of_mars_reads_it(mars):
    data = index.load("synthetic_video", mars)
    rows = table(mars, "tracks_test_info", "track_test_info")
    tracks = len(table(mars, "tracks_train_info", "track_train_info"))
    queries = table(mars, "query_IDX", "query_IDX").size
    assert data.counts == (tracks, 3, queries, 4, (rows[:, 2] >= 0).sum())
    assert data.junk == 2


def test_second_call_writes_nothing(mars):
    before = {path: path.stat().st_mtime_ns for path in mars.rglob("*")}
    assert write_mars(str(mars), TINY) == mars
    assert {path: path.stat().st_mtime_ns for path in mars.rglob("*")} == before


def test_other_sets_are_refused(mars):
    before = contents(mars)
    with pytest.raises(UserError, match="another spec"):
        write_mars(mars, dataclasses.replace(TINY, short=0.3))
    with pytest.raises(UserError, match="another spec"):
        images.write_market(mars)
    assert contents(mars) == before


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tracklets, "render", broken)
    with pytest.raises(OSError, match="disk full"):
        write_mars(tmp_path / "mars", TINY, processes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": (0, 4)}, r"VideoSpec\.frames must be .* 1 <= shortest .*, not \(0, 4\)"),
        ({"frames": (4, 1000)}, r"VideoSpec\.frames must be .* longest <= 999, not \(4, 1000\)"),
        ({"tracklets_per_camera": (2, 1)}, r"VideoSpec\.tracklets_per_camera must be"),
        ({"cameras_per_id": (1, 2)}, r"VideoSpec\.cameras_per_id must be"),
        ({"short": 1.5}, r"VideoSpec\.short must lie in 0\.\.1, not 1\.5"),
        ({"cameras": 1}, r"VideoSpec\.cameras must lie in 2\.\.9, not 1"),
    ],
)
def test_impossible_specs(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        write_mars(tmp_path / "never", dataclasses.replace(TINY, **change))
    assert list(tmp_path.iterdir()) == []


def test_impossible_processes(tmp_path):
    with pytest.raises(UserError, match="processes must be at least 1, not 0"):
        write_mars(tmp_path / "never", TINY, processes=0)
    assert list(tmp_path.iterdir()) == []


def test_silhouettes_that_are_missing(tmp_path):
    with pytest.raises(UserError, match=r"silhouettes\.npz: not found; .* writes it"):
        read_silhouettes(tmp_path)


def test_command_line(tmp_path):
    flags = ["--num-train-ids=1", "--num-test-ids=1", "--num-distractors=0", "--num-junk=0"]
    command = [sys.executable, "-m", "jaxreid.synthetic", "--video", *flags]
    command += [f"--root={tmp_path / 'set'}", "--height=64", "--width=32"]
    root = Path(__file__).parents[2]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(tmp_path / "set")
    assert len(table(tmp_path / "set", "tracks_test_info", "track_test_info")) >= 2
