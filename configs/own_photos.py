"""A network for one's own photographs, on two processor cores, from random weights.

    python -m jaxreid.main --config=configs/own_photos.py --config.data.name=csv \
        --config.data.root=photos/index.csv --workdir=runs/own_photos

OSNet x0.25 on images of 128 x 64, which is made for processors without a GPU: 200,000 parameters.
The run has a fixed number of steps, and its rate falls over all of them, however many persons there
are. Warm-up, random erasing, smoothed labels and a moving average of the network help a start from
random weights; none of them is tuned to a data set. `--config.train.steps=1000` is a shorter run.

With weights at hand, of ImageNet or of persons, `--config.model.pretrained=osnet_x0_25_msmt17.pth`
starts from them.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Optim, Train
from jaxreid.models import osnet
from jaxreid.variants import choose


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=osnet.Config(network="osnet_x0_25"),
        data=Data(
            name="folder",
            image_size=(128, 64),
            erase=0.5,
            sampling="shuffle",
            num_ids=16,  # batches of 16 x 4 images
            num_instances=4,
        ),
        optim=Optim(name="adam", lr=1.5e-3, warmup=1, decay="cosine", average=0.995),
        train=Train(steps=5000, checkpoint_every=250, log_every=20),
    )
    return choose(config, {}, variant)
