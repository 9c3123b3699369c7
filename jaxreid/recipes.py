"""The recipes of the papers whose configs differ in the data set and in the printed figures alone,
and how a row of their tables becomes a variant.
"""

from collections.abc import Mapping
from typing import Any

from jaxreid.config import Config, Data, Eval, Optim, Train, Variant, table_row
from jaxreid.models import cosam, jst_rnn, siamese_attention

# Percent: rank-1, rank-5, and where the tables have them rank-20 and mAP.
Figures = tuple[float | None, ...]


# ---------------------------------------------------------------------------------------------
# COSAM
# ---------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------
# JST-RNN
# ---------------------------------------------------------------------------------------------

# Table 2. "CNN" has the mean of the frames; the metric alone stands in DIFF and SRM, as section 4.3
# says of them.
JST_RNN_ROWS = {
    "cnn": {"model.feature": "mean", "model.metric": "none"},
    "cnn_rnn": {"model.feature": "rnn", "model.metric": "none"},
    "cnn_tam": {"model.feature": "tam", "model.metric": "none"},
    "cnn_diff": {"model.feature": "none", "model.metric": "diff"},
    "cnn_srm": {"model.feature": "none", "model.metric": "srm"},
    "all": {},
}


def jst_rnn_config(data_set: str, decay_epochs: tuple[int, ...]) -> Config:
    """Caffe's fine-tuning example, since the paper gives no schedule: 60 k steps.

    Args:
        data_set: `config.data.name`.
        decay_epochs: the epochs of steps 20 k and 40 k.
    """
    return Config(
        model=jst_rnn.Config(),
        data=Data(
            name=data_set,
            image_size=(227, 227),
            enlarge=1.0,  # section 4.2: mirroring alone
            num_ids=8,
            num_instances=4,
            clip_length=6,
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(
            name="sgd",
            lr=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            decay_epochs=decay_epochs,
            head_lr=10.0,
            bias_lr=2.0,
            bias_decay=False,
        ),
        train=Train(steps=60_000),
        # The pair network compares a query with this many gallery tracklets at once.
        eval=Eval(clips="central", query_block=16, gallery_block=64),
    )


def jst_rnn_components(
    source: str, rows: Mapping[str, Figures] | None = None
) -> dict[str, Variant]:
    """Variants of Table 2: which streams a network has.

    Args:
        source: data set, and table if it has one.
        rows: the printed figures by the name of the row; none without the table.
    """
    printed = rows or dict.fromkeys(JST_RNN_ROWS, ())
    ours = "" if rows else ": ours"
    return {
        **{
            name: table_row(f"{source}, {name}{ours}", JST_RNN_ROWS[name], *figures)
            for name, figures in printed.items()
        },
        **{
            f"{name}_joint": Variant(
                {**JST_RNN_ROWS[name], "model.feature": "mean"},
                {},
                f"{source}, {name} beside the mean of the frames: ours",
            )
            for name in ("cnn_diff", "cnn_srm")
        },
        "abs": Variant(
            {"model.difference": "abs"}, {}, f"{source}, the difference without its sign: ours"
        ),
    }


# ---------------------------------------------------------------------------------------------
# Where-and-When
# ---------------------------------------------------------------------------------------------

_KERNELS = {"9_1": (3, 9, 1), "1_9": (3, 1, 9), "5_5": (3, 5, 5)}
# Table III: backbone, recurrence and kernels; the last row has its attention muted.
SIAMESE_ROWS: dict[str, dict[str, Any]] = {
    "vgg16_fc": {"model.backbone": "vgg16", "model.recurrence": "fc"},
    "googlenet_fc": {"model.recurrence": "fc"},
    **{f"vgg16_{k}": {"model.backbone": "vgg16", "model.kernels": v} for k, v in _KERNELS.items()},
    **{f"googlenet_{k}": {"model.kernels": v} for k, v in _KERNELS.items()},
    "googlenet_5_5_muted": {"model.attention": False},
    # Table IV: from frames to a clip.
    "max": {"model.pooling": "max"},
    "fisher": {"eval.fisher": 16},
    # Table VII: metric learning behind it.
    "lfda": {"eval.metric": "lfda"},
    "kissme": {"eval.metric": "kissme"},
}
_TABLES = {"max": "IV", "fisher": "IV, 16 components: ours", "lfda": "VII", "kissme": "VII"}


def siamese_attention_config(data_set: str, epochs: int) -> Config:
    """Section V-B, with what the code that it follows has where it is silent.

    Args:
        data_set: `config.data.name`.
        epochs: in which each person is once in a pair of its own.
    """
    return Config(
        model=siamese_attention.Config(test_conditions=16),
        data=Data(
            name=data_set,
            image_size=(224, 224),
            enlarge=1.0,
            shift=0.05,
            sampling="pairs",
            num_ids=5,
            num_instances=4,
            clip_length=20,
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(
            name="rmsprop",
            lr=1e-4,
            momentum=0.9,
            weight_decay=0.0,
            frozen_epochs=epochs,
            clip=5.0,
        ),
        train=Train(epochs=epochs),
        eval=Eval(clips="first_last", clip_length=128, batch_size=4),
    )


def siamese_attention_rows(
    data_set: str, printed: Mapping[str, tuple[float | None, ...]]
) -> dict[str, Variant]:
    """Variants of Tables III, IV and VII, and two that no table has.

    Args:
        data_set: as the tables name it.
        printed: rank-1, rank-5, rank-10 and rank-20 in percent, by the name of the row.
    """
    rows = {
        name: table_row(
            f"{data_set}, Table {_TABLES.get(name, 'III')}",
            SIAMESE_ROWS[name],
            rank1,
            rank5,
            rank20,
            rank10=rank10,
        )
        for name, (rank1, rank5, rank10, rank20) in printed.items()
    }
    return {
        **rows,
        "trained": Variant(
            {"optim.frozen_epochs": 0}, {}, f"{data_set}, the backbone trained, too: ours"
        ),
        "cached": Variant(
            {"data.cache": "runs/maps", "data.shift": 0.0},
            {},
            f"{data_set}, maps of the frozen backbone kept on disk, frames not moved: ours",
        ),
    }
