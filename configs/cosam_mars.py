"""COSAM on MARS.

    python -m jaxreid.main --config=configs/cosam_mars.py \
        --config.data.root=/data/MARS \
        --config.model.pretrained=se_resnet50.pth --workdir=runs/cosam_mars

Hardware: the paper trained on one GeForce GTX 1080 Ti, around 8 hours a model (section 6.2). Time
on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 84.9 %, mAP 79.9 % (Table 4, SE-ResNet-50 + COSAM 4,5
+ TP).
Ours: not yet run on the real MARS.

A variant is a row of the paper: `--config=configs/cosam_mars.py:resnet50_tp_cosam45`; `:help`
lists them. The ResNet-50 rows without COSAM are Gao and Nevatia's, who trained at 224 x 112 with a
last stride of 2: the gain over them has two causes, so train your own.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("cosam", "MARS")


def get_config(variant: str | None = None) -> Config:
    config = recipes.cosam_config("mars")
    config.eval.mars_protocol = "query_removed"
    return choose(config, VARIANTS, variant or "se_resnet50_tp_cosam45")
