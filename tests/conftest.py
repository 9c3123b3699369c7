import os

import jax
import pytest

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import cosam, duatm
from jaxreid.synthetic.images import Spec, write_market
from jaxreid.synthetic.tracklets import VideoSpec, write_mars

# Most of the tests' time is LLVM's. This leaves out its passes, and none of XLA's own.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
).strip()
# Before anything asks for a device: as many as the largest test needs.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# A missing axis is an error, not an accident that broadcasts.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """The same small programs are compiled by many tests: once is enough, for all workers.

    Where JAX_COMPILATION_CACHE_DIR names a folder, it is kept for the next run of the tests too.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="session")
def market(tmp_path_factory):
    """A small synthetic Market-1501: 10 training persons, 4 test persons, 3 cameras."""
    spec = Spec(
        num_train_ids=10,
        num_test_ids=4,
        cameras=3,
        images_per_camera=2,
        cameras_per_id=(2, 3),
        num_distractors=3,
        num_junk=2,
        height=64,
        width=32,
    )
    return write_market(tmp_path_factory.mktemp("data") / "market", spec, processes=1)


@pytest.fixture(scope="session")
def mars(tmp_path_factory):
    """A small synthetic MARS: 6 training persons, 4 test persons, 2 cameras."""
    spec = VideoSpec(
        num_train_ids=6,
        num_test_ids=4,
        cameras=2,
        tracklets_per_camera=(2, 2),
        frames=(3, 7),
        num_distractors=2,
        num_junk=1,
        height=64,
        width=32,
    )
    return write_mars(tmp_path_factory.mktemp("data") / "mars", spec, processes=1)


@pytest.fixture
def tiny_video(mars):
    """A function that makes the config of a run on tracklets, with a tiny COSAM."""

    def make(**model) -> Config:
        return Config(
            model=cosam.Config(
                backbone="resnet50",
                backbone_layers=(1, 1, 1, 1),
                backbone_width=8,
                reduced=8,
                **model,
            ),
            data=Data(
                name="synthetic_video",
                root=str(mars),
                source="memory",
                image_size=(64, 32),
                enlarge_probability=0.5,
                num_ids=4,
                num_instances=2,
                clip_length=2,
                clip_draw="frame",
            ),
            optim=Optim(name="adam", lr=1e-3),
            train=Train(steps=3, log_every=1, checkpoint_every=100),
            eval=Eval(batch_size=16, query_block=4, gallery_block=16, pictures=3),
        )

    return make


@pytest.fixture
def tiny(market):
    """A function that makes the config of a run that takes a second a step at most."""

    def make(**model) -> Config:
        return Config(
            model=duatm.Config(
                dim=16,
                backbone_layers=(1, 1, 1, 1),
                backbone_growth=4,
                backbone_stem=8,
                **model,
            ),
            data=Data(
                name="synthetic",
                root=str(market),
                source="memory",
                image_size=(64, 32),
                num_ids=4,
                num_instances=2,
            ),
            optim=Optim(lr=0.05),
            train=Train(steps=5, log_every=1, checkpoint_every=100),
            eval=Eval(batch_size=16, query_block=4, gallery_block=16, pictures=3),
        )

    return make
