"""COSAM on iLIDS-VID.

    python -m jaxreid.main --config=configs/cosam_ilids.py \
        --config.data.root=/data/iLIDS-VID \
        --config.model.pretrained=se_resnet50.pth --workdir=runs/cosam_ilids

Hardware: not said in the paper. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 79.6 %, rank-5 95.3 % (Table 4, SE-ResNet-50 + COSAM 4,5
+ TP).
Ours: not yet run on the real iLIDS-VID.

The ten splits are run one after another, and their mean is reported; `--config.data.split=0`
runs one of them.

A variant is a row of the paper: `--config=configs/cosam_ilids.py:resnet50_tp_cosam45`; `:help`
lists them. The ResNet-50 rows without COSAM are Gao and Nevatia's, who trained at 224 x 112 with a
last stride of 2: the gain over them has two causes, so train your own.
"""

from typing import Any

from jaxreid.config import Config, Data, Eval, Optim, Train, choose, table_row
from jaxreid.models import cosam


def _model(backbone: str, *blocks: int, head: str = "tp") -> dict[str, Any]:
    changes = {"model.backbone": backbone, "model.blocks": blocks, "model.head": head}
    # The released code's help text asks for a smaller rate with the LSTM.
    return changes | ({"optim.lr": 1e-4} if head == "rnn" else {})


# Table 4: how frames become a clip, without and with COSAM 4,5. Rank-1, rank-5.
_HEADS = {
    ("resnet50", "tp", ()): (73.9, 92.6),
    ("resnet50", "tp", (4, 5)): (75.5, 94.1),
    ("resnet50", "ta", ()): (72.3, 92.4),
    ("resnet50", "ta", (4, 5)): (74.9, 94.4),
    ("resnet50", "rnn", ()): (68.5, 93.2),
    ("resnet50", "rnn", (4, 5)): (68.9, 93.1),
    ("se_resnet50", "tp", ()): (76.9, 93.9),
    ("se_resnet50", "tp", (4, 5)): (79.6, 95.3),
    ("se_resnet50", "ta", ()): (74.7, 93.2),
    ("se_resnet50", "ta", (4, 5)): (77.1, 94.7),
    ("se_resnet50", "rnn", ()): (77.4, 94.4),
    ("se_resnet50", "rnn", (4, 5)): (77.8, 97.3),
}
VARIANTS = {
    f"{backbone}_{head}{'_cosam45' if blocks else ''}": table_row(
        f"iLIDS-VID, Table 4, {backbone}, {head}, COSAM {blocks or 'none'}",
        _model(backbone, *blocks, head=head),
        *figures,
    )
    for (backbone, head, blocks), figures in _HEADS.items()
}


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=cosam.Config(backbone="se_resnet50", blocks=(4, 5), head="tp"),
        data=Data(
            name="ilids_vid",
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
        eval=Eval(clips="all", batch_size=32),
        paper_source="iLIDS-VID, Table 4, SE-ResNet-50 + COSAM 4,5 + TP",
        paper={"rank1": 0.796, "rank5": 0.953},
    )
    return choose(config, VARIANTS, variant)
