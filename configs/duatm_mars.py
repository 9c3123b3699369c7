"""DuATM on MARS: sequences of frames.

    python -m jaxreid.main --config=configs/duatm_mars.py \
        --config.data.root=/data/MARS \
        --config.model.pretrained=densenet121.pth --workdir=runs/duatm_mars

Hardware: the paper used two Titan X. Time on one H100: not yet measured. The paper's batch of 7 x 3
clips divides among 1, 3, 7 or 21 GPUs; for 2, 4 or 8, `--config.data.num_ids=8` makes it 8 x 3.
The paper, from ImageNet weights: rank-1 74.43 %, mAP 58.19 % (Table 1, l0 + l1 + l2).
Ours: not yet run on the real MARS.

A variant is a row of the paper: `--config=configs/duatm_mars.py:tuned`; `:help` lists them. The
tracklets are 509,914 files: on a slow file system, write them as records first (`jaxreid.prepare`).
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import duatm
from jaxreid.variants import choose, rows

VARIANTS = rows("duatm", "MARS")


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=duatm.Config(sequence="gru"),
        data=Data(
            name="mars",
            image_size=(128, 64),
            enlarge=1.0,
            flip=False,  # section 4.1: the random window is the only augmentation
            num_ids=7,
            num_instances=3,
            clip_length=16,
            check=False,  # a million files: `python -m jaxreid.prepare --check` decodes them once
        ),
        optim=Optim(
            name="sgd",
            lr=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            frozen_epochs=100,
            decay_epochs=(250,),
        ),
        train=Train(epochs=300),
        eval=Eval(
            ap="trapezoid",  # section 4.1: the evaluation code of MARS, ported
            clips="first",
            clip_length=64,
            batch_size=8,
            query_block=32,  # sequences are twice as long as an image's
            gallery_block=256,
        ),
    )
    return choose(config, VARIANTS, variant or "l0_l1_l2")
