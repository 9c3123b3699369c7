"""The command, over drawn persons and networks with random weights."""

import csv
import dataclasses
import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreid.calibrate import features_of, main
from jaxreid.data import index
from jaxreid.search import Extractor
from jaxreid.search.__main__ import main as search
from jaxreid.synthetic.images import Spec, write_market
from jaxreid.synthetic.tracklets import VideoSpec, write_mars
from jaxreid.workdir import write_json
from tests.pretrained import osnet_files, writers
from tests.search.conftest import clip_config, make_run, photo_config  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def crowd(tmp_path_factory):
    """40 test persons, each seen by three cameras, as a CSV of each half and one of all."""
    spec = Spec(
        num_train_ids=2,
        num_test_ids=40,
        cameras=3,
        images_per_camera=3,
        cameras_per_id=(3, 3),
        num_distractors=2,
        num_junk=1,
        height=64,
        width=32,
    )
    root = write_market(tmp_path_factory.mktemp("data") / "crowd", spec, processes=1)
    data = index.load("synthetic", root)
    half = np.random.default_rng(0).permutation(np.unique(data.query.pids))[:20]
    for name in ("one", "two", "all"):
        with (root / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "pid", "camid", "split"])
            for split, table in data.splits.items():
                for row in range(table.size):
                    pid = int(table.pids[row])
                    if split != "train" and name != "all" and (pid in half) != (name == "one"):
                        continue
                    pid = data.train_pids[pid] if split == "train" else pid
                    writer.writerow([table.path(row), pid, table.camids[row], split])
    return root


@pytest.fixture
def run_of(photo_config, tmp_path):  # noqa: F811
    return make_run(tmp_path / "run", photo_config)


