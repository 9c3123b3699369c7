"""A sixth method in one file: part-based convolutional baseline, PCB, from "Beyond Part Models"
(Sun, Zheng, Yang, Tian, Wang; ECCV 2018), without its refined part pooling.

The last map of a ResNet-50, whose last stage keeps its stride at 1, is cut into p horizontal
stripes. Each is averaged to a vector g, reduced to h, and classified by itself; the loss is the sum
of the p cross-entropies. Two images are compared by the Euclidean distance of their stripes side by
side, at unit length.

Where the code departs from the paper: the stripes' vectors are reduced without BatchNorm.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxreid import losses
from jaxreid.backbones import ResNet, layers
from jaxreid.data.sampler import Sampler
from jaxreid.errors import UserError, require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.ops import normalise, pairwise_euclidean
from jaxreid.types import AttentionMap, Batch, Features, Metrics, ReidModel, Variables


@dataclasses.dataclass
class Config:
    """Choices of the method.

    Attributes:
        parts: p, the stripes.
        dim: width of h.
        pretrained: weights of the backbone, see `jaxreid.pretrained`.
        backbone_layers: bottlenecks of each stage; (3, 4, 6, 3) is ResNet-50.
        backbone_width: channels of its stem.
    """

    parts: int = 6
    dim: int = 256
    pretrained: str | None = None
    backbone_layers: tuple[int, ...] = (3, 4, 6, 3)
    backbone_width: int = 64

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from: any, for it looks at one image at a time."""
        return ("shuffle", "identity")

    @property
    def arch(self) -> str:
        """The backbone's name in `jaxreid.pretrained`."""
        return "resnet50"

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        rules = {
            "parts": (self.parts >= 1, "1 or more"),
            "dim": (self.dim >= 1, "1 or more"),
            "backbone_width": (self.backbone_width >= 1, "1 or more"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Output(NamedTuple):
    """What the network says of each image.

    Attributes:
        stripes: g of each stripe.
        logits: of the training persons, by each stripe.
        strength: length of the vector at every place of the map.
    """

    stripes: Float[Array, "b p c"]
    logits: Float[Array, "b p n"]
    strength: Float[Array, "b h w"]


class Network(nn.Module):
    """The layers that have parameters. The backbone's stand under the name `backbone`."""

    config: Config
    num_ids: int
    dtype: Any

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "b h w 3"], *, train: bool, train_backbone: bool
    ) -> Output:
        """Runs all of it."""
        c = self.config
        backbone = ResNet(
            c.backbone_layers, c.backbone_width, last_stride=1, dtype=self.dtype, name="backbone"
        )
        x, _ = backbone(images, train=train_backbone)
        b, height, width, channels = x.shape
        if height % c.parts:
            raise UserError(
                f"config.model.parts={c.parts}: expected a divisor of {height}, the height of the"
                " last map (1/16 of config.data.image_size)"
            )
        x = x.astype(jnp.float32)
        rows = x.reshape(b, c.parts, height // c.parts, width, channels)
        g = rows.mean(axis=(2, 3))
        h = nn.relu(layers.Linear(c.dim, name="reduce")(g))
        logits = [
            layers.Linear(self.num_ids, name=f"classifier{i}")(h[:, i]) for i in range(c.parts)
        ]
        return Output(g, jnp.stack(logits, axis=1), jnp.linalg.norm(x, axis=-1))


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
        dtype: of the convolutions; pooling and loss are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the image and its mirror image.

    Returns:
        A `ReidModel` of images. Its features are one unit vector `[b d]` of each.
    """
    network = Network(config, num_ids, dtype)

    def run(variables: Variables, images: UInt8[Array, "b h w 3"]) -> Output:
        out: Any = network.apply(variables, images, train=False, train_backbone=False)
        return out

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        if batch.images.ndim != 4:
            raise UserError("part_pooling compares images and got clips: config.data.clip_length")
        return dict(network.init(key, batch.images[:1], train=False, train_backbone=False))

    def features(variables: Variables, batch: Batch) -> Features:
        def vector(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b d"]:
            return normalise(run(variables, images).stripes.reshape(len(images), -1))

        images = batch.images
        return normalise(vector(images) + vector(images[:, :, ::-1])) if flip else vector(images)

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        return pairwise_euclidean(queries, gallery)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del key, step
        if frozen:
            variables = freeze_backbone(variables)
        out: Any
        out, state = network.apply(
            variables, batch.images, train=True, train_backbone=not frozen, mutable=["batch_stats"]
        )
        of_stripes = jax.vmap(losses.cross_entropy, (1, None))(out.logits, batch.pids)
        accuracy = jnp.mean(out.logits.mean(axis=1).argmax(axis=1) == batch.pids)
        total = of_stripes.sum()
        return total, (state, {"cross_entropy": total, "accuracy": accuracy})

    def explain(variables: Variables, batch: Batch) -> dict[str, AttentionMap]:
        strength = run(variables, batch.images).strength
        return {"strength": AttentionMap(strength[:, None], "self")}

    return ReidModel(init, features, distance, loss, explain)
