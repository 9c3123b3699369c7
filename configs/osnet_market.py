"""OSNet on Market-1501.

    python -m jaxreid.main --config=configs/osnet_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=osnet_x1_0_imagenet.pth --workdir=runs/osnet

Scores a network that others have trained, as it is:

    python -m jaxreid.main --config=configs/osnet_market.py:x0_25 --mode=evaluate \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=osnet_x0_25_msmt17.pth --workdir=runs/osnet_msmt17

The recipe is the fine-tuning of section 4.1 as the authors' code has it: random mirroring, and the
classifier alone for ten epochs. The paper's random erasing is left out, as there.
Hardware and time: the paper gives none. Time on one H100: not yet measured.
The authors' model zoo, from ImageNet weights: rank-1 94.2 %, mAP 82.6 %.
Ours: not yet run on the real Market-1501. Without `--config.model.pretrained` the network starts
from random weights, and these figures should not be expected of it.

A variant is a released network: `--config=configs/osnet_market.py:ain_x1_0`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("osnet", "Market-1501")


def get_config(variant: str | None = None) -> Config:
    return choose(recipes.osnet_config("market1501"), VARIANTS, variant or "x1_0")
