"""BoT: Bag of Tricks and a Strong Baseline for Deep Person Re-identification (Luo, Gu, Liao, Lai,
Jiang; CVPR Workshops 2019); and AGW, which builds on it: Deep Learning for Person
Re-identification: A Survey and Outlook (Ye, Shen, Lin, Xiang, Shao, Hoi; TPAMI 2021).

ResNet-50's last map, whose stride is 1, becomes a vector f by pooling. A BatchNorm without a shift,
the neck, makes f_i of it, so that the losses that want spheres and those that want clusters need
not share a space:

    L = L_ID(W f_i) + L_triplet(f) + beta L_C(f)

with cross-entropy of smoothed labels, batch-hard triplets of Euclidean distances and the centre
loss. At test, f_i is compared by its cosine. The tricks besides are in the config of a run: warm-up
(`optim.warmup`), random erasing (`data.erase`).

AGW has non-local blocks within the backbone, generalised-mean pooling, and the weighted
regularisation triplet loss: `non_local`, `pooling` and `triplet`.

Where the papers are silent or print something else than the released code has, the code decides:

* The centre loss is the mean over the batch of squared distances; BoT prints half of their sum.
* The centres move by plain SGD at a rate of 0.5, whatever optimises the network: each goes
  2 * 0.5 / B of the way to each of its items in a batch of B. So they are no parameters here, but
  running means of persons, among the statistics (`batch_stats`): neither decayed nor counted.
* The classifier has no bias, and starts at N(0, 0.001).
* A non-local block has one inner channel (`reduc_ratio // reduc_ratio`), after each of the last two
  bottlenecks of stage 2 and the last three of stage 3. It starts as nothing: its last scale is 0.
* Of the weighted triplets, an anchor is no positive of itself; in the released code it is one, at
  distance zero.
* Centres start at zero here, where every person's is the same; there at N(0, 1).

A frozen backbone runs with its stored statistics and does not change; non-local blocks between its
bottlenecks are trained through it.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxreid import losses, ops
from jaxreid.backbones import ResNet, layers
from jaxreid.data.sampler import Sampler
from jaxreid.errors import require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.models.inputs import images_of
from jaxreid.types import Batch, Features, Metrics, ReidModel, Variables


@dataclasses.dataclass
class Config:
    """The tricks, and what AGW adds.

    Attributes:
        backbone: the network of images.
        last_stride: of its last stage.
        stem_pool: the max pooling of its stem: padded, as in torchvision and both papers' code, or
            not, and rounded up, as in fast-reid's later versions.
        pooling: of the last map: its mean, or the generalised one, whose exponent is learned.
        non_local: how many bottlenecks at the end of each stage have a non-local block behind
            them; AGW's is (0, 2, 3, 0).
        non_local_width: its inner channels.
        neck: whether a BatchNorm stands between the vector that triplets and centres see and the
            one that is classified and compared.
        distance: of the vectors at test.
        triplet: batch-hard with a margin, or AGW's weighted ones.
        margin: of batch-hard triplets, in units of the distance.
        label_smoothing: share of the target that is spread over all persons.
        centre: beta, weight of the centre loss; 0 leaves it and its centres out.
        centre_rate: learning rate of the centres.
        pretrained: weights of the backbone or of a whole network, the papers' or fast-reid's; see
            `jaxreid.pretrained`.
        backbone_layers: bottlenecks of each stage; (3, 4, 6, 3) is ResNet-50.
        backbone_width: channels of its stem.
    """

    backbone: Literal["resnet50", "resnet50_ibn_a"] = "resnet50"
    last_stride: Literal[1, 2] = 1
    stem_pool: Literal["padded", "ceil"] = "padded"
    pooling: Literal["mean", "gem"] = "mean"
    non_local: tuple[int, ...] = (0, 0, 0, 0)
    non_local_width: int = 1
    neck: bool = True
    distance: Literal["cosine", "euclidean"] = "cosine"
    triplet: Literal["batch_hard", "weighted"] = "batch_hard"
    margin: float = 0.3
    label_smoothing: float = 0.1
    centre: float = 5e-4
    centre_rate: float = 0.5
    pretrained: str | None = None
    backbone_layers: tuple[int, ...] = (3, 4, 6, 3)
    backbone_width: int = 64

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("identity",)

    @property
    def arch(self) -> str:
        """The network's name in `jaxreid.pretrained`, which reads its backbone alone, too."""
        return f"bot_{self.backbone}"

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        blocks = self.backbone_layers
        rules = {
            "backbone_layers": (len(blocks) == 4 and min(blocks) >= 1, "four stages of 1 or more"),
            "backbone_width": (
                self.backbone_width >= 2 and self.backbone_width % 2 == 0,
                "an even number, 2 or more",
            ),
            "non_local": (
                len(self.non_local) == 4
                and all(0 <= n <= depth for n, depth in zip(self.non_local, blocks)),
                "four numbers, none above its stage's of backbone_layers",
            ),
            "non_local_width": (self.non_local_width >= 1, "1 or more"),
            "margin": (self.margin >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 or more and less than 1"),
            "centre": (self.centre >= 0, "0 or more"),
            "centre_rate": (0 < self.centre_rate <= 1, "above 0, up to 1"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class NonLocal(nn.Module):
    """A non-local block, x + BN(W y), of AGW's section 3.2, Eq. (6), from which it starts as x.

    Attributes:
        width: inner channels.
        dtype: of the maps.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """The map, with what its places see of each other."""
        places = x.reshape(x.shape[0], -1, x.shape[-1])
        values, queries, keys = (
            layers.Linear(self.width, self.dtype, name=name)(places)
            for name in ("g", "theta", "phi")
        )
        # Its bias, which the normalisation takes away again, starts at zero: places differ by
        # little, which would be rounded beside it.
        start = layers.uniform(self.width**-0.5)
        out = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=start, name="out")
        norm = layers.batch_norm(
            use_running_average=not train,
            use_fast_variance=False,
            scale_init=initializers.zeros,
            dtype=self.dtype,
            name="out_bn",
        )
        y = norm(out(ops.non_local(queries, keys, values)))
        return x + y.reshape(x.shape)


class GeneralisedMean(nn.Module):
    """GeM pooling with an exponent that is learned and starts at 3."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        """One vector of each map."""
        p = self.param("p", initializers.constant(3.0), (1,))
        return ops.generalised_mean(x, p[0])


class Centres(nn.Module):
    """The running mean of each person's vectors, which the centre loss pulls towards.

    Attributes:
        num_ids: training persons.
        rate: learning rate of the centres.
    """

    num_ids: int
    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], pids: Int[Array, " b"]) -> Float[Array, ""]:
        """The loss, by the centres as they were; they move where the collection may change."""
        centres = self.variable("batch_stats", "mean", jnp.zeros, (self.num_ids, x.shape[-1]))
        value = losses.centre_loss(x, centres.value, pids)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            # Of the gradient of the loss, which is a mean over the batch.
            step = 2 * self.rate / len(x) * (jax.lax.stop_gradient(x) - centres.value[pids])
            centres.value = centres.value.at[pids].add(step)
        return value


class Output(NamedTuple):
    """What the network says of each image.

    Attributes:
        before: f, the vector before the neck.
        after: f_i, the vector behind it.
        logits: of the training persons.
        centre: the centre loss; 0 where there is none.
    """

    before: Float[Array, "b d"]
    after: Float[Array, "b d"]
    logits: Float[Array, "b n"]
    centre: Float[Array, ""]


class Network(nn.Module):
    """Backbone, pooling, neck and classifier."""

    config: Config
    num_ids: int
    dtype: Any

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "b h w 3"],
        pids: Int[Array, " b"] | None,
        *,
        train: bool,
        train_backbone: bool,
    ) -> Output:
        """Runs all of it.

        Args:
            images: as decoded.
            pids: training persons, for the centre loss; None leaves it out.
            train: BatchNorm by the statistics of the batch, outside the backbone.
            train_backbone: the same in the backbone.
        """
        c = self.config
        backbone = ResNet(
            c.backbone_layers,
            c.backbone_width,
            c.last_stride,
            ibn=c.backbone == "resnet50_ibn_a",
            ceil=c.stem_pool == "ceil",
            dtype=self.dtype,
            name="backbone",
        )

        def look_around(name: str, x: Array) -> Array:
            stage, block = (int(number) for number in name.removeprefix("layer").split("_"))
            place = block - (c.backbone_layers[stage - 1] - c.non_local[stage - 1])
            if place < 0:
                return x
            module = NonLocal(
                c.non_local_width, self.dtype, name=f"non_local{stage}_{place}", parent=self
            )
            return module(x, train=train)

        x, _ = backbone(images, train=train_backbone, behind=look_around)
        if c.pooling == "gem":
            before = GeneralisedMean(name="pool")(x)
        else:
            before = x.mean(axis=(1, 2), dtype=jnp.float32)
        after = before
        if c.neck:
            norm = layers.batch_norm(
                use_running_average=not train, use_bias=False, name="bottleneck"
            )
            after = norm(before)
        start = initializers.normal(1e-3)
        classifier = nn.Dense(self.num_ids, use_bias=False, kernel_init=start, name="classifier")
        centre = jnp.float32(0)
        if c.centre and pids is not None:
            # By its name it belongs to the classifier, which another data set's persons replace.
            centre = Centres(self.num_ids, c.centre_rate, name="classifier_centres")(before, pids)
        return Output(before, after, classifier(after), centre)


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
        dtype: of the maps; pooling, neck and losses are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the image and its mirror image.

    Returns:
        A `ReidModel` of images. Its features are one vector `[b d]` of each, of unit length where
        the distance is the cosine's.
    """
    network = Network(config, num_ids, dtype)

    images = partial(images_of, compares="BoT describes")

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        one = images(batch)[:1]
        return dict(network.init(key, one, jnp.zeros(1, int), train=False, train_backbone=False))

    def features(variables: Variables, batch: Batch) -> Features:
        def run(pixels: UInt8[Array, "b h w 3"]) -> Float[Array, "b d"]:
            out: Any = network.apply(variables, pixels, None, train=False, train_backbone=False)
            return out.after

        pixels = images(batch)
        vector = run(pixels)
        if flip:
            vector = (vector + run(pixels[:, :, ::-1])) / 2
        return ops.normalise(vector) if config.distance == "cosine" else vector

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        if config.distance == "cosine":
            return ops.pairwise_cosine(queries, gallery)
        return ops.pairwise_euclidean(queries, gallery)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del key, step
        if frozen:
            variables = freeze_backbone(variables)
        forward: Any = partial(network.apply, mutable=["batch_stats"])
        out, state = forward(
            variables, images(batch), batch.pids, train=True, train_backbone=not frozen
        )
        distmat = ops.pairwise_euclidean(out.before, out.before)
        if config.triplet == "batch_hard":
            triplet = losses.batch_hard_triplet(distmat, batch.pids, config.margin, batch.positives)
        else:
            triplet = losses.weighted_triplet(distmat, batch.pids, batch.positives)
        terms = {
            "triplet": triplet,
            "cross_entropy": losses.cross_entropy(out.logits, batch.pids, config.label_smoothing),
        }
        total = terms["cross_entropy"] + terms["triplet"]
        if config.centre:
            terms["centre"] = out.centre
            total = total + config.centre * out.centre
        accuracy = jnp.mean(jnp.argmax(out.logits, axis=1) == batch.pids)
        return total, (state, {**terms, "accuracy": accuracy})

    apart = config.margin if config.triplet == "batch_hard" else math.log(2)
    return ReidModel(
        *(init, features, distance, loss),
        chance={"triplet": apart, "cross_entropy": math.log(num_ids)},
    )
