"""The recipes of the papers whose configs differ in the data set and in the printed figures alone,
and how a row of their tables becomes a variant.
"""

from collections.abc import Mapping
from typing import Any

from jaxreid.config import Config, Data, Eval, Optim, Train, Variant, table_row
from jaxreid.models import attention_driven, cosam, jst_rnn, siamese_attention

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


def cosam_blocks(data_set: str, rows: Mapping[tuple[str, int], Figures]) -> dict[str, Variant]:
    """Variants `{backbone}_cosam{block}`: the block after which the one module stands (Table 3).

    Args:
        data_set: as the table names it.
        rows: of (backbone, block).
    """
    # Block 2 has the largest maps, and the module correlates every pair of their positions.
    memory = {2: "memory: that module's plan on a CPU is 24 GiB for 32 x 4 frames"}
    return {
        f"{backbone}_cosam{block}": table_row(
            data_set,
            "3",
            _cosam_row(backbone, block),
            _network(backbone, block),
            *figures,
            note=memory.get(block, ""),
        )
        for (backbone, block), figures in rows.items()
    }


def cosam_heads(
    data_set: str, rows: Mapping[tuple[str, str, tuple[int, ...]], Figures]
) -> dict[str, Variant]:
    """Variants `{backbone}_{head}` and `..._cosam45`: frames become a clip (Tables 2 to 5).

    Args:
        data_set: as the tables name it.
        rows: of (backbone, head, blocks); blocks are () or (4, 5).
    """
    # Only these baselines are not the authors' own.
    gao = "printed: Gao and Nevatia's, trained at 224 x 112 with a last stride of 2"

    def tables(backbone: str, head: str, blocks: tuple[int, ...]) -> str:
        if data_set == "iLIDS-VID":
            return "4"
        own = {"2": not blocks, "3": head == "tp", "4": True}
        own["5"] = head == "tp" and backbone == "se_resnet50"
        return ", ".join(number for number, has_it in own.items() if has_it)

    return {
        f"{backbone}_{head}{'_cosam45' if blocks else ''}": table_row(
            data_set,
            tables(backbone, head, blocks),
            _cosam_row(backbone, *blocks, head=head),
            _network(backbone, *blocks, head=head),
            *figures,
            note=gao if backbone == "resnet50" and not blocks else "",
        )
        for (backbone, head, blocks), figures in rows.items()
    }


def cosam_lengths(data_set: str, rows: Mapping[int, Figures]) -> dict[str, Variant]:
    """Variants `n{frames}`: frames of a clip (Table 6).

    Args:
        data_set: as the table names it.
        rows: of numbers of frames.
    """
    return {
        f"n{length}": table_row(
            data_set, "6", f"N = {length}", {"data.clip_length": length}, *figures
        )
        for length, figures in rows.items()
    }


def cosam_readings(data_set: str) -> dict[str, Variant]:
    """Variants that no table has: the paper's words where the released code differs.

    Args:
        data_set: as the tables name it.
    """
    return {
        "paper": Variant({"model.variant": "paper"}, {}, data_set, "the module as printed: ours"),
        "per_clip": Variant({"data.clip_draw": "clip"}, {}, data_set, "one crop for a clip: ours"),
    }


