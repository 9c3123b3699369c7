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
from jaxreid.config import Config, choose

# Percent: rank-1, mAP.
_ROWS: dict[str, dict[str, recipes.Figures]] = {
    "6": {
        "baseline": (75.98, 57.23),
        "aligned": (76.71, 60.67),
        "intra": (80.12, 63.75),
        "inter": (79.62, 64.27),
        "intra_inter": (84.78, 71.92),
    },
    "4, 6": {"tuned": (86.04, 74.57)},
}
# Table 10: rank-1, mAP.
_WEIGHTS = {
    0.0: (72.17, 54.35),
    0.1: (85.90, 74.10),
    0.2: (85.63, 73.40),
    0.3: (85.56, 72.83),
    0.4: (84.93, 72.27),
    0.5: (84.78, 71.92),
    0.6: (83.71, 70.27),
    0.7: (83.58, 69.42),
    0.8: (83.21, 69.10),
    0.9: (82.49, 68.14),
    1.0: (81.46, 67.32),
}
# Table 11: rank-1, mAP, rank-5, rank-10.
_OVERLAPS = {
    0: (84.42, 71.26, 92.23, 94.28),
    1: (84.87, 71.62, 92.81, 94.66),
    2: (85.41, 71.87, 92.63, 94.85),
    3: (85.42, 72.32, 92.68, 94.48),
    4: (85.14, 71.96, 92.28, 94.32),
    5: (84.78, 71.92, 92.10, 94.30),
    6: (84.41, 71.42, 92.68, 94.79),
}
VARIANTS = {
    **recipes.attention_driven_rows("DukeMTMC-reID", _ROWS, tuned_weight=0.1),
    **recipes.attention_driven_weights("DukeMTMC-reID", _WEIGHTS),
    **recipes.attention_driven_overlaps("DukeMTMC-reID", _OVERLAPS),
    **recipes.attention_driven_readings("DukeMTMC-reID"),
}


def get_config(variant: str | None = None) -> Config:
    # Files have many sizes. This is the shape of the paper's 384 x 192; the parts' crops, of 96
    # rows, are then about as high as what they are cut from.
    config = recipes.attention_driven_config("dukemtmc_reid", image_size=(256, 128))
    return choose(config, VARIANTS, variant or "intra_inter")
