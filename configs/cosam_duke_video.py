"""COSAM on DukeMTMC-VideoReID.

    python -m jaxreid.main --config=configs/cosam_duke_video.py \
        --config.data.root=/data/DukeMTMC-VideoReID \
        --config.model.pretrained=se_resnet50.pth --workdir=runs/cosam_duke_video

Hardware: the paper trained on one GeForce GTX 1080 Ti, around 8 hours a model (section 6.2). Time
on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 95.4 %, mAP 94.1 % (Table 4, SE-ResNet-50 + COSAM 4,5
+ TP).
Ours: not yet run on the real DukeMTMC-VideoReID.

A variant is a row of the paper: `--config=configs/cosam_duke_video.py:resnet50_tp_cosam45`; `:help`
lists them. The ResNet-50 rows without COSAM are Gao and Nevatia's, who trained at 224 x 112 with a
last stride of 2: the gain over them has two causes, so train your own.
"""

from jaxreid import recipes
from jaxreid.config import Config, choose

# Percent: rank-1, rank-5, rank-20, mAP.

# Table 3: the block after which the module stands.
_BLOCKS = {
    ("resnet50", 2): (90.2, 98.4, 99.0, 88.9),
    ("resnet50", 3): (94.0, 98.7, 99.9, 93.6),
    ("resnet50", 4): (94.7, 98.7, 99.7, 93.8),
    ("resnet50", 5): (93.7, 98.4, 99.9, 93.2),
    ("se_resnet50", 2): (94.0, 98.9, 99.7, 92.2),
    ("se_resnet50", 3): (94.7, 99.0, 99.9, 93.6),
    ("se_resnet50", 4): (95.4, 99.0, 99.9, 94.0),
    ("se_resnet50", 5): (94.9, 99.1, 99.9, 93.9),
}
# Tables 2 and 4: how frames become a clip, without and with COSAM 4,5. Rank-20 where Table 2 or 3
# has it.
_HEADS = {
    ("resnet50", "tp", ()): (93.6, 99.0, 99.7, 92.9),
    ("resnet50", "tp", (4, 5)): (94.4, 99.1, 99.9, 94.0),
    ("resnet50", "ta", ()): (93.9, 98.9, 99.5, 93.2),
    ("resnet50", "ta", (4, 5)): (94.6, 98.9, None, 93.4),
    ("resnet50", "rnn", ()): (88.7, 97.6, 99.3, 88.1),
    ("resnet50", "rnn", (4, 5)): (91.7, 98.3, None, 90.4),
    ("se_resnet50", "tp", ()): (93.7, 99.0, 99.7, 93.5),
    ("se_resnet50", "tp", (4, 5)): (95.4, 99.3, 99.8, 94.1),
    ("se_resnet50", "ta", ()): (94.2, 99.0, 99.7, 93.1),
    ("se_resnet50", "ta", (4, 5)): (95.3, 98.9, None, 94.1),
    ("se_resnet50", "rnn", ()): (94.0, 98.4, 99.1, 92.4),
    ("se_resnet50", "rnn", (4, 5)): (93.9, 98.3, None, 92.5),
}
# Table 6: frames of a clip.
_LENGTHS = {
    2: (94.3, 99.1, 99.9, 94.0),
    4: (95.4, 99.3, 99.8, 94.1),
    8: (91.9, 99.0, 99.6, 92.1),
}
VARIANTS = {
    **recipes.cosam_blocks("DukeMTMC-VideoReID", _BLOCKS),
    **recipes.cosam_heads("DukeMTMC-VideoReID", _HEADS),
    **recipes.cosam_lengths("DukeMTMC-VideoReID", _LENGTHS),
    **recipes.cosam_readings("DukeMTMC-VideoReID"),
}


def get_config(variant: str | None = None) -> Config:
    config = recipes.cosam_config("duke_video")
    return choose(config, VARIANTS, variant or "se_resnet50_tp_cosam45")
