"""DuATM on Market-1501.

    python -m jaxreid.main --config=configs/duatm_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 \
        --config.model.pretrained=densenet121.pth --workdir=runs/duatm

Hardware: the paper used two Titan X. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 88.75 %, mAP 70.46 % (Table 1, l0 + l1 + l2).
Ours: not yet run on the real Market-1501. Without `--config.model.pretrained` the network starts
from random weights, and the paper's figures should not be expected of it.

A variant is a row of the paper: `--config=configs/duatm_market.py:tuned`; `:help` lists them.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train, Variant, choose, table_row
from jaxreid.models import duatm

_TRIPLET_ONLY = {"model.lambda1": 0.0, "model.lambda2": 0.0}
_TUNED = {"model.lambda1": 0.3, "model.lambda2": 0.9, "model.drop": 0.4}


def _point(row: str, rank1: float | None = None, **changes: float) -> Variant:
    """A point of a curve, of which the paper prints few values."""
    changes = {f"model.{name}": value for name, value in changes.items()}
    return Variant(changes, {"rank1": round(rank1 / 100, 4)} if rank1 else {}, "Market-1501", row)


VARIANTS = {
    # Table 1: losses, each with the dual attention unless it says otherwise.
    "avepool": table_row(
        "Market-1501",
        "1, 2",
        "AvePool + l0",
        {**_TRIPLET_ONLY, "model.matching": "average"},
        *(74.20, 89.67, 95.58, 56.88),
    ),
    "l0": table_row("Market-1501", "1, 2", "DuATM + l0", _TRIPLET_ONLY, 79.66, 91.15, 96.73, 63.46),
    "l0_l1": table_row(
        "Market-1501", "1", "l0 + l1", {"model.lambda2": 0.0}, 81.83, 92.46, 97.33, 65.21
    ),
    "l0_l2": table_row(
        "Market-1501", "1", "l0 + l2", {"model.lambda1": 0.0}, 87.50, 95.37, 98.01, 70.02
    ),
    "l0_l1_l2": table_row("Market-1501", "1", "l0 + l1 + l2", {}, 88.75, 95.78, 98.46, 70.46),
    "tuned": table_row("Market-1501", "1", "DuATM*", _TUNED, 89.96, 96.53, 98.72, 75.22),
    "tuned_flip": table_row(
        "Market-1501",
        "1, 3, 4, 5",
        "DuATM**",
        {**_TUNED, "eval.flip": True},
        91.42,
        97.09,
        98.96,
        76.62,
    ),
    # Table 2: one attention alone.
    "intra": table_row(
        "Market-1501",
        "2",
        "Intra + l0",
        {**_TRIPLET_ONLY, "model.matching": "intra"},
        *(78.78, 90.69, 96.73, 61.76),
    ),
    "inter": table_row(
        "Market-1501",
        "2",
        "Inter + l0",
        {**_TRIPLET_ONLY, "model.matching": "inter"},
        *(72.36, 87.74, 95.19, 53.91),
    ),
    # Fig. 7: width of the vectors. Two rank-1 figures are in the text; the other points are ours.
    "d16": _point("Fig. 7, D = 16", dim=16, rank1=78.50),
    "d32": _point("Fig. 7, D = 32", dim=32, rank1=87.71),
    **{f"d{dim}": _point(f"Fig. 7, D = {dim}", dim=dim) for dim in (64, 128, 256, 512)},
    # Fig. 6: one of lambda1, lambda2, p is changed, the others stay. The points are ours.
    **{
        f"lambda1_{value}": _point(f"Fig. 6, lambda1 = {value}", lambda1=value)
        for value in (0.1, 0.3, 0.5, 0.7, 0.9)
    },
    **{
        f"lambda2_{value}": _point(f"Fig. 6, lambda2 = {value}", lambda2=value)
        for value in (0.1, 0.3, 0.5, 0.7, 0.9)
    },
    **{
        f"p_{value}": _point(f"Fig. 6, p = {value}", drop=value)
        for value in (0.0, 0.2, 0.4, 0.6, 0.8)
    },
}


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=duatm.Config(),
        data=Data(
            name="market1501",
            image_size=(256, 128),
            enlarge=1.125,  # decoded at 288 x 144, cropped at random
            num_ids=10,
            num_instances=4,
        ),
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
