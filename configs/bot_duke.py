"""BoT, the bag of tricks, and AGW on DukeMTMC-reID. (Its owners have withdrawn this data set.)

    python -m jaxreid.main --config=configs/bot_duke.py \
        --config.data.root=/data/DukeMTMC-reID \
        --config.model.pretrained=resnet50.pth --workdir=runs/bot_duke

Hardware and time: the paper gives none. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 86.4 %, mAP 76.4 % (Table 1, +center loss).
Ours: not yet run on the real DukeMTMC-reID. Without `--config.model.pretrained` the network starts
from random weights, and the paper's figures should not be expected of it.

A variant is a row of the paper, or AGW: `--config=configs/bot_duke.py:agw`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("bot", "DukeMTMC-reID")


def get_config(variant: str | None = None) -> Config:
    config = recipes.bot_config("dukemtmc_reid", passes=6)
    return choose(config, VARIANTS, variant or "centre_loss")
