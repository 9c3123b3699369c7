"""Attention Driven Person Re-identification on DukeMTMC-reID. (Its owners have withdrawn this data
set; see the README.)

    python -m jaxreid.main --config=configs/attention_driven_duke.py \
        --config.data.root=/data/DukeMTMC-reID \
        --config.model.pretrained=runs/attention_driven_imagenet \
        --workdir=runs/attention_driven_duke

Hardware and time: the paper gives none. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 84.78 %, mAP 71.92 % (Table 6, intra+inter); 86.04 % and
74.57 % with tuned parameters (`:tuned`).
Ours: not yet run on the real DukeMTMC-reID.

ImageNet weights are those of a run of `configs/attention_driven_imagenet.py`. Without
`--config.model.pretrained` the network starts from random weights, and the paper's figures should
not be expected of it.

Joints are read from `joints.npz` in the data set's folder, or from OpenPose's JSON:
`--config.data.joints=/data/openpose`. The variants `baseline` and `strips` need none.

A variant is a row of the paper: `--config=configs/attention_driven_duke.py:tuned`; `:help` lists
them. `no_norm` changes the scoring alone, so it scores a run that is there: `--mode=evaluate
--workdir=runs/attention_driven_duke`.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("attention_driven", "DukeMTMC-reID")


def get_config(variant: str | None = None) -> Config:
    # Files have many sizes. This is the shape of the paper's 384 x 192; the parts' crops, of 96
    # rows, are then about as high as what they are cut from.
    config = recipes.attention_driven_config("dukemtmc_reid", image_size=(256, 128))
    return choose(config, VARIANTS, variant or "intra_inter")
