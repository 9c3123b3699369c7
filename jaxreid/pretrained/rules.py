"""What the layers of published weights are called here: one table for each architecture.

A rule is a regular expression for the whole name of a layer, and ours for it. The first rule that
fits counts. Leaves need no rules: their names and numbers of axes say what they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from jaxreid.errors import UserError, nearest

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
Colour = tuple[float, float, float]

# RGB mean and deviation of ImageNet in 0..1, as torchvision, timm and Hugging Face use them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Of pixels from -1 to 1.
EVEN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What a rule says of a layer that files have and that has no meaning here.
IGNORED = "ignored"


class Architecture(NamedTuple):
    """How to read one network's weights.

    Attributes:
        torch: rules for files in PyTorch's manner; none if there are no such weights.
        caffe: the same for Caffe.
        torch_preprocessing: RGB mean and deviation, in 0..1.
        caffe_mean: RGB mean in grey levels; the deviation is 1.
        first: the layer that sees the image, whose channels Caffe orders B, G, R.
        unrolled: linear layers that see an unrolled map: its channels, height and width.
        heads: layers that another network may lack or have in another size.
        whole: a whole network, whose weights do not go below `backbone`.
        around: the backbone of a whole network: files are recognised where that is asked for.
        folded: of a convolution with a bias, by its published name, the BatchNorm that was folded
            into it, if the file lacks that: exporters do so.
        backbone: the backbone of a whole network: files that hold it alone will do.
        unshifted: layers whose bias is zero in files, and which have none here.
        copies: by the names of layers that a file may lack, those that they start as.
    """

    torch: Rules = ()
    caffe: Rules = ()
    torch_preprocessing: tuple[Colour, Colour] = IMAGENET
    caffe_mean: Colour = (123.0, 117.0, 104.0)
    first: str = "conv1"
    unrolled: Mapping[str, tuple[int, int, int]] = MappingProxyType({})
    heads: str = "classifier"
    whole: bool = False
    around: str | None = None
    folded: Rules = ()
    backbone: str | None = None
    unshifted: str | None = None
    copies: Mapping[str, str] = MappingProxyType({})


# The layers that are linear here. Some files hold them as convolutions.
LINEAR = (
    r"(.*/)?(classifier\w*|fc[67]?|aux\d_(fc|classifier)|cosam\d/\w+|head/\w+|non_local\w+/\w+"
    r"|(local_)?block\d*/\w+)"
)

DENSENET: Rules = [
    (r"features\.(conv0|norm0|norm5)", r"\1"),
    # Until 2018 torchvision wrote `norm.1` for `norm1`.
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.(norm|conv)\.?([12])", r"block\1_layer\2_\3\4"),
    (r"features\.transition(\d)\.(norm|conv)", r"transition\1_\2"),
    (r"classifier", "classifier"),
]


def _hugging_face(match: re.Match[str]) -> str:
    """A layer of `transformers`' ResNet, which counts stages and convolutions from 0."""
    stage, block, place, kind = match.groups()
    kind = {"convolution": "conv", "normalization": "bn"}[kind]
    layer = f"downsample_{kind}" if place == "shortcut" else f"{kind}{int(place[-1]) + 1}"
    return f"layer{int(stage) + 1}_{block}_{layer}"


