"""COSAM on iLIDS-VID.

    python -m jaxreid.main --config=configs/cosam_ilids.py \
        --config.data.root=/data/iLIDS-VID \
        --config.model.pretrained=se_resnet50.pth --workdir=runs/cosam_ilids

Hardware: the paper trained on one GeForce GTX 1080 Ti, around 8 hours a model (section 6.2). Time
on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 79.6 %, rank-5 95.3 % (Table 4, SE-ResNet-50 + COSAM 4,5
+ TP).
Ours: not yet run on the real iLIDS-VID.

The ten splits are run one after another, and their mean is reported; `--config.data.split=0`
runs one of them.

150 persons are 18 steps an epoch: the released code's 800 epochs are 14.4 k steps with a decay
every 3.6 k, where section 6.2 says about 60 k with one every 15 k. The variant `long` does so.

A variant is a row of the paper: `--config=configs/cosam_ilids.py:resnet50_tp_cosam45`; `:help`
lists them. The ResNet-50 rows without COSAM are Gao and Nevatia's, who trained at 224 x 112 with a
last stride of 2: the gain over them has two causes, so train your own.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("cosam", "iLIDS-VID")


def get_config(variant: str | None = None) -> Config:
    config = recipes.cosam_config("ilids_vid")
    return choose(config, VARIANTS, variant or "se_resnet50_tp_cosam45")
