"""DuATM on DukeMTMC-reID. (Its owners have withdrawn this data set; see the README.)

    python -m jaxreid.main --config=configs/duatm_duke.py \
        --config.data.root=/data/DukeMTMC-reID \
        --config.model.pretrained=densenet121.pth --workdir=runs/duatm_duke

Hardware: the paper used two Titan X. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 81.06 %, mAP 62.27 % (Table 1, l0 + l1 + l2).
Ours: not yet run on the real DukeMTMC-reID. Without `--config.model.pretrained` the network starts
from random weights, and the paper's figures should not be expected of it.

A variant is a row of the paper: `--config=configs/duatm_duke.py:tuned`; `:help` lists them.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import duatm
from jaxreid.variants import choose, rows

VARIANTS = rows("duatm", "DukeMTMC-reID")


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=duatm.Config(),
        data=Data(name="dukemtmc_reid", image_size=(256, 128), num_ids=10, num_instances=4),
        optim=Optim(
            name="sgd",
            lr=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            frozen_epochs=100,
            decay_epochs=(250,),
        ),
        train=Train(epochs=300),
        eval=Eval(ap="trapezoid"),  # section 4.1: the evaluation code of MARS, ported
    )
    return choose(config, VARIANTS, variant or "l0_l1_l2")