BOTTLENECKS: Rules = [
    (r"(layer\d)\.(\d+)\.((?:conv|bn)\d)", r"\1_\2_\3"),
    (r"(layer\d)\.(\d+)\.downsample\.0", r"\1_\2_downsample_conv"),
    (r"(layer\d)\.(\d+)\.downsample\.1", r"\1_\2_downsample_bn"),
    (r"fc|last_linear", "classifier"),
]
RESNET: Rules = [
    (r"(conv1|bn1)", r"\1"),
    *BOTTLENECKS,
    (r"(?:resnet\.)?embedder\.embedder\.convolution", "conv1"),
    (r"(?:resnet\.)?embedder\.embedder\.normalization", "bn1"),
    (
        r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer\.\d)\."
        r"(convolution|normalization)",
        _hugging_face,
    ),
    # Hugging Face's, and torchreid's.
    (r"classifier(?:\.1)?", "classifier"),
]
RESNET_IBN_A: Rules = [
    (r"(layer\d)\.(\d+)\.bn1\.IN", r"\1_\2_bn1_in"),
    (r"(layer\d)\.(\d+)\.bn1\.BN", r"\1_\2_bn1"),
    *RESNET,
]
# The port of the Caffe model. Files with `se` for `se_module` are of another network: it strides
# in the 3x3 convolution.
SE_RESNET: Rules = [
    (r"layer0\.(conv1|bn1)", r"\1"),
    (r"(layer\d)\.(\d+)\.se_module\.(fc[12])", r"\1_\2_se_\3"),
    *BOTTLENECKS,
]

# The released networks of COSAM. ResNet's layers have lost their names there, and its modules are
# counted from layer 1 on; those of SE-ResNet from the stem on.
_COSAM_LAYERS = {
    r"dim_reduction\.0": "reduce",
    r"dim_reduction\.1": "reduce_bn",
    r"spatial_mask_summary\.0": "summary_hidden",
    r"spatial_mask_summary\.1": "summary_bn",
    r"spatial_mask_summary\.3": "summary",
    r"channelwise_attention\.0": "channel_hidden",
    r"channelwise_attention\.2": "channel",
}
_COSAM_HEADS: Rules = [
    (r"aggregation\.attention_conv", "head/spatial"),
    (r"aggregation\.attention_tconv", "head/temporal"),
    (r"aggregation\.lstm", "head/lstm"),
    (r"classifier", "classifier"),
]


def _cosam_modules(first: int) -> Rules:
    """Of the modules behind block `first` (1 is the stem), the next one, and so on."""
    return [
        (
            rf"attention_modules\.attention_modules\.{block - first}\.{theirs}",
            f"cosam{block}/{ours}",
        )
        for block in range(first, 6)
        for theirs, ours in _COSAM_LAYERS.items()
    ]


COSAM_SE_RESNET: Rules = [
    *[(rf"base\.(?:{theirs})", rf"backbone/{ours}") for theirs, ours in SE_RESNET],
    *_cosam_modules(first=1),
    *_COSAM_HEADS,
]


def _cosam_stage(match: re.Match[str]) -> str:
    """A layer of ResNet's stage 1 to 4, which is the release's child 4 to 7."""
    child, block, layer = match.groups()
    layer = {"downsample.0": "downsample_conv", "downsample.1": "downsample_bn"}.get(layer, layer)
    return f"backbone/layer{int(child) - 3}_{block}_{layer}"


COSAM_RESNET: Rules = [
    (r"base\.0", "backbone/conv1"),
    (r"base\.1", "backbone/bn1"),
    (r"base\.([4-7])\.(\d+)\.((?:conv|bn)\d|downsample\.[01])", _cosam_stage),
    *_cosam_modules(first=2),
    *_COSAM_HEADS,
]


def _bot(backbone: Rules) -> Rules:
    """BoT's and AGW's released networks, and fast-reid's, whose head had three names in time."""
    return [
        *[
            (rf"(?:base|backbone)\.(?:{theirs})", _below_backbone(ours))
            for theirs, ours in backbone
        ],
        (r"(?:base|backbone)\.NL_(\d)\.(\d)\.(g|theta|phi)", r"non_local\1_\2/\3"),
        (r"(?:base|backbone)\.NL_(\d)\.(\d)\.W\.0", r"non_local\1_\2/out"),
        (r"(?:base|backbone)\.NL_(\d)\.(\d)\.W\.1", r"non_local\1_\2/out_bn"),
        (r"global_pool|heads\.pool_layer", "pool"),
        (r"bottleneck|heads\.(?:bnneck|bottleneck(?:\.0)?)", "bottleneck"),
        (r"classifier|heads(?:\.classifier)?", "classifier"),
        # Of fast-reid's `pixel_mean` and `pixel_std`, which belong to no layer.
        ("", "backbone"),
    ]


