"""Training persons that are held out: who they are, and that a run is scored on them."""

import json

import numpy as np
import pytest

from jaxreid.config import Data
from jaxreid.data import index
from jaxreid.data.sources import open_source
from jaxreid.data.validation import hold_out
from jaxreid.errors import UserError
from jaxreid.main import run


@pytest.fixture(params=["synthetic", "synthetic_video"])
def data(request, market, mars):
    return index.load(request.param, market if request.param == "synthetic" else mars)


def test_persons_are_trained_on_or_scored(data):
    held, rows = hold_out(data, 0.3)
    number = round(0.3 * data.num_ids)
    scored = np.unique(held.gallery.pids)
    assert (held.num_ids, len(scored)) == (data.num_ids - number, number)
    assert set(held.train_pids) | set(scored) == set(data.train_pids)
    assert not set(held.train_pids) & set(scored)
    assert sorted(set(held.train.pids)) == list(range(held.num_ids))
    # Each row keeps its file, its person and its camera.
    for split, table in held.splits.items():
        before = data.train.take(rows[split])
        np.testing.assert_array_equal(table.paths, before.paths)
        np.testing.assert_array_equal(table.camids, before.camids)
        pids = held.train_pids[table.pids] if split == "train" else table.pids
        np.testing.assert_array_equal(pids, data.train_pids[before.pids])
    together = np.concatenate([rows["train"], rows["gallery"]])
    assert sorted(together) == list(range(data.train.size))
    # A whole tracklet of each person and camera is a query, and the gallery has it, too.
    query, gallery = held.query.tracks(), held.gallery.tracks()
    pairs = list(zip(query.pids, query.camids))
    assert sorted(pairs) == sorted(set(zip(gallery.pids, gallery.camids)))
    lengths = dict(zip(gallery.ids, gallery.length))
    assert all(lengths[of] == length for of, length in zip(query.ids, query.length))
    assert held.expected is None
    assert "training persons, which are held out" in index.warnings(held)[0]


def test_the_same_persons_are_held_out_every_time(data):
    once, again = (hold_out(data, 0.3).data for _ in range(2))
    assert once.fingerprint() == again.fingerprint() != data.fingerprint()


@pytest.mark.parametrize("share", [0.05, 0.95])
def test_too_few_persons_on_either_side(data, share):
    with pytest.raises(UserError, match=rf"config\.data\.validation={share}: holds out \d+ of"):
        hold_out(data, share)


def test_every_source_reads_the_rows_of_the_held_out(market, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from jaxreid.data import builders

    builders.prepare(index.load("synthetic", market), tmp_path)
    roots = {"memory": market, "files": market, "tfds": tmp_path}
    found = {}
    for source, root in roots.items():
        opened = open_source(Data("synthetic", str(root), source, validation=0.3))
        rows = {split: np.arange(table.size) for split, table in opened.data.splits.items()}
        found[source] = {s: next(opened.images(s, [rows[s]], (64, 32))) for s in rows}
    for source in ("files", "tfds"):
        for split, images in found["memory"].items():
            np.testing.assert_array_equal(found[source][split], images)


@pytest.mark.slow
def test_a_run_is_scored_on_the_held_out(tiny, tmp_path):
    config = tiny()
    config.data.validation, config.train.steps = 0.3, 1
    config.paper, config.paper_source = {"rank1": 0.9}, "Table 1"
    scores = run(config, tmp_path / "run")
    held = open_source(config.data).data
    assert scores["num_valid"] <= held.query.size
    assert "which are held out" in scores["notes"]
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["paper"], written["num_ids"]) == ({}, held.num_ids)
