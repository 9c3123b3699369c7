"""COSAM on DukeMTMC-VideoReID.

    python -m jaxreid.main --config=configs/cosam_duke_video.py \
        --config.data.root=/data/DukeMTMC-VideoReID \
        --config.model.pretrained=se_resnet50.pth --workdir=runs/cosam_duke_video

Hardware: the paper trained on one GeForce GTX 1080 Ti, around 8 hours a model (section 6.2). Time
on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 95.4 %, mAP 94.1 % (Table 4, SE-ResNet-50 + COSAM 4,5
+ TP).
Ours: not yet run on the real DukeMTMC-VideoReID.

A variant is a row of the paper: `--config=configs/cosam_duke_video.py:resnet50_tp_cosam45`; `:help`
lists them. The ResNet-50 rows without COSAM are Gao and Nevatia's, who trained at 224 x 112 with a
last stride of 2: the gain over them has two causes, so train your own.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("cosam", "DukeMTMC-VideoReID")


def get_config(variant: str | None = None) -> Config:
    config = recipes.cosam_config("duke_video")
    return choose(config, VARIANTS, variant or "se_resnet50_tp_cosam45")