def _below_backbone(
    ours: str | Callable[[re.Match[str]], str],
) -> str | Callable[[re.Match[str]], str]:
    if isinstance(ours, str):
        return f"backbone/{ours}"
    return lambda match: f"backbone/{ours(match)}"


GOOGLENET: Rules = [
    (r"conv1/7x7_s2", "conv1"),
    (r"conv2/3x3_reduce", "conv2_reduce"),
    (r"conv2/3x3", "conv2"),
    (r"inception_(\d\w)/(1x1|3x3_reduce|3x3|5x5_reduce|5x5|pool_proj)", r"inception\1_\2"),
    (r"loss([12])/(conv|fc|classifier)", r"aux\1_\2"),
    (r"loss3/classifier", "classifier"),
]
# torchvision counts its stem 1, 2, 3, and puts each convolution and its BatchNorm into a module.
_CONVOLUTIONS = {
    r"conv1": "conv1",
    r"conv2": "conv2_reduce",
    r"conv3": "conv2",
    r"inception(\d\w)\.branch1": r"inception\1_1x1",
    r"inception(\d\w)\.branch2\.0": r"inception\1_3x3_reduce",
    r"inception(\d\w)\.branch2\.1": r"inception\1_3x3",
    r"inception(\d\w)\.branch3\.0": r"inception\1_5x5_reduce",
    r"inception(\d\w)\.branch3\.1": r"inception\1_5x5",
    r"inception(\d\w)\.branch4\.1": r"inception\1_pool_proj",
    r"aux(\d)\.conv": r"aux\1_conv",
}
GOOGLENET_BN: Rules = [
    *[(rf"{theirs}\.conv", ours) for theirs, ours in _CONVOLUTIONS.items()],
    *[(rf"{theirs}\.bn", rf"{ours}_bn") for theirs, ours in _CONVOLUTIONS.items()],
    (r"aux(\d)\.fc1", r"aux\1_fc"),
    (r"aux(\d)\.fc2", r"aux\1_classifier"),
    (r"fc", "classifier"),
]

# PyTorch counts ReLUs and poolings, too.
_VGG_PLACES = {
    "conv1_1": 0, "conv1_2": 2,
    "conv2_1": 5, "conv2_2": 7,
    "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21,
    "conv5_1": 24, "conv5_2": 26, "conv5_3": 28,
}  # fmt: skip
VGG_TORCH: Rules = [
    *[(rf"features\.{place}", ours) for ours, place in _VGG_PLACES.items()],
    (r"classifier\.0|pre_logits\.fc1", "fc6"),
    (r"classifier\.3|pre_logits\.fc2", "fc7"),
    (r"classifier\.6|head\.fc", "classifier"),
]
VGG_CAFFE: Rules = [(r"conv\d_\d|fc[67]", r"\g<0>"), (r"fc8", "classifier")]
CAFFENET: Rules = [(r"conv\d|fc[67]", r"\g<0>"), (r"fc8", "classifier")]


def _stream(match: re.Match[str]) -> str:
    """A layer of a light convolution. OSNet's streams are a to d, OSNet-AIN's are counted from 0.

    The stream of one light convolution has no number behind it in OSNet.
    """
    stage, block, letter, number, place, layer = match.groups()
    depth = "abcd".index(letter) + 1 if letter else int(number) + 1
    return f"{stage}_{block}_stream{depth}_{place or 0}_{'norm' if layer == 'bn' else layer}"