@pytest.fixture
def calibrate(tmp_path, monkeypatch, capsys):
    """A function that runs the command in an empty folder: its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set by the tests")

    def run(*flags, command=main):
        code = command(list(map(str, flags)))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


WIDE = "--rate=0.05", "--miss=0.05", "--bootstrap=200"


def test_a_run_is_calibrated_and_a_search_answers(calibrate, crowd, run_of, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    data = index.load("synthetic", crowd)
    for row in range(20):
        shutil.copy(data.query.path(row), photos / f"{row}.jpg")
    flags = f"--workdir={run_of}", "--query=photos/3.jpg", "--gallery=photos"
    code, before, _ = calibrate(*flags, command=search)
    assert (code, "answer" in before) == (0, False)

    data_flags = "--name=csv", f"--root={crowd / 'all.csv'}", *WIDE
    code, said, errors = calibrate(f"--workdir={run_of}", *data_flags)
    assert (code, errors) == (0, "")
    assert "warning" not in said
    assert said.endswith(f"written: {run_of}/calibration.json, {run_of}/calibration.png\n")
    tree = json.loads((run_of / "calibration.json").read_text())
    assert tree["network"] == Extractor(run_of).fingerprint
    assert tree["data"]["name"] == "csv"
    assert tree["data"]["persons"] == 40
    assert tree["data"]["fingerprint"] == index.load("csv", crowd / "all.csv").fingerprint()
    rate = tree["false_match_rate"]
    assert 0.04 < rate["value"] <= 0.05
    assert rate["low"] < rate["value"] < rate["high"]
    assert tree["same"] <= tree["nobody"]
    assert f'"same" up to {tree["same"]:.6g}: {rate["value"]:.2%} (95 % of draws: ' in said
    assert tree["open_set"]["at_far"]["0.01"] is None  # of 60 queries
    assert "FAR 1%: too few queries" in said
    with Image.open(run_of / "calibration.png") as image:
        assert image.width > image.height

    code, said, errors = calibrate(*flags, command=search)
    assert (code, errors) == (0, "")
    assert "answers: calibrated on csv (40 persons)" in said
    with (run_of / "search" / "ranked.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        far = float(row["distance"])
        words = "same" if far <= tree["same"] else "unsure" if far <= tree["nobody"] else "nobody"
        assert row["answer"] == words
        assert f" {words} " in next(line for line in said.splitlines() if row["path"] in line)
    page = (run_of / "search" / "ranked.html").read_text()
    assert f"1 · {float(found[0]['distance']):.3f} · {found[0]['answer']}" in page
    assert "calibrated on csv" in page

    # Again it is the same to the last digit, and what was there is replaced.
    before = (run_of / "calibration.json").read_bytes()
    assert calibrate(f"--workdir={run_of}", *data_flags)[0] == 0
    assert (run_of / "calibration.json").read_bytes() == before


def test_a_calibration_of_another_network(calibrate, run_of, market, tmp_path):
    photo = index.load("synthetic", market).query.path(0)
    shutil.copy(photo, tmp_path / "a.jpg")
    flags = f"--workdir={run_of}", "--query=a.jpg", f"--gallery={market}/query"
    rate = {"value": 0.01, "low": 0.0, "high": 0.1}
    tree = {
        "format": "jaxreid calibration 1",
        "network": "another",
        "data": {"name": "csv", "persons": 40},
        "false_match_rate": rate,
        "lost": rate,
        "same": 0.5,
        "nobody": 0.7,
    }
    path = run_of / "calibration.json"
    damaged = {
        "of another network": tree,
        "not a calibration, or damaged (its thresholds are 0.9 and 0.7": {**tree, "same": 0.9},
        "damaged (it does not say that it is a": {"same": 0.5},
        "damaged (": [],
    }
    for words, content in damaged.items():
        write_json(path, content)
        # The run's own is left out, in one line; one that is asked for is an error.
        code, said, errors = calibrate(*flags, command=search)
        assert (code, errors) == (0, "")
        [note] = [line for line in said.splitlines() if line.startswith("note: ")]
        assert note.startswith(f"note: no answers: {path}: ")
        assert words in note
        assert "answers:" not in said.replace(note, "")
        code, _, errors = calibrate(*flags, f"--calibration={path}", command=search)
        assert code == 2
        assert words in errors
        assert errors.count("\n") == 1
    code, _, errors = calibrate(*flags, "--calibration=none.json", command=search)
    assert (code, errors.count("\n")) == (2, 1)
    assert "none.json: not a calibration, or damaged (No such file or directory)" in errors


@pytest.mark.slow
def test_the_wanted_rate_is_met_on_drawn_persons_that_were_held_out(calibrate, crowd, run_of):
    """A tiny network with random weights, 20 persons, and 20 others of the same cameras."""
    rates = {}
    for one, other in (("one", "two"), ("two", "one")):
        data = index.load("csv", crowd / f"{other}.csv")
        flags = f"--workdir={run_of}", "--name=csv", f"--root={crowd / one}.csv", "--miss=0.05"
        query, gallery = data.query.tracks(), data.gallery.tracks()
        extractor = Extractor(run_of)
        feats = [features_of(extractor, data, side) for side in ("query", "gallery")]
        distmat = np.concatenate(list(extractor.distances(*feats)))
        impostor = distmat[query.pids[:, None] != gallery.pids]
        for rate in (0.01, 0.05):
            assert calibrate(*flags, f"--rate={rate}")[0] == 0
            same = json.loads((run_of / "calibration.json").read_text())["same"]
            rates[one, rate] = np.mean(impostor <= same)
    # By half of the wanted rate: at 1 %, 0.5 points.
    assert rates == pytest.approx({key: key[1] for key in rates}, rel=0.5)


def test_tracklets(calibrate, clip_config, photo_config, tmp_path):  # noqa: F811
    sizes = {"height": 64, "width": 32, "num_distractors": 2, "num_junk": 1, "frames": (3, 5)}
    spec = VideoSpec(
        num_train_ids=2, num_test_ids=12, cameras=2, tracklets_per_camera=(2, 2), **sizes
    )
    root = write_mars(tmp_path / "walks", spec, processes=1)
    run = make_run(tmp_path / "run", clip_config)
    flags = f"--workdir={run}", "--name=synthetic_video", f"--root={root}"
    code, said, errors = calibrate(*flags, "--rate=0.1", "--miss=0.3", "--bootstrap=50")
    assert (code, errors) == (0, "")
    tree = json.loads((run / "calibration.json").read_text())
    assert tree["data"]["persons"] == 12
    assert "12 persons\n" in said
    data = index.load("synthetic_video", root)
    query, gallery = data.query.tracks(), data.gallery.tracks()
    two = (query.pids[:, None] != gallery.pids) & (gallery.pids > 0)
    assert tree["data"]["impostor_pairs"] == two.sum()
    # Photographs are refused by it, and tracklets by others.
    code, _, errors = calibrate(
        *(f"--workdir={make_run(tmp_path / 'photos', photo_config)}", *flags[1:]),
        *("--rate=0.1", "--miss=0.3"),
    )
    assert code == 2
    assert errors.endswith("synthetic_video: holds tracklets; this network compares photographs\n")


def test_data_of_the_training_is_said(calibrate, photo_config, crowd, tmp_path):  # noqa: F811
    config = dataclasses.replace(
        photo_config, data=dataclasses.replace(photo_config.data, root=str(crowd), num_ids=2)
    )
    flags = f"--workdir={make_run(tmp_path / 'own', config)}", "--name=synthetic"
    code, said, _ = calibrate(*flags, f"--root={crowd}", *WIDE)
    assert code == 0
    assert said.count("warning: ") == 1
    assert "warning: synthetic is what the run was trained on: these are other persons" in said
    # And a CSV whose training persons are among the queries too.
    table = tmp_path / "shared.csv"
    rows = (crowd / "all.csv").read_text().splitlines()
    trained, tested = (
        next(row.split(",")[1] for row in rows if row.endswith(end)) for end in (",train", ",query")
    )
    table.write_text("\n".join(row.replace(f",{trained},", f",{tested},") for row in rows))
    config.data.name, config.data.root = "csv", str(table)
    run = make_run(tmp_path / "shared", config)
    flags = f"--workdir={run}", "--name=csv", f"--root={table}"
    code, said, errors = calibrate(*flags, *WIDE)
    assert (code, errors) == (0, "")
    assert "warning: csv: 1 persons were trained on: too low rates" in said
    # The table has grown since: its fingerprint is another, and pictures that it had are known.
    table.write_text("\n".join(rows).replace(",query", ",train", 8))
    run = make_run(tmp_path / "earlier", config)
    table_of_today = tmp_path / "today.csv"
    shutil.copy(crowd / "all.csv", table_of_today)
    code, said, _ = calibrate(f"--workdir={run}", "--name=csv", f"--root={table_of_today}", *WIDE)
    assert code == 0
    assert "warning: csv: 8 pictures were trained on: too low rates" in said
    table.unlink()
    _, said, _ = calibrate(f"--workdir={run}", "--name=csv", f"--root={table_of_today}", *WIDE)
    assert f"warning: {table}: the data of the run is not there any more: if it was" in said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "query row 0 (pid "),
        (1.5, "more than --rate=0.05 of the pairs of two persons have the smallest distance, 1.5"),
    ],
)
def test_distances_that_tell_nobody_apart(value, words, calibrate, crowd, run_of, monkeypatch):
    def distances(self, query, gallery):
        shape = tuple(len(jax.tree.leaves(feats)[0]) for feats in (query, gallery))
        yield np.full(shape, value, np.float32)

    monkeypatch.setattr(Extractor, "distances", distances)
    flags = f"--workdir={run_of}", "--name=csv", f"--root={crowd / 'all.csv'}"
    code, _, errors = calibrate(*flags, *WIDE)
    assert (code, errors.count("\n")) == (2, 1)
    assert words in errors
    assert not (run_of / "calibration.json").exists()


def test_a_full_disk_leaves_what_was_there(calibrate, crowd, run_of, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (run_of / "calibration.json").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    flags = f"--workdir={run_of}", "--name=csv", f"--root={crowd / 'all.csv'}"
    code, _, errors = calibrate(*flags, *WIDE)
    assert code == 2
    assert errors == (
        f"jaxreid: error: --out={run_of}: cannot write there (No space left on device)\n"
    )
    assert (run_of / "calibration.json").read_text() == "before"


@pytest.mark.slow
def test_a_network_that_others_trained(calibrate, crowd, tmp_path):
    weights = writers.write_zip(tmp_path / "osnet.pth", osnet_files.arrays())
    everyone = "--name=csv", f"--root={crowd / 'all.csv'}", *WIDE
    code, said, errors = calibrate(f"--weights={weights}", *everyone, "--out=found")
    assert (code, errors) == (0, "")
    assert f"warning: {weights}: nothing says on whom this network was trained: if" in said
    shutil.copy(index.load("synthetic", crowd).query.path(0), tmp_path / "a.jpg")
    flags = f"--weights={weights}", "--query=a.jpg", f"--gallery={crowd}/query"
    assert "answers: " not in calibrate(*flags, command=search)[1]
    code, said, _ = calibrate(*flags, "--calibration=found/calibration.json", command=search)
    assert code == 0
    assert "answers: calibrated on csv (40 persons)" in said


def test_bad_input_is_one_line(calibrate, crowd, market, run_of, tmp_path):
    everyone = "--name=csv", f"--root={crowd / 'all.csv'}"
    alone = tmp_path / "alone.csv"
    lines = (crowd / "all.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines]
    alone.write_text(
        "\n".join(",".join(row) for row in [header, *[[a, b, "1", d] for a, b, _, d in rows]])
    )
    cases = [
        ((*everyone, "--rate=0"), "--rate=0.0: expected a share above 0 and below 1"),
        ((*everyone, "--rate=1"), "--rate=1.0: expected a share above 0 and below 1"),
        ((*everyone, "--miss=nan"), "--miss=nan: expected a share above 0 and below 1"),
        ((*everyone, "--bootstrap=0"), "--bootstrap=0: expected 1 or more"),
        ((*everyone, *WIDE, "--batch_size=0"), "--batch_size=0: expected 1 or more"),
        (
            (*everyone, "--rate=0.0001"),
            "pairs of two persons for --rate=0.0001; expected 100,000 or more",
        ),
        (
            (*everyone, "--miss=0.001"),
            "pairs of one person for --miss=0.001; expected 10,000 or more",
        ),
        (("--name=csv", f"--root={alone}"), "no pair of one person: none of the "),
        (("--name=market", f"--root={market}"), "'market' is not a data set; there are"),
        (("--name=synthetic", f"--root={market}"), "4 persons that two cameras saw; expected 10"),
    ]
    for flags, words in cases:
        code, _, errors = calibrate(f"--workdir={run_of}", *flags)
        assert code == 2, flags
        assert words in errors
        assert errors.count("\n") == 1
    code, _, errors = calibrate("--weights=x.pth", *everyone)
    assert (code, "--out is not set" in errors) == (2, True)
