"""JST-RNN on MARS.

    python -m jaxreid.main --config=configs/jst_rnn_mars.py \
        --config.data.root=/data/MARS \
        --config.model.pretrained=bvlc_reference_caffenet.caffemodel --workdir=runs/jst_rnn_mars

Hardware and time: the paper gives none. On one H100: not yet measured.
The paper, from ImageNet weights of conv1 to conv5: rank-1 70.6 %, mAP 50.7 % (Table 2, ALL).
Ours: not yet run on the real MARS.

The paper gives no learning rate, no batch and no number of steps: they are those of Caffe's
fine-tuning example. Scoring runs the pair network on all 22 M pairs;
`--config.eval.shortlist=100` runs it on the 100 nearest by the vector alone, and says so.

A variant is a row of the paper: `--config=configs/jst_rnn_mars.py:cnn_tam`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config, choose

# Table 2. Percent: rank-1, rank-5, rank-20, mAP.
_ROWS = {
    "cnn": (58.5, 76.3, 85.9, 40.3),
    "cnn_rnn": (60.3, 79.2, 87.0, 42.0),
    "cnn_tam": (62.7, 80.6, 90.5, 43.4),
    "cnn_diff": (63.0, 81.1, 91.5, 44.8),
    "cnn_srm": (64.2, 84.4, 94.3, 46.2),
    "all": (70.6, 90.0, 97.6, 50.7),
}
VARIANTS = recipes.jst_rnn_components("MARS", _ROWS)


def get_config(variant: str | None = None) -> Config:
    # 625 persons are 78 steps an epoch: 20 k steps are 256 epochs.
    config = recipes.jst_rnn_config("mars", decay_epochs=(256, 512))
    config.eval.ap = "trapezoid"  # the evaluation code of MARS
    return choose(config, VARIANTS, variant or "all")
