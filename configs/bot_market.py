"""BoT, the bag of tricks, and AGW on Market-1501.

    python -m jaxreid.main --config=configs/bot_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=resnet50.pth --workdir=runs/bot

Hardware and time: the paper gives none. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 94.5 %, mAP 85.9 % (Table 1, +center loss).
Ours: not yet run on the real Market-1501. Without `--config.model.pretrained` the network starts
from random weights, and the paper's figures should not be expected of it.

A variant is a row of the paper, or AGW: `--config=configs/bot_market.py:agw`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("bot", "Market-1501")


def get_config(variant: str | None = None) -> Config:
    config = recipes.bot_config("market1501", passes=4)
    return choose(config, VARIANTS, variant or "centre_loss")
