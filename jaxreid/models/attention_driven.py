"""Attention Driven Person Re-identification
(Yang, Yan, Lu, Jia, Xie, Gao; Pattern Recognition 2019).

Five branches look at five crops of an image: the whole body, and head, upper body, upper legs and
lower legs where the joints are. They share their first convolution. From the second block of a
branch on, a mask raises what matters (intra-attention), and the parts are weighed against each
other before they are joined (inter-attention):

    a_i = F(v_i),  m_i = σ(conv(S_i C_i)),  v_{i+1} = (1 + m_i) a_i      Eqs. (3), (4), (7)
    S_i = conv(A_i) of one channel,  C_i = conv(mean over places of A_i)  Eq. (6)
    μ_i = σ(w_iᵀ E_i + b_i),  E_l = [(1 + μ_1) E_1, ..., (1 + μ_4) E_4]   Eqs. (8), (9)
    L = λ Σ_j CE(E_j) + CE([E_g, E_l])                                    Eqs. (10), (11)

A_i comes from an encoder that pools and a decoder that enlarges. Images are compared by the
Euclidean distance of [E_g / |E_g|, E_l / |E_l|]. Without biases, BatchNorm and classifiers, as
Table 12 counts, the branches have 7,225,184 weights and 2.05 G multiply-adds, the masks 3,743,360
and 0.32 G more. The paper prints 6.8 M, 2.26 G, 3.6 M and 0.43 G; no reading of it meets them all.

Where the paper is silent, or contradicts itself:

* The mask path of a block starts behind the block's first unit, which has a_i's size already, and
  pools twice in block 2 and once in blocks 3 and 4, one residual unit at each level: the
  arrangement of the network that Eq. (7) is from (Wang et al., CVPR 2017). `mask_entry="pool"`
  starts at v_i, as Eq. (4) is printed; block 3 then has no decoder.
* The decoder adds the encoder's map of the same size at every level, where it starts included.
* Without the decomposition (Table 8), a 3x3 convolution to all channels stands for S_i C_i.
* A unit's way around its convolutions has a 1x1 convolution where the shape changes;
  `shortcut="none"` has no parameters there, and is nearest to Table 12 (6,879,072).
* The masks' last convolution starts at a tenth of Glorot's.
* BatchNorm behind the shared convolution sees the pixels of all branches together.
* E is the ReLU of its layer, and nothing keeps the branches' losses from the shared convolution.
* Without inter-attention the loss is the sum of the branches', and E_l = [E_1, ..., E_4]: Table 9's
  concatenation is Table 6's "aligned". "FC" joins them in a layer that is as wide as what it joins.
* One branch alone has its own classifier's loss, and the parts have E_l alone (Table 7).
* Of each image its own mean colour is subtracted, and is what lies outside of it.
* An image of which no joint was found is cut into four equal strips.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxreid import losses
from jaxreid.backbones.slim_resnet import Bottleneck, batch_norm, conv, linear, max_pool
from jaxreid.data.sampler import Sampler
from jaxreid.errors import UserError, require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.models.inputs import images_of
from jaxreid.ops.boxes import body_part_boxes, crop_and_resize, strip_boxes
from jaxreid.ops.distance import normalise, pairwise_euclidean
from jaxreid.types import AttentionMap, Batch, Features, Metrics, ReidModel, Variables

# In the order of the boxes R0..R4.
BRANCHES = ("global", "head", "upper_body", "upper_legs", "lower_legs")
# Strides of blocks 1 to 4, and how often the masks of blocks 2 to 4 pool.
_STRIDES, _POOLED = (1, 2, 2, 1), (0, 2, 1, 1)
# A tenth of Glorot's. S_i C_i is a product of two sums over maps that are sums themselves: from
# Glorot's start, 85 % of the masks of block 2 begin within 0.01 of 0 or 1, where they do not learn.
_fuse_start = nn.initializers.variance_scaling(0.01, "fan_avg", "uniform")


@dataclasses.dataclass
class Config:
    """Choices of the paper's sections 3 and 4, and the rows of its tables.

    Attributes:
        parts: from the joints, or four equal strips of every image (Table 6, "baseline").
        branches: all, the four parts, or one alone (Table 7).
        intra: masks in blocks 2 to 4.
        decomposed: masks from spatial and channel attention (Table 8).
        mask_entry: where a mask path starts: behind the block's first unit, or at its input.
        upsample: how the decoder doubles a map.
        inter: how branches are joined (Table 9): Eqs. (8)-(9), as they are at test alone, or by a
            layer.
        branch_weight: λ of Eq. (11).
        overlap: β / H of Eq. (2).
        arms_in_torso: whether the upper body is bounded by elbows and wrists, too.
        size: (height, width) of the whole body's crop; a part's is a quarter as high.
        shortcut: of units that change the shape.
        dropout: probability to drop, before every classifier.
        test_norm: compare E_g and E_l as unit vectors, so that both count alike.
        pretrained: weights of the branches; see `jaxreid.pretrained`.
        backbone_units: residual units of a block.
        backbone_width: channels of the first convolution; a part's branch is half as wide as the
            whole body's.
    """

    parts: Literal["joints", "strips"] = "joints"
    branches: Literal[
        "all", "parts", "global", "head", "upper_body", "upper_legs", "lower_legs"
    ] = "all"
    intra: bool = True
    decomposed: bool = True
    mask_entry: Literal["residual", "pool"] = "residual"
    upsample: Literal["nearest", "bilinear"] = "nearest"
    inter: Literal["attention", "concat", "fc"] = "attention"
    branch_weight: float = 0.5
    overlap: float = 0.1
    arms_in_torso: bool = True
    size: tuple[int, int] = (384, 192)
    shortcut: Literal["projection", "none"] = "projection"
    dropout: float = 0.5
    test_norm: bool = True
    pretrained: str | None = None
    backbone_units: int = 3
    backbone_width: int = 32

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("shuffle", "identity")

    @property
    def arch(self) -> str:
        """The backbone's name."""
        return "attention_driven"

    @property
    def names(self) -> tuple[str, ...]:
        """The branches that there are, in the order of `BRANCHES`."""
        several = {"all": BRANCHES, "parts": BRANCHES[1:]}
        return several.get(self.branches, (self.branches,))

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        height, width = self.size
        rules = {
            "branch_weight": (self.branch_weight >= 0, "0 or more"),
            "overlap": (self.overlap >= 0, "0 or more"),
            # A part is a quarter as high, and the masks of block 2 pool a sixteenth of that.
            "size": (
                min(self.size) > 0 and height % 64 == 0 and width % 32 == 0,
                "a height of a multiple of 64 and a width of a multiple of 32",
            ),
            "dropout": (0 <= self.dropout < 1, "0 or more and less than 1"),
            "backbone_units": (self.backbone_units >= 1, "1 or more"),
            "backbone_width": (
                self.backbone_width >= 2 and self.backbone_width % 2 == 0,
                "an even number of 2 or more",
            ),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Mask(nn.Module):
    """Eqs. (4) and (6): the attention that a block pays to places and channels.

    Attributes:
        config: choices.
        features: channels of a_i.
        pooled: how often the encoder halves the map.
        dtype: of the maps.
    """

    config: Config
    features: int
    pooled: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b _ _ _"], size: tuple[int, ...], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """m_i of that (height, width), from where the mask path starts."""
        c = self.config
        encoded = [x]
        for level in range(1, self.pooled + 1):
            unit = Bottleneck(
                self.features, shortcut=c.shortcut, dtype=self.dtype, name=f"unit{level}"
            )
            encoded.append(unit(max_pool(encoded[-1]), train=train))
        x = encoded.pop()
        while x.shape[1:3] != size:
            x, same_size = upsample(x, c.upsample), encoded.pop()
            # Block 4's input, where the path starts there, has half of the channels.
            x = x + same_size if x.shape == same_size.shape else x
        return attention_mask(x, self.features, c.decomposed, self.dtype)


def attention_mask(
    x: Float[Array, "b h w c"], features: int, decomposed: bool, dtype: Any
) -> Float[Array, "b h w d"]:
    """Eq. (6): m_i from A_i. Called inside of a module, whose own the layers become.

    Args:
        x: A_i.
        features: channels of m_i.
        decomposed: whether by spatial and channel attention.
        dtype: of the layers.
    """
    conv_ = partial(conv, use_bias=True, dtype=dtype)
    if decomposed:
        spatial = conv_(1, (3, 3), name="spatial")(x)  # S_i
        mean = x.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)
        x = spatial * conv_(features, (1, 1), name="channel")(mean)  # S_i C_i
    else:
        x = conv_(features, (3, 3), name="whole")(x)
    return nn.sigmoid(conv_(features, (1, 1), kernel_init=_fuse_start, name="fuse")(x))


def upsample(
    x: Float[Array, "b h w c"], method: Literal["nearest", "bilinear"]
) -> Float[Array, "b _ _ c"]:
    """A map of twice the height and width."""
    if method == "nearest":
        return x.repeat(2, axis=1).repeat(2, axis=2)
    b, height, width, channels = x.shape
    return jax.image.resize(x, (b, 2 * height, 2 * width, channels), "bilinear")


class Block(nn.Module):
    """B_i: residual units, and from the second block on a mask.

    Attributes:
        config: choices.
        features: channels of a_i.
        stride: of the first unit.
        pooled: see `Mask`; 0 for no mask.
        dtype: of the maps.
    """

    config: Config
    features: int
    stride: int
    pooled: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, v: Float[Array, "b _ _ _"], *, train: bool
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"] | None]:
        """v_{i+1}, and m_i if there is one."""
        c = self.config
        unit = partial(Bottleneck, self.features, shortcut=c.shortcut, dtype=self.dtype)
        a = first = unit(self.stride, name="unit1")(v, train=train)
        for number in range(2, c.backbone_units + 1):
            a = unit(name=f"unit{number}")(a, train=train)  # Eq. (3)
        if not self.pooled:
            return a, None
        mask = Mask(c, self.features, self.pooled, self.dtype, name="mask")
        entry = first if c.mask_entry == "residual" else v
        m = mask(entry, a.shape[1:3], train=train)
        return (1 + m) * a, m  # Eq. (7)


class Backbone(nn.Module):
    """The branches of Table 1 up to Conv5x: what is trained on ImageNet first."""

    config: Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, crops: dict[str, Float[Array, "b _ _ 3"]], *, train: bool
    ) -> tuple[dict[str, Float[Array, "b _ _ _"]], dict[str, list[Float[Array, "b _ _ _"]]]]:
        """The last map of each branch, and its masks in the order of the blocks."""
        c = self.config
        conv1 = conv(c.backbone_width, (3, 3), (2, 2), dtype=self.dtype, name="conv1")
        first = {name: conv1(crop) for name, crop in crops.items()}
        # The pixels of all branches, one after another.
        flat = [x.reshape(x.shape[0], -1, c.backbone_width) for x in first.values()]
        norm = batch_norm(use_running_average=not train, dtype=self.dtype, name="bn1")
        ends = [sum(x.shape[1] for x in flat[:k]) for k in range(1, len(flat))]
        pixels = jnp.split(nn.relu(norm(jnp.concatenate(flat, axis=1))), ends, axis=1)

        maps: dict[str, Array] = {}
        masks: dict[str, list[Array]] = {}
        for name, values in zip(first, pixels):
            x, masks[name] = values.reshape(first[name].shape), []
            whole = name == "global"
            x = max_pool(x, (2, 2) if whole else (1, 2))
            features = 2 * c.backbone_width if whole else c.backbone_width
            for number, (stride, pooled) in enumerate(zip(_STRIDES, _POOLED), 1):
                block = Block(
                    c,
                    features * 2 ** (number - 1),
                    stride,
                    pooled if c.intra else 0,
                    self.dtype,
                    name=f"{name}_block{number}",
                )
                x, m = block(x, train=train)
                masks[name] += [] if m is None else [m]
            maps[name] = x
        return maps, masks


class Join(nn.Module):
    """From the branches' vectors to E_g and E_l: inter-attention, or what Table 9 has besides."""

    config: Config

    @nn.compact
    def __call__(self, vectors: dict[str, Float[Array, "b _"]]) -> tuple[Float[Array, "b _"], ...]:
        """E_g and E_l, as far as there are such; or what a layer makes of both."""
        inter = self.config.inter
        parts = []
        # Not in the dictionary's own order, which is another one where JAX has unpacked it.
        for name in BRANCHES[1:]:
            if name not in vectors:
                continue
            vector = vectors[name]
            if inter == "attention" and len(vectors) > 1:
                mu = nn.sigmoid(linear(1, name=name)(vector))  # Eq. (8)
                vector = (1 + mu) * vector
            parts.append(vector)
        halves = [vectors["global"]] if "global" in vectors else []
        halves += [jnp.concatenate(parts, axis=1)] if parts else []  # Eq. (9)
        if inter == "fc" and len(vectors) > 1:
            joined = jnp.concatenate(halves, axis=1)
            halves = [nn.relu(linear(joined.shape[1], name="fc")(joined))]
        return tuple(halves)


class Output(NamedTuple):
    """What the network says of each image.

    Attributes:
        halves: see `Join`.
        logits: of the training persons, by the branch; `fused` of what joins them.
        masks: m_2, m_3 and m_4 by the branch, each its mean over the channels.
    """

    halves: tuple[Float[Array, "b _"], ...]
    logits: dict[str, Float[Array, "b n"]]
    masks: dict[str, list[Float[Array, "b _ _"]]]


class Network(nn.Module):
    """Backbone, the branches' vectors, what joins them, and the classifiers."""

    config: Config
    num_ids: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, crops: dict[str, Float[Array, "b _ _ 3"]], *, train: bool, train_backbone: bool
    ) -> Output:
        """Runs all of it.

        Args:
            crops: of each branch, the mean colour subtracted.
            train: whether to drop.
            train_backbone: BatchNorm by the statistics of the batch.
        """
        c = self.config

        def classify(x: Float[Array, "b d"], name: str) -> Float[Array, "b n"]:
            x = nn.Dropout(c.dropout, deterministic=not train)(x)
            return linear(self.num_ids, use_bias=False, name=f"{name}_classifier")(x)  # Eq. (10)

        maps, masks = Backbone(c, self.dtype, name="backbone")(crops, train=train_backbone)
        vectors = {}
        for name, x in maps.items():
            x = x.mean(axis=(1, 2), dtype=jnp.float32)
            vectors[name] = nn.relu(linear(x.shape[-1] // 2, name=f"{name}_reduce")(x))
        logits = {name: classify(vector, name) for name, vector in vectors.items()}

        halves = Join(c, name="join")(vectors)
        if c.inter != "concat" and len(vectors) > 1:
            logits["fused"] = classify(jnp.concatenate(halves, axis=1), "fused")
        means = {
            name: [m.mean(axis=-1, dtype=jnp.float32) for m in found]
            for name, found in masks.items()
        }
        return Output(halves, logits, means)


def make(
    config: Config,
    num_ids: int,
    *,
    dtype: Any = jnp.float32,
    frozen: bool = False,
    flip: bool = False,
) -> ReidModel:
    """Builds the method's pure functions.

    Args:
        config: choices.
        num_ids: training persons.
        dtype: of the maps; crops, vectors and losses are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the image and its mirror image.

    Returns:
        A `ReidModel` of images. Its features are one vector `[b d]` of each image.
    """
    network = Network(config, num_ids, dtype)

    def boxes_of(batch: Batch) -> Float[Array, "b 5 4"]:
        b, height, width, _ = images_of(batch, "attention_driven compares").shape
        strips = jnp.broadcast_to(strip_boxes(height, width)[None], (b, 5, 4))
        if config.parts == "strips":
            return strips
        if batch.joints is None:
            raise UserError(
                "config.model.parts='joints': the images come without joints; expected joints"
                " (config.data.joints), or config.model.parts='strips'"
            )
        joints = jnp.asarray(batch.joints)
        known = (joints[..., 2] > 0).any(axis=1)[:, None, None]
        found = body_part_boxes(joints, config.overlap, config.arms_in_torso)
        return jnp.where(known, found, strips)

    def crops_of(batch: Batch) -> dict[str, Float[Array, "b _ _ 3"]]:
        boxes = boxes_of(batch)
        images = jnp.asarray(batch.images, jnp.float32)
        images -= images.mean(axis=(1, 2), keepdims=True)
        height, width = config.size
        crops = {}
        for name in config.names:
            k = BRANCHES.index(name)
            size = (height if name == "global" else height // 4, width)
            zero = jnp.zeros((images.shape[0], 3))
            crops[name] = crop_and_resize(images, boxes[:, k : k + 1], size, zero)[:, 0]
        return crops

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        one = jax.tree.map(lambda x: x[:1], batch)
        return dict(network.init(key, crops_of(one), train=False, train_backbone=False))

    def run(variables: Variables, batch: Batch) -> Output:
        out: Any = network.apply(variables, crops_of(batch), train=False, train_backbone=False)
        return out

    def vector(variables: Variables, batch: Batch) -> Float[Array, "b d"]:
        halves = run(variables, batch).halves
        if config.test_norm:
            halves = tuple(normalise(half) for half in halves)
        return jnp.concatenate(halves, axis=1)

    def features(variables: Variables, batch: Batch) -> Features:
        plain = vector(variables, batch)
        return (plain + vector(variables, mirrored(batch))) / 2 if flip else plain

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        return pairwise_euclidean(queries, gallery)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del step
        if frozen:
            variables = freeze_backbone(variables)
        forward: Any = partial(network.apply, mutable=["batch_stats"])
        out, state = forward(
            variables,
            crops_of(batch),
            train=True,
            train_backbone=not frozen,
            rngs={"dropout": key},
        )
        entropies = {
            name: losses.cross_entropy(logits, batch.pids) for name, logits in out.logits.items()
        }
        total = jnp.stack([entropies[name] for name in config.names]).sum()
        metrics = {"branches": total}
        if "fused" in entropies:
            metrics["fused"] = entropies["fused"]
            total = config.branch_weight * total + metrics["fused"]  # Eq. (11)
        summed = jnp.stack(list(out.logits.values())).sum(axis=0)
        guesses = jnp.argmax(out.logits.get("fused", summed), axis=1)
        return total, (state, {**metrics, "accuracy": jnp.mean(guesses == batch.pids)})

    def explain(variables: Variables, batch: Batch) -> dict[str, AttentionMap]:
        """The paper's Fig. 7: the masks of the whole body, and those of the parts in one."""
        masks, boxes = run(variables, batch).masks, boxes_of(batch)
        grid = config.size[0] // 8, config.size[1] // 8  # of block 2 of the whole body
        found = {}
        for place, block in enumerate((2, 3, 4)):
            laid = {
                name: lay_back(masks[name][place], boxes[:, k], batch.images.shape[1:3], grid)
                for k, name in enumerate(BRANCHES)
                if name in masks
            }
            parts = [laid[name] for name in laid if name != "global"]
            rows = {"whole body": laid["global"]} if "global" in laid else {}
            # Neighbouring parts overlap.
            rows |= {"parts": jnp.stack(parts).max(axis=0)} if parts else {}
            maps = jnp.stack(list(rows.values()), axis=1)
            found[f"block{block}"] = AttentionMap(maps, "self", tuple(rows))
        return found

    one = math.log(num_ids)
    return ReidModel(
        *(init, features, distance, loss, explain if config.intra else None),
        chance={"branches": len(config.names) * one, "fused": one},
    )


def mirrored(batch: Batch) -> Batch:
    """The mirror images and their joints. Boxes tell nothing of left and right."""
    joints = batch.joints
    if joints is not None:
        joints = jnp.asarray(joints).at[..., 0].multiply(-1).at[..., 0].add(batch.images.shape[2])
    return batch._replace(images=batch.images[:, :, ::-1], joints=joints)


def lay_back(
    mask: Float[Array, "b h w"],
    boxes: Float[Array, "b 4"],
    image_size: tuple[int, int],
    grid: tuple[int, int],
) -> Float[Array, "b i j"]:
    """A crop's mask, on a grid over the image that the crop was cut from.

    Args:
        mask: of the crop.
        boxes: of the crops, in pixels.
        image_size: (height, width) in pixels.
        grid: (rows, columns). A cell takes the value of the mask at its centre; outside of the
            box it is 0.
    """

    def along(start: Array, end: Array, axis: int) -> tuple[Int[Array, " n"], Array]:
        pixels = (jnp.arange(grid[axis]) + 0.5) * (image_size[axis] / grid[axis])
        length = mask.shape[1 + axis]
        places = jnp.floor((pixels - start) / (end - start) * length).astype(int)
        return jnp.clip(places, 0, length - 1), (pixels > start) & (pixels < end)

    def one(mask: Array, box: Array) -> Array:
        rows, above = along(box[1], box[3], 0)
        columns, beside = along(box[0], box[2], 1)
        inside = above[:, None] & beside[None, :]
        return jnp.where(inside, mask[rows][:, columns], 0.0)

    return jax.vmap(one)(mask, boxes)
