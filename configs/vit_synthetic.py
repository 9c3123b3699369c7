"""TransReID on the synthetic Market-1501 that the project draws itself.

    python -m jaxreid.synthetic --root=runs/synthetic
    python -m jaxreid.main --config=configs/vit_synthetic.py --workdir=runs/vit_synthetic

The losses, the cameras' embedding, the parts and the protocol are those of `vit_market.py`. What
differs is there because the run starts from random weights and has minutes on two processor cores:
three blocks of 96 numbers, images of 128 x 64, smaller batches and Adam.

Hardware: two processor cores, two to three minutes. Rank-1 86.1 %, mAP 80.3 %, one run.
"""

from jaxreid.config import Config, Data, Optim, Train
from jaxreid.models import vit
from jaxreid.variants import choose


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=vit.Config(
            stride=12,
            sie=3.0,
            cameras=6,
            jpm=True,
            drop_path=0.0,
            backbone_width=96,
            backbone_depth=3,
            backbone_heads=4,
        ),
        data=Data(
            name="synthetic",
            root="runs/synthetic",
            image_size=(128, 64),
            enlarge=1.0,
            pad=5,
            num_ids=8,
            num_instances=4,
        ),
        optim=Optim(
            name="adam",
            lr=5e-4,
            weight_decay=1e-4,
            warmup=5,
            decay="cosine",
            decay_factor=2e-3,
        ),
        train=Train(epochs=60, checkpoint_every=1000, log_every=80),
    )
    return choose(config, {}, variant)