# torchreid's.
OSNET: Rules = [
    (r"(conv[15])\.conv", r"\1"),
    (r"(conv[15])\.bn", r"\1_norm"),
    (r"(conv[2-4])\.(\d)\.(conv[13]|downsample)\.conv", r"\1_\2_\3"),
    (r"(conv[2-4])\.(\d)\.(conv[13]|downsample)\.bn", r"\1_\2_\3_norm"),
    (
        r"(conv[2-4])\.(\d)\.conv2(?:([a-d])|\.(\d)\.layers)(?:\.(\d))?\.(conv[12]|bn)",
        _stream,
    ),
    (r"(conv[2-4])\.(\d)\.gate\.(fc[12])", r"\1_\2_gate_\3"),
    # OSNet-IBN normalises behind the sum, OSNet-AIN in the place of the last BatchNorm.
    (r"(conv[2-4])\.(\d)\.IN", r"\1_\2_in"),
    (r"(?:conv|pool)([23])\.(?:\d\.)?0\.conv", r"pool\1"),
    (r"(?:conv|pool)([23])\.(?:\d\.)?0\.bn", r"pool\1_norm"),
    (r"fc\.0", "fc"),
    (r"fc\.1", "fc_norm"),
    (r"classifier", "classifier"),
]

# timm's vision transformer, and the names of TransReID's.
VIT: Rules = [
    (r"patch_embed\.proj", "patch"),
    (r"blocks\.(\d+)\.(norm[12])", r"block\1/\2"),
    (r"blocks\.(\d+)\.(?:attn|mlp)\.(qkv|proj|fc[12])", r"block\1/\2"),
    (r"norm", "norm"),
    # ImageNet's, of which some files have two.
    (r"head|fc", "classifier"),
    (r"pre_logits\.fc", "classifier_hidden"),
    ("", ""),  # what belongs to no layer: the class token, and the positions
]
# CLIP's image encoder, below OpenAI's name of it, or CLIP-ReID's.
_CLIP = r"(?:visual|image_encoder)"
_CLIP_LAYERS: Rules = [
    (r"conv1", "patch"),
    (r"ln_pre", "norm_pre"),
    (r"ln_post", "norm"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])", r"block\1/norm\2"),
    (r"transformer\.resblocks\.(\d+)\.attn", r"block\1/qkv"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj", r"block\1/proj"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc", r"block\1/fc1"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj", r"block\1/fc2"),
]
CLIP: Rules = [
    *[(rf"{_CLIP}\.{theirs}", ours) for theirs, ours in _CLIP_LAYERS],
    (_CLIP, ""),
    # Texts have no meaning here.
    (r"|(?:transformer|token_embedding|ln_final)(?:\..*)?", IGNORED),
]


def _transreid(*special: tuple[str, str]) -> Rules:
    """TransReID's released networks; `special` rules go before those of the transformer."""
    return [
        *special,
        (r"base\.fc", IGNORED),  # of ImageNet's classes, and never trained
        *[(rf"base\.(?:{theirs})", _below_backbone(ours)) for theirs, ours in VIT if theirs],
        ("base", "backbone"),
        (r"bottleneck(_\d)?", r"bottleneck\1"),
        (r"classifier(_\d)?", r"classifier\1"),
    ]


TRANSREID = _transreid()
# Its last block stands in the file three times: as it started, of the whole, and of the parts.
TRANSREID_JPM = _transreid(
    (r"base\.(?:blocks\.11\..*|norm)", IGNORED),
    *[
        (rf"{branch}\.0\.{theirs}", rf"backbone/{block}/\1")
        for branch, block in (("b1", "block11"), ("b2", "local_block"))
        for theirs in (r"(norm[12])", r"(?:attn|mlp)\.(qkv|proj|fc[12])")
    ],
    (r"b1\.1", "backbone/norm"),
    (r"b2\.1", "backbone/local_norm"),
)
CLIPREID: Rules = [
    (r"(?:prompt_learner|text_encoder)(?:\..*)?", IGNORED),
    *[(rf"{_CLIP}\.{theirs}", _below_backbone(ours)) for theirs, ours in _CLIP_LAYERS],
    (_CLIP, "backbone"),
    (r"bottleneck(_proj)?", r"bottleneck\1"),
    (r"classifier(_proj)?", r"classifier\1"),
    ("", ""),  # the cameras' embedding
]

