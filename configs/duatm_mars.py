"""DuATM on MARS: sequences of frames.

    python -m jaxreid.main --config=configs/duatm_mars.py \
        --config.data.root=/data/MARS \
        --config.model.pretrained=densenet121.pth --workdir=runs/duatm_mars

Hardware: the paper used two Titan X. Time on one H100: not yet measured. The paper's batch of 7 x 3
clips divides among 1, 3, 7 or 21 GPUs; for 2, 4 or 8, `--config.data.num_ids=8` makes it 8 x 3.
The paper, from ImageNet weights: rank-1 74.43 %, mAP 58.19 % (Table 1, l0 + l1 + l2).
Ours: not yet run on the real MARS.

A variant is a row of the paper: `--config=configs/duatm_mars.py:tuned`; `:help` lists them. The
tracklets are 509,914 files: on a slow file system, write them as records first (`jaxreid.prepare`).
"""

from jaxreid.config import Config, Data, Eval, Optim, Train, Variant, choose, table_row
from jaxreid.models import duatm

_TRIPLET_ONLY = {"model.lambda1": 0.0, "model.lambda2": 0.0}
_TUNED = {"model.lambda1": 0.5, "model.lambda2": 0.5, "model.drop": 0.4}
_TUNED_FLIP = {**_TUNED, "eval.flip": True}


def _frames(length: int, memory: str = "", **paper: float) -> Variant:
    """A point of Fig. 7: the length of the sequence, which we take to be that of training too."""
    changes = {"data.clip_length": length, "eval.clip_length": length}
    row = f"Fig. 7, T = {length}, in training too{memory}"
    return Variant(changes, paper, "MARS", row)


VARIANTS = {
    # Table 1: losses, each with the dual attention unless it says otherwise.
    "avepool": table_row(
        "MARS",
        "1",
        "AvePool + l0",
        {**_TRIPLET_ONLY, "model.matching": "average"},
        *(65.45, 81.92, 90.10, 47.26),
    ),
    "l0": table_row("MARS", "1", "DuATM + l0", _TRIPLET_ONLY, 66.36, 83.13, 90.40, 48.44),
    "l0_l1": table_row("MARS", "1", "l0 + l1", {"model.lambda2": 0.0}, 66.52, 83.78, 91.21, 49.07),
    "l0_l2": table_row("MARS", "1", "l0 + l2", {"model.lambda1": 0.0}, 73.74, 87.73, 93.84, 56.36),
    "l0_l1_l2": table_row("MARS", "1", "l0 + l1 + l2", {}, 74.43, 89.08, 94.13, 58.19),
    "tuned": table_row("MARS", "1", "DuATM*", _TUNED, 76.36, 90.10, 95.30, 58.96),
    "tuned_flip": table_row("MARS", "1, 3, 7", "DuATM**", _TUNED_FLIP, 78.74, 90.86, 95.76, 62.26),
    # Table 7 calls it DuATM*. The activations of 336 such frames come to 27 GB in float32.
    "large": Variant(
        {**_TUNED_FLIP, "data.image_size": (256, 128)},
        {"rank1": 0.8116, "rank5": 0.9247, "mAP": 0.6773},
        "MARS",
        "DuATM**, frames of 256 x 128",
        ("7",),
    ),
    # Fig. 7: two values of mAP are in the text; the other points are ours. The activations are
    # computed, not measured: 6.8 GB at T = 16, in proportion.
    "t1": _frames(1, mAP=0.2187),
    **{f"t{length}": _frames(length) for length in (2, 4, 8, 16, 32)},
    "t64": _frames(64, "; activations of 27 GB in float32"),
    "t96": _frames(96, "; activations of 41 GB in float32", mAP=0.5942),
    # The cell of the recurrent layer, which the paper does not name.
    **{
        cell: Variant({"model.sequence": cell}, {}, "MARS", f"{cell} instead of a GRU: ours")
        for cell in ("lstm", "rnn")
    },
}


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=duatm.Config(sequence="gru"),
        data=Data(
            name="mars",
            image_size=(128, 64),
            enlarge=1.0,
            flip=False,  # section 4.1: the random window is the only augmentation
            num_ids=7,
            num_instances=3,
            clip_length=16,
            check=False,  # a million files: `python -m jaxreid.prepare --check` decodes them once
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
        eval=Eval(
            ap="trapezoid",  # section 4.1: the evaluation code of MARS, ported
            clips="first",
            clip_length=64,
            batch_size=8,
            query_block=32,  # sequences are twice as long as an image's
            gallery_block=256,
        ),
    )
    return choose(config, VARIANTS, variant or "l0_l1_l2")
