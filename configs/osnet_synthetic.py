"""OSNet on the synthetic Market-1501 that the project draws itself.

    python -m jaxreid.synthetic --root=runs/synthetic
    python -m jaxreid.main --config=configs/osnet_synthetic.py --workdir=runs/osnet_synthetic

The loss, the batches and the protocol are those of `osnet_market.py`. What differs is there because
the run starts from random weights and has minutes on two processor cores: OSNet x0.25, images of
128 x 64, smaller batches, Adam with a warm-up, and nothing frozen.

Hardware: two processor cores. Time and scores: not yet measured.
"""

from jaxreid.config import Config, Data, Optim, Train
from jaxreid.models import osnet
from jaxreid.variants import choose


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=osnet.Config(network="osnet_x0_25"),
        data=Data(
            name="synthetic",
            root="runs/synthetic",
            image_size=(128, 64),
            sampling="shuffle",
            num_ids=8,  # batches of 8 x 4 images
            num_instances=4,
        ),
        optim=Optim(name="adam", lr=1.5e-3, warmup=1, decay_epochs=(8,)),
        train=Train(epochs=10, checkpoint_every=100, log_every=20),
    )
    return choose(config, {}, variant)
