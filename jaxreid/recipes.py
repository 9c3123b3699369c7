"""COSAM's recipe, and how a row of its paper's tables becomes a variant.

Its configs differ in the data set and in the printed figures, and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from jaxreid.config import Config, Data, Eval, Optim, Train, Variant, table_row
from jaxreid.models import cosam

# Percent: rank-1, rank-5, and where the tables have them rank-20 and mAP.
Figures = tuple[float | None, ...]


def cosam_config(data_set: str) -> Config:
    """The released code's training and section 6.3's scoring: SE-ResNet-50 + COSAM 4,5 + TP.

    Args:
        data_set: `config.data.name`.
    """
    return Config(
        model=cosam.Config(backbone="se_resnet50", blocks=(4, 5), head="tp"),
        data=Data(
            name=data_set,
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
    )


def cosam_blocks(source: str, rows: Mapping[tuple[str, int], Figures]) -> dict[str, Variant]:
    """Variants `{backbone}_cosam{block}`: the block after which the one module stands (Table 3).

    Args:
        source: data set and table.
        rows: of (backbone, block).
    """
    # Block 2 has the largest maps, and the module correlates every pair of their positions.
    memory = {2: "; memory: that module's plan on a CPU is 24 GiB for 32 x 4 frames"}
    return {
        f"{backbone}_cosam{block}": table_row(
            f"{source}, {backbone}, COSAM {block}{memory.get(block, '')}",
            _network(backbone, block),
            *figures,
        )
        for (backbone, block), figures in rows.items()
    }


def cosam_heads(
    source: str, rows: Mapping[tuple[str, str, tuple[int, ...]], Figures]
) -> dict[str, Variant]:
    """Variants `{backbone}_{head}` and `..._cosam45`: frames become a clip (Tables 2 and 4).

    Args:
        source: data set and tables.
        rows: of (backbone, head, blocks); blocks are () or (4, 5).
    """
    # Only these baselines are not the authors' own.
    gao = "; printed: Gao and Nevatia's, trained at 224 x 112 with a last stride of 2"
    return {
        f"{backbone}_{head}{'_cosam45' if blocks else ''}": table_row(
            f"{source}, {backbone}, {head}, COSAM {blocks or 'none'}"
            f"{gao if backbone == 'resnet50' and not blocks else ''}",
            _network(backbone, *blocks, head=head),
            *figures,
        )
        for (backbone, head, blocks), figures in rows.items()
    }


def cosam_lengths(source: str, rows: Mapping[int, Figures]) -> dict[str, Variant]:
    """Variants `n{frames}`: frames of a clip (Table 6).

    Args:
        source: data set and table.
        rows: of numbers of frames.
    """
    return {
        f"n{length}": table_row(f"{source}, N = {length}", {"data.clip_length": length}, *figures)
        for length, figures in rows.items()
    }


def cosam_readings(data_set: str) -> dict[str, Variant]:
    """Variants that no table has: the paper's words where the released code differs.

    Args:
        data_set: as the source names it.
    """
    return {
        "paper": Variant(
            {"model.variant": "paper"}, {}, f"{data_set}, the module as printed: ours"
        ),
        "per_clip": Variant(
            {"data.clip_draw": "clip"}, {}, f"{data_set}, one crop for a clip: ours"
        ),
    }


def _network(backbone: str, *blocks: int, head: str = "tp") -> dict[str, Any]:
    changes = {"model.backbone": backbone, "model.blocks": blocks, "model.head": head}
    # The released code's help text asks for a smaller rate with the LSTM.
    return changes | ({"optim.lr": 1e-4} if head == "rnn" else {})
