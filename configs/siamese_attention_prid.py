"""Where-and-When on PRID2011.

    python -m jaxreid.main --config=configs/siamese_attention_prid.py \
        --config.data.root=/data/prid_2011 \
        --config.model.pretrained=bvlc_googlenet.caffemodel --workdir=runs/siamese_prid

Hardware: the paper used one GPU with 12 GB; time not given. On one H100: not yet measured.
The paper, from ImageNet weights: rank-1 74.8 %, rank-5 92.6 %, rank-10 97.7 %, rank-20 98.6 %
(Table III, GoogLeNet, 5x5, 5x5).
Ours: not yet run on the real PRID2011.

All 200 persons that both cameras saw, 100 of them in training (section V-B). The ten splits are run
one after another, and their mean is reported; `--config.data.split=0` runs one of them.

Fig. 7: `--config.eval.lengths=1,2,4,8,16,32,64,128` draws rank-1 by the lengths of the clips.

A variant is a row of the paper: `--config=configs/siamese_attention_prid.py:kissme`; `:help`
lists them. `fisher`, `lfda` and `kissme` change the scoring alone, so they score a run that is
there: `--mode=evaluate --workdir=runs/siamese_prid`.
"""

from jaxreid import recipes
from jaxreid.config import Config, choose

# Tables III, IV and VII. Percent: rank-1, rank-5, rank-10, rank-20.
_ROWS = {
    "vgg16_fc": (62.2, 81.8, 84.2, 89.7),
    "googlenet_fc": (62.6, 83.0, 85.0, 91.2),
    "vgg16_9_1": (63.0, 85.0, 86.5, 92.5),
    "vgg16_1_9": (63.7, 85.8, 88.0, 93.0),
    "vgg16_5_5": (65.2, 88.0, 89.0, 93.5),
    "googlenet_9_1": (68.1, 89.2, 94.5, 96.1),
    "googlenet_1_9": (69.5, 91.0, 94.9, 96.7),
    "googlenet_5_5": (74.8, 92.6, 97.7, 98.6),
    "googlenet_5_5_muted": (58.6, 77.7, 80.2, 86.8),
    "max": (72.4, 90.8, 96.0, 96.2),
    "fisher": (79.2, 92.7, 97.4, 98.1),
    "lfda": (75.7, 94.8, 98.3, 98.8),
    "kissme": (77.0, 96.4, 99.2, 99.4),
}
VARIANTS = recipes.siamese_attention_rows("PRID2011", _ROWS)


def get_config(variant: str | None = None) -> Config:
    config = recipes.siamese_attention_config("prid2011_all", epochs=1000)
    return choose(config, VARIANTS, variant or "googlenet_5_5")
