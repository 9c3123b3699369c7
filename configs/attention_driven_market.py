"""Attention Driven Person Re-identification on Market-1501.

    python -m jaxreid.main --config=configs/attention_driven_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=runs/attention_driven_imagenet --workdir=runs/attention_driven

Hardware and time: the paper gives none. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 94.65 %, mAP 85.22 % (Table 6, intra+inter); 94.99 % and
86.47 % with tuned parameters (`:tuned`).
Ours: not yet run on the real Market-1501.

ImageNet weights are those of a run of `configs/attention_driven_imagenet.py`. Without
`--config.model.pretrained` the network starts from random weights, and the paper's figures should
not be expected of it.

Joints are read from `joints.npz` in the data set's folder, or from OpenPose's JSON:
`--config.data.joints=/data/openpose`. The variants `baseline` and `strips` need none.

A variant is a row of the paper: `--config=configs/attention_driven_market.py:tuned`; `:help` lists
them. `no_norm` changes the scoring alone, so it scores a run that is there: `--mode=evaluate
--workdir=runs/attention_driven`.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("attention_driven", "Market-1501")


def get_config(variant: str | None = None) -> Config:
    # The files' own size: crops are enlarged once, from the pixels that there are.
    config = recipes.attention_driven_config("market1501", image_size=(128, 64))
    return choose(config, VARIANTS, variant or "intra_inter")
