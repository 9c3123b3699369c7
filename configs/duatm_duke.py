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

from jaxreid.config import Config, Data, Eval, Optim, Train, choose, table_row
from jaxreid.models import duatm

_TRIPLET_ONLY = {"model.lambda1": 0.0, "model.lambda2": 0.0}
_TUNED = {"model.drop": 0.6}  # lambda1 = 0.1 and lambda2 = 0.5 are the tuned ones here


VARIANTS = {
    "avepool": table_row(
        "DukeMTMC-reID",
        "1",
        "AvePool + l0",
        {**_TRIPLET_ONLY, "model.matching": "average"},
        *(64.05, 79.44, 87.52, 43.79),
    ),
    "l0": table_row("DukeMTMC-reID", "1", "DuATM + l0", _TRIPLET_ONLY, 68.40, 81.73, 89.77, 48.65),
    "l0_l1": table_row(
        "DukeMTMC-reID", "1", "l0 + l1", {"model.lambda2": 0.0}, 69.17, 82.23, 89.36, 49.48
    ),
    "l0_l2": table_row(
        "DukeMTMC-reID", "1", "l0 + l2", {"model.lambda1": 0.0}, 79.40, 90.04, 94.25, 61.55
    ),
    "l0_l1_l2": table_row("DukeMTMC-reID", "1", "l0 + l1 + l2", {}, 81.06, 91.11, 95.02, 62.27),
    "tuned": table_row("DukeMTMC-reID", "1", "DuATM*", _TUNED, 81.46, 90.75, 95.11, 63.14),
    "tuned_flip": table_row(
        "DukeMTMC-reID",
        "1, 6",
        "DuATM**",
        {**_TUNED, "eval.flip": True},
        81.82,
        90.17,
        95.38,
        64.58,
    ),
}


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
