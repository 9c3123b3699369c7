"""COSAM on MARS.

    python -m jaxreid.main --config=configs/cosam_mars.py \
        --config.data.root=/data/MARS \
        --config.model.pretrained=se_resnet50.pth --workdir=runs/cosam_mars

Hardware: not said in the paper. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 84.9 %, mAP 79.9 % (Table 4, SE-ResNet-50 + COSAM 4,5
+ TP).
Ours: not yet run on the real MARS.

A variant is a row of the paper: `--config=configs/cosam_mars.py:resnet50_tp_cosam45`; `:help`
lists them. The ResNet-50 rows without COSAM are Gao and Nevatia's, who trained at 224 x 112 with a
last stride of 2: the gain over them has two causes, so train your own.
"""

from typing import Any

from jaxreid.config import Config, Data, Eval, Optim, Train, Variant, choose, table_row
from jaxreid.models import cosam


def _model(backbone: str, *blocks: int, head: str = "tp") -> dict[str, Any]:
    changes = {"model.backbone": backbone, "model.blocks": blocks, "model.head": head}
    # The released code's help text asks for a smaller rate with the LSTM.
    return changes | ({"optim.lr": 1e-4} if head == "rnn" else {})


# Table 3: the block after which the module stands. mAP, rank-1, rank-5, rank-20.
_BLOCKS = {
    ("resnet50", 2): (68.3, 77.7, 90.1, 96.1),
    ("resnet50", 3): (76.9, 82.7, 94.3, 97.3),
    ("resnet50", 4): (76.8, 82.9, 94.2, 97.1),
    ("resnet50", 5): (76.6, 82.8, 93.9, 97.2),
    ("se_resnet50", 2): (67.0, 77.9, 90.4, 94.9),
    ("se_resnet50", 3): (79.5, 85.0, 94.7, 97.8),
    ("se_resnet50", 4): (79.8, 84.9, 95.4, 97.8),
    ("se_resnet50", 5): (79.9, 84.5, 95.7, 97.9),
}
# Tables 2 and 4: how frames become a clip, without and with COSAM 4,5. mAP, rank-1, rank-5, and
# rank-20 where Table 2 or 3 has it.
_HEADS = {
    ("resnet50", "tp", ()): (75.8, 83.1, 92.8, 96.8),
    ("resnet50", "tp", (4, 5)): (77.2, 83.7, 94.1, 97.5),
    ("resnet50", "ta", ()): (76.7, 83.3, 93.8, 97.4),
    ("resnet50", "ta", (4, 5)): (76.9, 83.6, 93.7, None),
    ("resnet50", "rnn", ()): (73.8, 81.6, 92.8, 96.7),
    ("resnet50", "rnn", (4, 5)): (74.8, 82.4, 93.9, None),
    ("se_resnet50", "tp", ()): (78.1, 84.0, 95.2, 97.1),
    ("se_resnet50", "tp", (4, 5)): (79.9, 84.9, 95.5, 97.9),
    ("se_resnet50", "ta", ()): (77.7, 84.2, 94.7, 97.4),
    ("se_resnet50", "ta", (4, 5)): (79.1, 85.0, 94.9, None),
    ("se_resnet50", "rnn", ()): (75.7, 83.1, 93.6, 96.0),
    ("se_resnet50", "rnn", (4, 5)): (76.0, 83.4, 93.9, None),
}
VARIANTS = {
    **{
        f"{backbone}_cosam{block}": table_row(
            f"MARS, Table 3, {backbone}, COSAM {block}",
            _model(backbone, block),
            *(rank1, rank5, rank20, mean_ap),
        )
        for (backbone, block), (mean_ap, rank1, rank5, rank20) in _BLOCKS.items()
    },
    **{
        f"{backbone}_{head}{'_cosam45' if blocks else ''}": table_row(
            f"MARS, Tables 2 and 4, {backbone}, {head}, COSAM {blocks or 'none'}",
            _model(backbone, *blocks, head=head),
            *(rank1, rank5, rank20, mean_ap),
        )
        for (backbone, head, blocks), (mean_ap, rank1, rank5, rank20) in _HEADS.items()
    },
    # Table 6: frames of a clip.
    **{
        f"n{length}": table_row(f"MARS, Table 6, N = {length}", {"data.clip_length": length}, *row)
        for length, row in {
            2: (83.5, 94.3, 98.1, 78.1),
            4: (84.9, 95.5, 97.9, 79.9),
            8: (84.6, 94.2, 97.0, 77.4),
        }.items()
    },
    # Not in the tables: the paper's words where the released code differs.
    "paper": Variant({"model.variant": "paper"}, {}, "MARS, the module as printed: ours"),
    "per_clip": Variant({"data.clip_draw": "clip"}, {}, "MARS, one crop for a clip: ours"),
}


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=cosam.Config(backbone="se_resnet50", blocks=(4, 5), head="tp"),
        data=Data(
            name="mars",
            image_size=(256, 128),
            enlarge=1.125,
            enlarge_probability=0.5,
            num_ids=8,
            num_instances=4,
            clip_length=4,
            clip_draw="frame",  # the released code draws for each frame
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(name="adam", lr=3e-4, weight_decay=5e-4, decay_epochs=(200, 400, 600)),
        train=Train(epochs=800),
        eval=Eval(clips="all", batch_size=32, mars_protocol="query_removed"),
        paper_source="MARS, Table 4, SE-ResNet-50 + COSAM 4,5 + TP",
        paper={"rank1": 0.849, "rank5": 0.955, "rank20": 0.979, "mAP": 0.799},
    )
    return choose(config, VARIANTS, variant)
