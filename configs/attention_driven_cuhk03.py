"""Attention Driven Person Re-identification on CUHK03, the classic protocol.

    python -m jaxreid.main --config=configs/attention_driven_cuhk03.py \
        --config.data.root=/data/cuhk03 \
        --config.model.pretrained=runs/attention_driven_imagenet \
        --workdir=runs/attention_driven_cuhk03

Hardware and time: the paper gives none. Time on one H100: not yet measured.
The paper, from ImageNet weights: rank-1 94.96 % on labeled boxes and 93.45 % on detected ones
(Table 6, intra+inter); 96.43 % and 93.58 % with tuned parameters (`:tuned`, `:detected_tuned`).
Ours: not yet run on the real CUHK03.

As in the paper, the first of the 20 published splits is run; `--config.data.split=1` takes the
next, and the variant `all_splits` all of them, one after another. The gallery has one image of each
person, for which the paper prints no mAP.

ImageNet weights are those of a run of `configs/attention_driven_imagenet.py`. Without
`--config.model.pretrained` the network starts from random weights, and the paper's figures should
not be expected of it.

Joints are read from `joints.npz` in the data set's folder, or from OpenPose's JSON:
`--config.data.joints=/data/openpose`. The variants `baseline` and `strips` need none.

A variant is a row of the paper: `--config=configs/attention_driven_cuhk03.py:tuned`; `:help` lists
them. Those of detected boxes are named `detected_...`, `detected_intra_inter` the default among
them. `no_norm` changes the scoring alone, so it scores a run that is there: `--mode=evaluate
--workdir=runs/attention_driven_cuhk03`.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("attention_driven", "CUHK03-L") | {
    f"detected_{name}": row._replace(
        changes={**row.changes, "data.name": "cuhk03_classic_detected"}
    )
    for name, row in rows("attention_driven", "CUHK03-D").items()
}


def get_config(variant: str | None = None) -> Config:
    # Files have many sizes. This is the shape of the paper's 384 x 192; the parts' crops, of 96
    # rows, are then about as high as what they are cut from.
    config = recipes.attention_driven_config("cuhk03_classic_labeled", image_size=(256, 128))
    config.data.split = 0
    return choose(config, VARIANTS, variant or "intra_inter")
