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
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("jst_rnn", "MARS")


def get_config(variant: str | None = None) -> Config:
    # 625 persons are 78 steps an epoch: 20 k steps are 256 epochs.
    config = recipes.jst_rnn_config("mars", decay_epochs=(256, 512))
    config.eval.ap = "trapezoid"  # the evaluation code of MARS
    return choose(config, VARIANTS, variant or "all")
