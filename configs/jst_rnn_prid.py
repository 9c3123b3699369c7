"""JST-RNN on PRID2011, from the network that was trained on MARS.

    python -m jaxreid.main --config=configs/jst_rnn_prid.py \
        --config.data.root=/data/prid_2011 \
        --config.model.pretrained=runs/jst_rnn_mars --workdir=runs/jst_rnn_prid

Hardware and time: the paper gives none. On one H100: not yet measured.
The paper, from its MARS network: rank-1 79.4 %, rank-5 94.4 %, rank-20 99.3 % (Table 3).
Ours: not yet run on the real PRID2011.

The ten splits are run one after another, and their mean is reported; `--config.data.split=0`
runs one of them. With one true match for each query, mAP is the mean reciprocal rank.

The components of Table 2, which the paper shows on MARS alone, are variants:
`--config=configs/jst_rnn_prid.py:cnn_tam`; `:help` lists them.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("jst_rnn", "PRID2011")


def get_config(variant: str | None = None) -> Config:
    # 89 persons are 5 steps an epoch: 2 k steps are 400 epochs.
    config = recipes.jst_rnn_fine_tuning("prid2011", decay_epochs=(400, 800))
    return choose(config, VARIANTS, variant or "all")
