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
from jaxreid.config import Config, choose

# Percent: rank-1, rank-5, rank-20, mAP.

# Table 3: the block after which the module stands.
_BLOCKS = {
    ("resnet50", 2): (77.7, 90.1, 96.1, 68.3),
    ("resnet50", 3): (82.7, 94.3, 97.3, 76.9),
    ("resnet50", 4): (82.9, 94.2, 97.1, 76.8),
    ("resnet50", 5): (82.8, 93.9, 97.2, 76.6),
    ("se_resnet50", 2): (77.9, 90.4, 94.9, 67.0),
    ("se_resnet50", 3): (85.0, 94.7, 97.8, 79.5),
    ("se_resnet50", 4): (84.9, 95.4, 97.8, 79.8),
    ("se_resnet50", 5): (84.5, 95.7, 97.9, 79.9),
}
# Tables 2 and 4: how frames become a clip, without and with COSAM 4,5. Rank-20 where Table 2 or 3
# has it.
_HEADS = {
    ("resnet50", "tp", ()): (83.1, 92.8, 96.8, 75.8),
    ("resnet50", "tp", (4, 5)): (83.7, 94.1, 97.5, 77.2),
    ("resnet50", "ta", ()): (83.3, 93.8, 97.4, 76.7),
    ("resnet50", "ta", (4, 5)): (83.6, 93.7, None, 76.9),
    ("resnet50", "rnn", ()): (81.6, 92.8, 96.7, 73.8),
    ("resnet50", "rnn", (4, 5)): (82.4, 93.9, None, 74.8),
    ("se_resnet50", "tp", ()): (84.0, 95.2, 97.1, 78.1),
    ("se_resnet50", "tp", (4, 5)): (84.9, 95.5, 97.9, 79.9),
    ("se_resnet50", "ta", ()): (84.2, 94.7, 97.4, 77.7),
    ("se_resnet50", "ta", (4, 5)): (85.0, 94.9, None, 79.1),
    ("se_resnet50", "rnn", ()): (83.1, 93.6, 96.0, 75.7),
    ("se_resnet50", "rnn", (4, 5)): (83.4, 93.9, None, 76.0),
}
# Table 6: frames of a clip.
_LENGTHS = {
    2: (83.5, 94.3, 98.1, 78.1),
    4: (84.9, 95.5, 97.9, 79.9),
    8: (84.6, 94.2, 97.0, 77.4),
}
VARIANTS = {
    **recipes.cosam_blocks("MARS", _BLOCKS),
    **recipes.cosam_heads("MARS", _HEADS),
    **recipes.cosam_lengths("MARS", _LENGTHS),
    **recipes.cosam_readings("MARS"),
}


def get_config(variant: str | None = None) -> Config:
    config = recipes.cosam_config("mars")
    config.eval.mars_protocol = "query_removed"
    return choose(config, VARIANTS, variant or "se_resnet50_tp_cosam45")
