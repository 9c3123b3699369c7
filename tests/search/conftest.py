import csv

import jax
import pytest

from jaxreid import sharding
from jaxreid.checkpoint import Checkpoints
from jaxreid.config import Config, Data, Eval
from jaxreid.data.sources import open_source
from jaxreid.search import Extractor
from jaxreid.train import init_state
from jaxreid.workdir import claim_workdir
from tests.networks import MODELS


def make_run(workdir, config):
    """A run's folder, as a run leaves it; the weights are random."""
    source = open_source(config.data)
    state = init_state(config, source, sharding.make_mesh(jax.devices()[:1]))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, state)
    claim_workdir(config, workdir, source.data.fingerprint(), source.data.num_ids)
    return workdir


@pytest.fixture(scope="session")
def photo_config(market):
    return Config(
        model=MODELS["duatm"],
        data=Data(
            name="synthetic",
            root=str(market),
            source="memory",
            image_size=(64, 32),
            num_ids=4,
            num_instances=2,
        ),
        eval=Eval(batch_size=8, query_block=4, gallery_block=8),
    )


@pytest.fixture(scope="session")
def clip_config(mars):
    return Config(
        model=MODELS["jst-rnn"],
        data=Data(
            name="synthetic_video",
            root=str(mars),
            source="memory",
            image_size=(72, 72),
            num_ids=4,
            num_instances=2,
            clip_length=2,
        ),
        eval=Eval(batch_size=8, query_block=4, gallery_block=8),
    )


@pytest.fixture(scope="session")
def photo_run(photo_config, tmp_path_factory):
    """Of a network that compares photographs, by a distance of its own."""
    return make_run(tmp_path_factory.mktemp("runs") / "photos", photo_config)


@pytest.fixture(scope="session")
def clip_run(clip_config, tmp_path_factory):
    """Of a network that compares tracklets, by a distance of its own."""
    return make_run(tmp_path_factory.mktemp("runs") / "clips", clip_config)


@pytest.fixture(scope="session")
def of_photos(photo_run):
    return Extractor(photo_run)


@pytest.fixture(scope="session")
def of_clips(clip_run):
    return Extractor(clip_run)


@pytest.fixture(scope="session")
def clip_table(clip_config, tmp_path_factory):
    """A CSV of the frames of all gallery tracklets, in another order."""
    index = open_source(clip_config.data).data.gallery
    path = tmp_path_factory.mktemp("tables") / "gallery.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "tracklet", "frame", "pid"])
        for track in index.tracklets[index.tracks().first].tolist():
            rows = [row for row in range(index.size) if index.tracklets[row] == track]
            for row in reversed(rows):
                writer.writerow([index.path(row), track, row, index.pids[row]])
    return path
