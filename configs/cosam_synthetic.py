"""COSAM on the synthetic tracklets that the project draws itself: what `make demo-video` runs.

    python -m jaxreid.data.synthetic --video --root=runs/synthetic_video
    python -m jaxreid.main --config=configs/cosam_synthetic.py --workdir=runs/cosam_synthetic

The network, the losses and the protocol are those of `cosam_mars.py`, with ResNet-50. What differs
is there because the run starts from random weights and has minutes on two processor cores: frames
of 96 x 48, smaller batches, and a larger learning rate with a warm-up.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train, choose
from jaxreid.models import cosam


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=cosam.Config(backbone="resnet50", blocks=(4, 5), head="tp"),
        data=Data(
            name="synthetic_video",
            root="runs/synthetic_video",
            image_size=(96, 48),
            enlarge_probability=0.5,
            num_ids=8,
            num_instances=2,
            clip_length=4,
            clip_draw="frame",
        ),
        optim=Optim(name="adam", lr=1e-3, warmup=1, decay_epochs=(16,)),
        train=Train(epochs=20, checkpoint_every=100, log_every=20),
        eval=Eval(clips="all", mars_protocol="query_removed"),
    )
    return choose(config, {}, variant)