def _cosam_row(backbone: str, *blocks: int, head: str = "tp") -> str:
    """As in "SE-ResNet-50 + COSAM 4,5 + TP"."""
    name = {"resnet50": "ResNet-50", "se_resnet50": "SE-ResNet-50"}[backbone]
    cosam = f" + COSAM {','.join(map(str, blocks))}" if blocks else ""
    return f"{name}{cosam} + {head.upper()}"


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
_JST_RNN_NAMES = {name: name.upper().replace("_", "+") for name in JST_RNN_ROWS}


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
    data_set: str, printed: Mapping[str, Figures] | None = None
) -> dict[str, Variant]:
    """Variants of Table 2: which streams a network has.

    Args:
        data_set: as the tables name it.
        printed: figures by the name of the row. Table 2 is of MARS, and Table 3 has "all" alone.
    """
    printed = printed or {}

    def row(name: str, changes: dict[str, Any]) -> Variant:
        words = _JST_RNN_NAMES[name]
        if name not in printed:
            return Variant(changes, {}, data_set, f"{words}: ours")
        tables = ", ".join(["2"] * (data_set == "MARS") + ["3"] * (name == "all"))
        return table_row(data_set, tables, words, changes, *printed[name])

    return {
        **{name: row(name, changes) for name, changes in JST_RNN_ROWS.items()},
        **{
            f"{name}_joint": Variant(
                {**JST_RNN_ROWS[name], "model.feature": "mean"},
                {},
                data_set,
                f"{_JST_RNN_NAMES[name]} beside the mean of the frames: ours",
            )
            for name in ("cnn_diff", "cnn_srm")
        },
        "abs": Variant(
            {"model.difference": "abs"}, {}, data_set, "the difference without its sign: ours"
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
    # These see the plain clips alone: the other 15 conditions would be computed for nothing.
    "fisher": {"eval.fisher": 16, "model.test_conditions": 1},
    # Table VII: metric learning behind it.
    "lfda": {"eval.metric": "lfda", "model.test_conditions": 1},
    "kissme": {"eval.metric": "kissme", "model.test_conditions": 1},
}
# The tables of each row, and what it is called there. "Ours" of Tables V to VII is the third.
_SIAMESE_WORDS = {
    "vgg16_fc": ("III", "VGG16 + FC-GRU"),
    "googlenet_fc": ("III", "GoogLeNet + FC-GRU"),
    "googlenet_5_5": ("III, IV, V, VI, VII", "GoogLeNet, 5x5, 5x5"),
    "vgg16_5_5": ("III", "VGG16, 5x5, 5x5"),
    **{
        f"{backbone.lower()}_{k}": ("III", f"{backbone}, {words}")
        for backbone in ("VGG16", "GoogLeNet")
        for k, words in (("9_1", "9x9, 1x1"), ("1_9", "1x1, 9x9"))
    },
    "googlenet_5_5_muted": ("III", "GoogLeNet, 5x5, 5x5, attention muted"),
    "max": ("IV", "max pooling"),
    "fisher": ("IV", "Fisher vectors"),
    "lfda": ("VII", "with LFDA"),
    "kissme": ("VII", "with KISSME"),
}
_SIAMESE_NOTES = {
    **{(name, "fisher"): "16 components: ours" for name in ("iLIDS-VID", "PRID2011", "MARS")},
    ("iLIDS-VID", "max"): "rank-5 is printed as 58.6, below rank-1",
    ("MARS", "googlenet_5_5"): "Tables V to VII print a rank-20 of 96.6",
}


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
            frozen_epochs=None,
            clip=5.0,
        ),
        train=Train(epochs=epochs),
        eval=Eval(clips="first_last", clip_length=128, batch_size=4),
    )


def siamese_attention_rows(
    data_set: str, printed: Mapping[str, tuple[float | None, ...]]
) -> dict[str, Variant]:
    """Variants of Tables III to VII, and three that no table has.

    Args:
        data_set: as the tables name it.
        printed: rank-1, rank-5, rank-10 and rank-20 in percent, by the name of the row.
    """
    rows = {
        name: table_row(
            data_set,
            *_SIAMESE_WORDS[name],
            SIAMESE_ROWS[name],
            rank1,
            rank5,
            rank20,
            rank10=rank10,
            note=_SIAMESE_NOTES.get((data_set, name), ""),
        )
        for name, (rank1, rank5, rank10, rank20) in printed.items()
    }
    return {
        **rows,
        "trained": Variant(
            {"optim.frozen_epochs": 0}, {}, data_set, "the backbone trained, too: ours"
        ),
        "mixed": Variant(
            {"data.sampling": "mixed_pairs"},
            {},
            data_set,
            "pairs of two persons from any camera: ours",
        ),
        "cached": Variant(
            {"data.cache": "runs/maps", "data.shift": 0.0},
            {},
            data_set,
            "maps of the frozen backbone kept on disk, frames not moved: ours",
        ),
    }


# ---------------------------------------------------------------------------------------------
# Attention-Driven
# ---------------------------------------------------------------------------------------------

_NO_INTRA = {"model.intra": False}
_STRIPS = {"model.parts": "strips", "data.joints": None}
# Table 6. Its "aligned" and "inter" are Table 9's concatenation and inter-attention, and "inter" is
# Table 7's global + part without intra-attention: their figures are the same.
ATTENTION_DRIVEN_ROWS: dict[str, dict[str, Any]] = {
    "baseline": {**_STRIPS, **_NO_INTRA, "model.inter": "concat"},
    "aligned": {**_NO_INTRA, "model.inter": "concat"},
    "intra": {"model.inter": "concat"},
    "inter": _NO_INTRA,
    "intra_inter": {},
    # Table 7: one branch, or the four parts.
    **{
        f"{branches}{suffix}": {"model.branches": branches, **changes}
        for suffix, changes in (("", {}), ("_no_intra", _NO_INTRA))
        for branches in (*attention_driven.BRANCHES, "parts")
    },
    "not_decomposed": {"model.decomposed": False},  # Table 8
    "fc": {**_NO_INTRA, "model.inter": "fc"},  # Table 9
}


# Choices that leave the parameters as they are. Joints are not known of ImageNet.
_NOT_OF_THE_NETWORK = {"model.parts", "model.arms_in_torso", "model.test_norm"}


