"""JST-RNN on iLIDS-VID, from the network that was trained on MARS.

    python -m jaxreid.main --config=configs/jst_rnn_ilids.py \
        --config.data.root=/data/iLIDS-VID \
        --config.model.pretrained=runs/jst_rnn_mars --workdir=runs/jst_rnn_ilids

Hardware and time: the paper gives none. On one H100: not yet measured.
The paper, from its MARS network: rank-1 55.2 %, rank-5 86.5 %, rank-20 97.0 % (Table 3).
Ours: not yet run on the real iLIDS-VID.

The ten splits are run one after another, and their mean is reported; `--config.data.split=0`
runs one of them. With one true match for each query, mAP is the mean reciprocal rank.

The components of Table 2, which the paper shows on MARS alone, are variants:
`--config=configs/jst_rnn_ilids.py:cnn_tam`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("jst_rnn", "iLIDS-VID")


def get_config(variant: str | None = None) -> Config:
    # 150 persons are 9 steps an epoch: 2 k steps are 222 epochs.
    config = recipes.jst_rnn_fine_tuning("ilids_vid", decay_epochs=(222, 444))
    return choose(config, VARIANTS, variant or "all")
