"""TransReID, and the image encoder of CLIP-ReID, on Market-1501.

    python -m jaxreid.main --config=configs/vit_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=jx_vit_base_p16_224-80ecf9dd.pth --workdir=runs/vit

Scores a network that others have trained, as it is:

    python -m jaxreid.main --config=configs/vit_market.py:clip --mode=evaluate \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=ViT-B-16_60.pth --workdir=runs/clipreid

Hardware and time: the authors name a V100 GPU of 16 or 32 GB, and no hours. Time on one H100: not
yet measured.
The README of the authors' code, from ImageNet weights: rank-1 95.1 %, mAP 89.0 %.
Ours: not yet run on the real Market-1501. Without `--config.model.pretrained` the network starts
from random weights, and these figures should not be expected of it.

A variant is a part of the method: `--config=configs/vit_market.py:baseline`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("vit", "Market-1501")


def get_config(variant: str | None = None) -> Config:
    config = recipes.transreid_config("market1501", passes=4, cameras=6)
    return choose(config, VARIANTS, variant or "transreid_stride")