def attention_driven_config(data_set: str, image_size: tuple[int, int]) -> Config:
    """Section 4.1: all of the network, with lambda = 0.5 and beta = H/10.

    Args:
        data_set: `config.data.name`.
        image_size: (height, width) that files are decoded to. The branches' crops, of sizes that
            the paper gives, are cut from that.
    """
    return Config(
        model=attention_driven.Config(),
        data=Data(
            name=data_set,
            image_size=image_size,
            enlarge=1.0,  # section 4.1 has neither crops nor mirroring
            flip=False,
            sampling="shuffle",
            num_ids=8,  # batches of 8 x 4 images
            num_instances=4,
            joints="joints.npz",
        ),
        # The paper prints neither momentum nor weight decay.
        optim=Optim(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, decay_epochs=(40, 80)),
        train=Train(epochs=100),
        eval=Eval(ap="trapezoid"),  # section 4.1: the protocol of Market-1501's authors
    )


def attention_driven_rows(
    data_set: str, printed: Mapping[str, Mapping[str, Figures]], tuned_weight: float
) -> dict[str, Variant]:
    """Variants of Tables 3 to 9.

    Args:
        data_set: as the tables name it.
        printed: rank-1, mAP, rank-5, rank-10 and rank-20 in percent, by the numbers of the tables
            that have them, as in "6, 9", and the name of the row.
        tuned_weight: lambda of the row "tuned"; beta is 3H/48 in all of them.
    """
    tuned = {"model.branch_weight": tuned_weight, "model.overlap": 3 / 48}
    changes = {**ATTENTION_DRIVEN_ROWS, "tuned": tuned}

    def words(name: str) -> str:
        return name.replace("intra_inter", "intra+inter").replace("_", " ")

    return {
        name: _attention_driven_row(data_set, tables, words(name), changes[name], *figures)
        for tables, rows in printed.items()
        for name, figures in rows.items()
    }


def attention_driven_weights(data_set: str, rows: Mapping[float, Figures]) -> dict[str, Variant]:
    """Variants `lambda_{value}`: the weight of the branches' losses (Table 10).

    Args:
        data_set: as the table names it.
        rows: rank-1 and mAP in percent, by lambda.
    """
    return {
        f"lambda_{value}": _attention_driven_row(
            data_set, "10", f"lambda = {value}", {"model.branch_weight": value}, *figures
        )
        for value, figures in rows.items()
    }


def attention_driven_overlaps(data_set: str, rows: Mapping[int, Figures]) -> dict[str, Variant]:
    """Variants `beta_{k}`: how far parts reach over their joints, k H/48 (Table 11).

    The default, H/10, is 4.8 H/48, and the figures of 5 H/48 are its.

    Args:
        data_set: as the table names it.
        rows: rank-1, mAP, rank-5 and rank-10 in percent, by k.
    """
    return {
        f"beta_{k}": _attention_driven_row(
            data_set, "11", f"beta = {k}H/48", {"model.overlap": k / 48}, *figures
        )
        for k, figures in rows.items()
    }


def attention_driven_networks(data_set: str) -> dict[str, Variant]:
    """The rows and readings whose networks differ, to pretrain each: named as they are.

    Args:
        data_set: to pretrain on.
    """
    rows = {
        **ATTENTION_DRIVEN_ROWS,
        **{name: row.changes for name, row in attention_driven_readings(data_set).items()},
    }
    networks = {
        name: {
            key: value
            for key, value in changes.items()
            if key.startswith("model.") and key not in _NOT_OF_THE_NETWORK
        }
        for name, changes in rows.items()
    }
    return {
        name: Variant(changes, {}, data_set, f"to start {name} from: ours")
        for name, changes in networks.items()
        if changes
    }


def attention_driven_readings(data_set: str) -> dict[str, Variant]:
    """Variants that no table has: other readings of the paper, and all of it without joints.

    Args:
        data_set: as the tables name it.
    """
    readings: dict[str, tuple[dict[str, Any], str]] = {
        "strips": (_STRIPS, "strips for parts"),
        "pool": ({"model.mask_entry": "pool"}, "masks from a block's input"),
        "bilinear": ({"model.upsample": "bilinear"}, "masks enlarged bilinearly"),
        "no_shortcut": ({"model.shortcut": "none"}, "shortcuts without parameters"),
        "no_arms": ({"model.arms_in_torso": False}, "the upper body without the arms"),
        "no_norm": ({"model.test_norm": False}, "halves compared at their lengths"),
    }
    return {
        name: Variant(changes, {}, data_set, f"{words}: ours")
        for name, (changes, words) in readings.items()
    }


def _attention_driven_row(
    data_set: str,
    tables: str,
    row: str,
    changes: Mapping[str, Any],
    rank1: float | None,
    mean_ap: float | None = None,
    rank5: float | None = None,
    rank10: float | None = None,
    rank20: float | None = None,
) -> Variant:
    return table_row(data_set, tables, row, changes, rank1, rank5, rank20, mean_ap, rank10=rank10)