OSNET_FOLDED: Rules = [(r"(.*)\.conv2?", r"\1.bn")]
OSNETS = (
    *("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "osnet_ibn_x1_0"),
    *("osnet_ain_x1_0", "osnet_ain_x0_75", "osnet_ain_x0_5", "osnet_ain_x0_25"),
)

AUXILIARY = {"aux1_fc": (128, 4, 4), "aux2_fc": (128, 4, 4)}

ARCHITECTURES = {
    "densenet121": Architecture(torch=DENSENET),
    "resnet50": Architecture(torch=RESNET),
    "resnet50_ibn_a": Architecture(torch=RESNET_IBN_A),
    "se_resnet50": Architecture(torch=SE_RESNET),
    "bot_resnet50": Architecture(
        torch=_bot(RESNET), whole=True, backbone="resnet50", unshifted="bottleneck"
    ),
    "bot_resnet50_ibn_a": Architecture(
        torch=_bot(RESNET_IBN_A), whole=True, backbone="resnet50_ibn_a", unshifted="bottleneck"
    ),
    "cosam_resnet50": Architecture(torch=COSAM_RESNET, whole=True, around="resnet50"),
    "cosam_se_resnet50": Architecture(torch=COSAM_SE_RESNET, whole=True, around="se_resnet50"),
    **{name: Architecture(torch=OSNET, folded=OSNET_FOLDED) for name in OSNETS},
    "googlenet": Architecture(caffe=GOOGLENET, unrolled=AUXILIARY, heads=r"classifier|aux\d_\w+"),
    "googlenet_bn": Architecture(
        torch=GOOGLENET_BN,
        # Its `transform_input` makes (x - 0.5) / 0.5 of what is normalised by ImageNet's mean.
        torch_preprocessing=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        unrolled=AUXILIARY,
        heads=r"classifier|aux\d_\w+",
    ),
    "vgg16": Architecture(
        torch=VGG_TORCH,
        caffe=VGG_CAFFE,
        caffe_mean=(123.68, 116.779, 103.939),
        first="conv1_1",
        unrolled={"fc6": (512, 7, 7)},
        heads="classifier|fc[67]",
    ),
    "vit_b16": Architecture(torch=VIT, torch_preprocessing=EVEN, heads=r"classifier\w*"),
    "vit_b16_jpm": Architecture(
        torch=VIT,
        torch_preprocessing=EVEN,
        heads=r"classifier\w*",
        copies={"local_block": "block11", "local_norm": "norm"},
    ),
    "clip_vit_b16": Architecture(torch=CLIP, torch_preprocessing=EVEN),
    "transreid_vit_b16": Architecture(
        torch=TRANSREID,
        torch_preprocessing=EVEN,
        whole=True,
        backbone="vit_b16",
        unshifted=r"bottleneck",
    ),
    "transreid_vit_b16_jpm": Architecture(
        torch=TRANSREID_JPM,
        torch_preprocessing=EVEN,
        whole=True,
        backbone="vit_b16_jpm",
        unshifted=r"bottleneck\w*",
    ),
    "clipreid_vit_b16": Architecture(
        torch=CLIPREID,
        torch_preprocessing=EVEN,
        whole=True,
        backbone="clip_vit_b16",
        unshifted=r"bottleneck\w*",
    ),
    # No one publishes its weights: they come from runs of our own.
    "attention_driven": Architecture(),
    "caffenet": Architecture(
        caffe=CAFFENET, unrolled={"fc6": (256, 6, 6)}, heads="classifier|fc[67]"
    ),
}


def architecture(name: str) -> Architecture:
    """The rules of an architecture.

    Raises:
        UserError: there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise UserError(
            f"arch={name}: expected {', '.join(ARCHITECTURES)}{nearest(name, ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def rename(layer: str, rules: Rules) -> str | None:
    """Our name of a published layer, or None where no rule fits."""
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, layer):
            return match.expand(ours) if isinstance(ours, str) else ours(match)
    return None
