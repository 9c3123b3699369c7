"""TransReID: Transformer-based Object Re-Identification (He, Luo, Wang, Wang, Li, Jiang; ICCV
2021); and the image encoder of CLIP-ReID: Exploiting Vision-Language Model for Image
Re-Identification without Concrete Text Labels (Li, Sun, Li; AAAI 2023).

A vision transformer (`jaxreid.backbones.vit`) makes a vector f of an image. As in BoT, a BatchNorm
without a shift makes f_i of it, which is classified, while triplets see f:

    L = L_ID(W f_i) + L_triplet(f),    L_triplet = log(1 + exp(d(a, p) - d(a, n)))

of the farthest positive p and the nearest negative n of each anchor a. At test, f itself is made of
unit length, and compared by its Euclidean distance.

* `sie`: the side information embedding of section 3.2.2. A learned vector of the camera, times
  `sie`, is added to all vectors before the first block; of CLIP's form to the class token alone.
* `jpm`: the jigsaw patch module of section 3.2.1. A second last block sees the patches of four
  parts, each from all over the image. A part has a neck and a classifier of its own. The loss is
  1/2 L(f) + 1/8 (L(f_1) + ... + L(f_4)), and the vector at test is [f, f_1/4, ..., f_4/4].
* `form="clip"`: the vector f of 768 and its projection p of 512 have a neck and a classifier each.
  Losses are added, and triplets also see the class token before the last block. The vector at test
  is [f, p]. This is the paper's baseline; its prompts, which are of training alone, are not here.

Where the papers are silent, or the released code does otherwise:

* The shuffle has two groups, as the released configs leave it, and not as many as there are parts.
* A camera that is not among the training set's has the mean of their embeddings, and so has an
  image of no camera, as in a search. Both papers score the cameras that they were trained on.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxreid import losses, ops
from jaxreid.backbones import ViT, layers
from jaxreid.backbones.vit import Form
from jaxreid.data.sampler import Sampler
from jaxreid.errors import require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.models.inputs import images_of
from jaxreid.types import Batch, Features, Metrics, ReidModel, Variables

PARTS = 4


@dataclasses.dataclass
class Config:
    """Choices of both papers.

    Attributes:
        form: TransReID's network and losses, or CLIP-ReID's.
        stride: of the patches of 16 x 16, which overlap below 16. The papers have 16 and 12.
        sie: factor of the camera's embedding; 0 leaves it out. TransReID has 3, CLIP-ReID 1.
        cameras: how many the training set has, numbered from 1.
        jpm: the jigsaw patch module.
        jpm_shift: its shift: one patch less than this moves to the end.
        jpm_groups: of its shuffle; see `ops.jigsaw`.
        drop_path: the probability that an image goes past the last block in training; it rises
            linearly from zero in the first. CLIP-ReID has 0.
        label_smoothing: share of the target that is spread over all persons.
        pretrained: weights of ImageNet or of CLIP to start from, or of a whole network; see
            `jaxreid.pretrained`.
        backbone_width: of the transformer's vectors.
        backbone_depth: its blocks.
        backbone_heads: of each block; they divide the width.
        backbone_patch: height and width of a patch.
        backbone_projection: of CLIP's shared space.
    """

    form: Form = "transreid"
    stride: int = 16
    sie: float = 0.0
    cameras: int = 6
    jpm: bool = False
    jpm_shift: int = 5
    jpm_groups: int = 2
    drop_path: float = 0.1
    label_smoothing: float = 0.0
    pretrained: str | None = None
    backbone_width: int = 768
    backbone_depth: int = 12
    backbone_heads: int = 12
    backbone_patch: int = 16
    backbone_projection: int = 512

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("identity",)

    @property
    def arch(self) -> str:
        """The network's name in `jaxreid.pretrained`, which reads its backbone alone, too."""
        if self.form == "clip":
            return "clipreid_vit_b16"
        return "transreid_vit_b16_jpm" if self.jpm else "transreid_vit_b16"

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        patch, heads = self.backbone_patch, self.backbone_heads
        rules = {
            "stride": (1 <= self.stride <= patch, f"1 to {patch}, the size of a patch"),
            "sie": (self.sie >= 0, "0 or more"),
            "cameras": (self.cameras >= 1, "1 or more"),
            "jpm": (not (self.jpm and self.form == "clip"), "False with model.form='clip'"),
            "jpm_shift": (self.jpm_shift >= 1, "1 or more"),
            "jpm_groups": (self.jpm_groups in (1, 2, 4), "1, 2 or 4"),
            "drop_path": (0 <= self.drop_path < 1, "0 or more and less than 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 or more and less than 1"),
            "backbone_depth": (self.backbone_depth >= 1, "1 or more"),
            "backbone_patch": (patch >= 1, "1 or more"),
            "backbone_heads": (heads >= 1, "1 or more"),
            "backbone_width": (
                self.backbone_width >= 1 and self.backbone_width % max(1, heads) == 0,
                "a multiple of model.backbone_heads",
            ),
            "backbone_projection": (self.backbone_projection >= 1, "1 or more"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Cameras(nn.Module):
    """A learned vector of each camera.

    Attributes:
        number: of cameras, with ids from 1.
        width: of the vectors.
    """

    number: int
    width: int

    @nn.compact
    def __call__(self, camids: Int[Array, " b"]) -> Float[Array, "b d"]:
        """The vector of each item's camera; the mean of all where there is none of that id."""
        start = initializers.normal(0.02)
        table = self.param("embedding", start, (self.number, self.width))
        shares = nn.one_hot(camids - 1, self.number)  # all zero for an id that there is not
        known = (camids >= 1) & (camids <= self.number)
        return jnp.matmul(
            jnp.where(known[:, None], shares, 1 / self.number), table, precision="highest"
        )


class Output(NamedTuple):
    """What the network says of each image.

    Attributes:
        vectors: that are compared at test, side by side: f and its parts', or f and p.
        logits: of the training persons, for each of `vectors`.
        before_last: the class token before the last block.
    """

    vectors: tuple[Float[Array, "b _"], ...]
    logits: tuple[Float[Array, "b n"], ...]
    before_last: Float[Array, "b d"]


class Network(nn.Module):
    """The transformer, necks and classifiers."""

    config: Config
    num_ids: int
    dtype: Any

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "b h w 3"],
        camids: Int[Array, " b"],
        *,
        train: bool,
        train_backbone: bool,
    ) -> Output:
        """Runs all of it.

        Args:
            images: as decoded.
            camids: cameras, from 1; see `Cameras`.
            train: the necks' statistics are those of the batch.
            train_backbone: images go past blocks, by the key `dropout`.
        """
        c = self.config
        side = None
        if c.sie:
            side = c.sie * Cameras(c.cameras, c.backbone_width, name="cameras")(camids)
        backbone = ViT(
            c.form,
            c.stride,
            (c.jpm_shift, c.jpm_groups) if c.jpm else None,
            c.drop_path,
            c.backbone_width,
            c.backbone_depth,
            c.backbone_heads,
            c.backbone_patch,
            c.backbone_projection,
            self.dtype,
            name="backbone",
        )
        vector, maps = backbone(images, side, train=train_backbone)
        vectors = {"": vector}
        if c.jpm:
            vectors |= {f"_{part + 1}": maps["parts"][:, part] for part in range(PARTS)}
        if c.form == "clip":
            vectors["_proj"] = maps["projected"]

        def classify(name: str, x: Array) -> Float[Array, "b n"]:
            norm = layers.batch_norm(
                use_running_average=not train, use_bias=False, name=f"bottleneck{name}"
            )
            start = initializers.normal(1e-3)
            return nn.Dense(
                self.num_ids, use_bias=False, kernel_init=start, name=f"classifier{name}"
            )(norm(x))

        before_last = maps[f"block{c.backbone_depth - 2}" if c.backbone_depth > 1 else "embedded"]
        return Output(
            tuple(vectors.values()),
            tuple(classify(name, x) for name, x in vectors.items()),
            before_last[:, 0].astype(jnp.float32),
        )


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
        dtype: of the transformer's blocks; vectors, necks and losses are in float32.
        frozen: the loss leaves the backbone as it is.
        flip: features are the average over the image and its mirror image.

    Returns:
        A `ReidModel` of images. Its features are one vector `[b d]` of each, of unit length.
    """
    network = Network(config, num_ids, dtype)
    clip = config.form == "clip"

    images = partial(images_of, compares="vit describes")

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        one = images(batch)[:1]
        return dict(network.init(key, one, jnp.ones(1, int), train=False, train_backbone=False))

    def features(variables: Variables, batch: Batch) -> Features:
        def run(pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b d"]:
            camids = jnp.asarray(batch.camids)
            out: Any = network.apply(variables, pixels, camids, train=False, train_backbone=False)
            whole, *others = out.vectors
            return jnp.concatenate([whole, *(x / PARTS if config.jpm else x for x in others)], 1)

        pixels = images(batch)
        vector = run(pixels)
        if flip:
            vector = (vector + run(pixels[:, :, ::-1])) / 2
        return ops.normalise(vector)

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        return ops.pairwise_euclidean(queries, gallery)

    def weigh(first: Array, *others: Array) -> Array:
        """Of CLIP's form the sum; else half of the first, and half of the mean of the others."""
        if clip or not others:
            return sum(others, first)
        return (first + sum(others) / len(others)) / 2

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del step
        if frozen:
            variables = freeze_backbone(variables)
        forward: Any = partial(network.apply, mutable=["batch_stats"], rngs={"dropout": key})
        out, state = forward(
            variables, images(batch), batch.camids, train=True, train_backbone=not frozen
        )

        def triplet(x: Float[Array, "b _"]) -> Float[Array, ""]:
            distmat = ops.pairwise_euclidean(x, x)
            return losses.batch_hard_triplet(distmat, batch.pids, None, batch.positives)

        entropy = partial(
            losses.cross_entropy, labels=batch.pids, label_smoothing=config.label_smoothing
        )
        compared = (*out.vectors, out.before_last) if clip else out.vectors
        terms = {
            "triplet": weigh(*map(triplet, compared)),
            "cross_entropy": weigh(*map(entropy, out.logits)),
        }
        accuracy = jnp.mean(jnp.argmax(out.logits[0], axis=1) == batch.pids)
        return terms["triplet"] + terms["cross_entropy"], (state, {**terms, "accuracy": accuracy})

    return ReidModel(
        *(init, features, distance, loss),
        chance={
            "triplet": (3 if clip else 1) * math.log(2),
            "cross_entropy": (2 if clip else 1) * math.log(num_ids),
        },
    )
