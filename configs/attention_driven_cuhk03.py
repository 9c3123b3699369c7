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
from jaxreid.config import Config, Variant, choose

_LABELED, _DETECTED = "CUHK03-L", "CUHK03-D"  # as the paper calls them

# Table 6: rank-1 in percent, on labeled and detected boxes.
_ROWS = {
    "baseline": (85.46, 80.02),
    "aligned": (89.15, 84.47),
    "intra": (91.50, 88.38),
    "inter": (91.76, 89.53),
    "intra_inter": (94.96, 93.45),
}
# Tables 5 and 6, with rank-5 and rank-10.
_TUNED: dict[str, recipes.Figures] = {
    _LABELED: (96.43, None, 99.73, 99.91),
    _DETECTED: (93.58, None, 98.91, 99.42),
}
# Table 10: rank-1, on labeled and detected boxes.
_WEIGHTS = {
    0.0: (80.22, 74.83),
    0.1: (94.99, 93.51),
    0.2: (95.91, 93.56),
    0.3: (95.74, 93.53),
    0.4: (95.41, 93.49),
    0.5: (94.96, 93.45),
    0.6: (94.88, 92.99),
    0.7: (94.74, 92.57),
    0.8: (94.40, 91.99),
    0.9: (94.16, 91.65),
    1.0: (93.56, 91.19),
}


def _variants(boxes: str, column: int) -> dict[str, Variant]:
    printed: dict[str, dict[str, recipes.Figures]] = {
        "6": {name: (rank1[column],) for name, rank1 in _ROWS.items()},
        "5, 6": {"tuned": _TUNED[boxes]},
    }
    weights = {value: (rank1[column],) for value, rank1 in _WEIGHTS.items()}
    return {
        **recipes.attention_driven_rows(boxes, printed, tuned_weight=0.2),
        **recipes.attention_driven_weights(boxes, weights),
        **recipes.attention_driven_readings(boxes),
    }


VARIANTS = {
    **_variants(_LABELED, 0),
    **{
        f"detected_{name}": row._replace(
            changes={**row.changes, "data.name": "cuhk03_classic_detected"}
        )
        for name, row in _variants(_DETECTED, 1).items()
    },
    "all_splits": Variant({"data.split": None}, {}, _LABELED, "the 20 splits: ours"),
}


def get_config(variant: str | None = None) -> Config:
    # Files have many sizes. This is the shape of the paper's 384 x 192; the parts' crops, of 96
    # rows, are then about as high as what they are cut from.
    config = recipes.attention_driven_config("cuhk03_classic_labeled", image_size=(256, 128))
    config.data.split = 0
    return choose(config, VARIANTS, variant or "intra_inter")
