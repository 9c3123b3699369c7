"""Where-and-When on iLIDS-VID.

    python -m jaxreid.main --config=configs/siamese_attention_ilids.py \
        --config.data.root=/data/iLIDS-VID \
        --config.model.pretrained=bvlc_googlenet.caffemodel --workdir=runs/siamese_ilids

Hardware: the paper used one GPU with 12 GB; time not given. On one H100: not yet measured.
The paper, from ImageNet weights: rank-1 61.2 %, rank-5 80.7 %, rank-10 90.3 %, rank-20 97.3 %
(Table III, GoogLeNet, 5x5, 5x5).
Ours: not yet run on the real iLIDS-VID.

The ten splits are run one after another, and their mean is reported; `--config.data.split=0`
runs one of them.

Fig. 7: `--config.eval.lengths=1,2,4,8,16,32,64,128` draws rank-1 by the lengths of the clips.

A variant is a row of the paper: `--config=configs/siamese_attention_ilids.py:kissme`; `:help`
lists them. `fisher`, `lfda` and `kissme` change the scoring alone, so they score a run that is
there: `--mode=evaluate --workdir=runs/siamese_ilids`.
"""

from jaxreid import recipes
from jaxreid.config import Config, choose

# Tables III, IV and VII. Percent: rank-1, rank-5, rank-10, rank-20.
_ROWS = {
    "vgg16_fc": (52.6, 72.5, 81.3, 88.5),
    "googlenet_fc": (53.8, 73.2, 83.0, 89.4),
    "vgg16_9_1": (54.5, 73.8, 83.7, 90.0),
    "vgg16_1_9": (55.1, 75.0, 85.0, 91.5),
    "vgg16_5_5": (56.7, 77.0, 87.5, 92.5),
    "googlenet_9_1": (56.1, 76.7, 86.1, 93.5),
    "googlenet_1_9": (57.3, 78.2, 86.8, 94.0),
    "googlenet_5_5": (61.2, 80.7, 90.3, 97.3),
    "googlenet_5_5_muted": (51.8, 70.4, 78.8, 85.9),
    # Rank-5 is printed as 58.6, below rank-1: left out.
    "max": (59.4, None, 83.8, 90.4),
    "fisher": (63.2, 80.9, 92.2, 97.5),
    "lfda": (61.4, 83.4, 91.0, 97.9),
    "kissme": (61.9, 86.8, 94.7, 98.6),
}
VARIANTS = recipes.siamese_attention_rows("iLIDS-VID", _ROWS)


def get_config(variant: str | None = None) -> Config:
    config = recipes.siamese_attention_config("ilids_vid", epochs=1000)
    return choose(config, VARIANTS, variant or "googlenet_5_5")
