"""COSAM on the synthetic tracklets that the project draws itself: what `make demo-video` runs.

    python -m jaxreid.synthetic --video --root=runs/synthetic_video
    python -m jaxreid.main --config=configs/cosam_synthetic.py --workdir=runs/cosam_synthetic

The network, the losses and the protocol are those of `cosam_mars.py`, with ResNet-50. What differs
is there because the run starts from random weights and has minutes on two processor cores: frames
of 96 x 48, clips of two frames, smaller batches, and a larger learning rate with a warm-up. The
queries stay in the gallery, as MARS's authors score it: without them half would have no match.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import cosam
from jaxreid.variants import choose


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
            clip_length=2,
            clip_draw="frame",
        ),
        optim=Optim(name="adam", lr=1e-3, weight_decay=5e-4, warmup=2, decay_epochs=(34,)),
        train=Train(epochs=40, checkpoint_every=100, log_every=20),
        eval=Eval(clips="all"),
    )
    return choose(config, {}, variant)
