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
from jaxreid.config import Config, choose

# Percent: rank-1, mAP, rank-5, rank-10, rank-20.
_ROWS: dict[str, dict[str, recipes.Figures]] = {
    "6": {"baseline": (86.63, 66.25), "intra": (92.04, 78.92)},
    "6, 9": {"aligned": (89.98, 72.46, 96.31, 97.68, 98.49)},
    "6, 7, 9": {"inter": (92.07, 78.46, 97.35, 98.51, 99.02)},
    "6, 7, 8": {"intra_inter": (94.65, 85.22, 98.21, 98.96, 99.38)},
    "3, 6": {"tuned": (94.99, 86.47, 98.25, 99.12, 99.38)},
    "7": {
        "global": (90.11, 75.23, 96.05, 97.33),
        "head": (50.86, 26.76, 73.31, 81.00),
        "upper_body": (48.96, 25.55, 70.57, 78.06),
        "upper_legs": (48.96, 28.54, 71.41, 79.54),
        "lower_legs": (36.22, 18.08, 58.07, 67.51),
        "parts": (91.62, 75.35, 96.82, 98.01),
        "global_no_intra": (85.75, 68.24, 94.54, 96.79),
        "head_no_intra": (43.17, 21.83, 67.37, 76.00),
        "upper_body_no_intra": (43.37, 21.96, 64.87, 72.74),
        "upper_legs_no_intra": (42.66, 23.54, 66.15, 75.38),
        "lower_legs_no_intra": (30.58, 14.23, 51.92, 61.01),
        "parts_no_intra": (87.10, 69.84, 95.37, 97.62),
    },
    "8": {"not_decomposed": (93.26, 82.47, 97.92, 98.90, 99.17)},
    "9": {"fc": (90.94, 77.11, 96.58, 97.89, 98.93)},
}
# Table 10: rank-1, mAP.
_WEIGHTS = {
    0.0: (83.64, 63.70),
    0.1: (94.98, 86.45),
    0.2: (94.92, 86.19),
    0.3: (94.84, 85.58),
    0.4: (94.73, 85.36),
    0.5: (94.65, 85.22),
    0.6: (94.50, 84.82),
    0.7: (94.26, 84.74),
    0.8: (94.09, 84.61),
    0.9: (94.00, 84.13),
    1.0: (93.97, 84.02),
}
# Table 11: rank-1, mAP, rank-5, rank-10.
_OVERLAPS = {
    0: (94.28, 85.19, 98.14, 98.91),
    1: (94.35, 85.22, 98.18, 98.81),
    2: (94.36, 85.53, 98.18, 98.78),
    3: (94.95, 85.85, 98.45, 98.99),
    4: (94.77, 85.57, 98.12, 98.87),
    5: (94.65, 85.22, 98.21, 98.96),
    6: (94.53, 85.13, 98.30, 98.90),
}
VARIANTS = {
    **recipes.attention_driven_rows("Market-1501", _ROWS, tuned_weight=0.1),
    **recipes.attention_driven_weights("Market-1501", _WEIGHTS),
    **recipes.attention_driven_overlaps("Market-1501", _OVERLAPS),
    **recipes.attention_driven_readings("Market-1501"),
}


def get_config(variant: str | None = None) -> Config:
    # The files' own size: crops are enlarged once, from the pixels that there are.
    config = recipes.attention_driven_config("market1501", image_size=(128, 64))
    return choose(config, VARIANTS, variant or "intra_inter")
