"""BoT on the synthetic Market-1501 that the project draws itself.

    python -m jaxreid.synthetic --root=runs/synthetic
    python -m jaxreid.main --config=configs/bot_synthetic.py --workdir=runs/bot_synthetic

The network, the losses and the protocol are those of `bot_market.py`. What differs is there because
the run starts from random weights and has minutes on two processor cores: images of 128 x 64,
smaller batches, a larger learning rate, fewer epochs, and its moving average is scored.

Hardware: two processor cores. Time and scores: not yet measured.
"""

from jaxreid.config import Config, Data, Optim, Train
from jaxreid.models import bot
from jaxreid.variants import choose


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=bot.Config(),
        data=Data(
            name="synthetic",
            root="runs/synthetic",
            image_size=(128, 64),
            enlarge=1.0,
            pad=5,
            erase=0.5,
            num_ids=8,
            num_instances=4,
        ),
        optim=Optim(
            name="adam",
            lr=1e-3,
            warmup=2,
            decay="cosine",
            decay_epochs=(8, 20),
            decay_factor=0.01,
            average=0.98,
        ),
        train=Train(epochs=20, checkpoint_every=100, log_every=20),
    )
    return choose(config, {}, variant)
