"""A network for one's own photographs, from random weights, on two processor cores.

    python -m jaxreid.main --config=configs/own_photos.py --config.data.name=csv \
        --config.data.root=photos/index.csv --workdir=runs/own_photos

BoT, made small: a narrow ResNet on images of 128 x 64. Warm-up, the neck, smoothed labels, random
erasing and a moving average of the network make the start from random weights safer than the five
papers' recipes are, which begin with ImageNet's. The run has a fixed number of steps, and its rate
falls over all of them, however many persons there are. With weights of ImageNet or of persons at
hand, take the full network, `bot_market.py` or `osnet_market.py`.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Optim, Train
from jaxreid.models import bot
from jaxreid.variants import choose


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=bot.Config(backbone_layers=(2, 3, 4, 2), backbone_width=32, centre=0.0),
        data=Data(
            name="folder",
            source="memory",
            image_size=(128, 64),
            enlarge=1.0,
            pad=5,
            erase=0.5,
            num_ids=16,
            num_instances=4,
        ),
        optim=Optim(
            name="adam", lr=1e-3, warmup=2, decay="cosine", decay_factor=0.01, average=0.99
        ),
        train=Train(steps=1500, checkpoint_every=200, log_every=20),
    )
    return choose(config, {}, variant)
