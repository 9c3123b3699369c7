"""OSNet: Omni-Scale Feature Learning for Person Re-Identification (Zhou, Yang, Cavallaro, Xiang;
ICCV 2019), and OSNet-IBN and OSNet-AIN (the same authors; TPAMI 2021).

An image is one vector: the output of the network's last layer (Table 1), which is compared by its
Euclidean distance (section 4.1). In training a linear classifier of the persons stands on it, with
softmax cross-entropy and label smoothing. The network itself is in `jaxreid.backbones.osnet`.

Where the paper is silent, or the released code does otherwise:

* The label smoothing is 0.1, as in the released code.
* The last layer belongs to the backbone: it is trained on ImageNet with it, frozen with it, and
  read from released files with it.
* OSNet-AIN is released with the cosine distance: `test_norm` compares unit vectors, whose ranks are
  the cosine's.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxreid import losses
from jaxreid.backbones import OSNet
from jaxreid.backbones.osnet import Norm
from jaxreid.data.sampler import Sampler
from jaxreid.errors import require
from jaxreid.models import inputs
from jaxreid.ops.distance import normalise, pairwise_euclidean
from jaxreid.types import Batch, Features, Metrics, ReidModel, Variables


@dataclasses.dataclass
class Config:
    """Choices of the paper's section 4.1 and Table 5.

    Attributes:
        network: one of the released: the width of its layers, and where it normalises instances.
        label_smoothing: ε of the softmax loss.
        test_norm: compare unit vectors.
        pretrained: weights to start from, of ImageNet or of persons; see `jaxreid.pretrained`.
        backbone_channels: of the stem, conv2, conv3 and conv4 at width 1.
        backbone_blocks: in each of conv2, conv3 and conv4.
        backbone_features: d, of the last layer.
    """

    network: Literal[
        "osnet_x1_0",
        "osnet_x0_75",
        "osnet_x0_5",
        "osnet_x0_25",
        "osnet_ibn_x1_0",
        "osnet_ain_x1_0",
        "osnet_ain_x0_75",
        "osnet_ain_x0_5",
        "osnet_ain_x0_25",
    ] = "osnet_x1_0"
    label_smoothing: float = 0.1
    test_norm: bool = False
    pretrained: str | None = None
    backbone_channels: tuple[int, int, int, int] = (64, 256, 384, 512)
    backbone_blocks: int = 2
    backbone_features: int = 512

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("shuffle", "identity")

    @property
    def arch(self) -> str:
        """The backbone's name in `jaxreid.pretrained`."""
        return self.network

    @property
    def norm(self) -> Norm:
        """How the network normalises."""
        return "ibn" if "_ibn_" in self.network else "ain" if "_ain_" in self.network else "batch"

    @property
    def channels(self) -> tuple[int, ...]:
        """`backbone_channels` of the network's width."""
        width = float(self.network.partition("_x")[2].replace("_", "."))
        return tuple(round(width * each) for each in self.backbone_channels)

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        rules = {
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 or more, below 1"),
            "backbone_channels": (
                min(self.channels) >= 1 and all(each % 4 == 0 for each in self.channels[1:]),
                "numbers whose last three are multiples of 4 at the network's width",
            ),
            "backbone_blocks": (self.backbone_blocks in (1, 2), "1 or 2"),
            "backbone_features": (self.backbone_features >= 1, "1 or more"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Network(nn.Module):
    """The omni-scale network, and the classifier of the training persons."""

    config: Config
    num_ids: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "b h w 3"], *, train: bool, frozen: bool = False
    ) -> tuple[Float[Array, "b d"], Float[Array, "b n"]]:
        """Features and logits.

        Args:
            images: RGB.
            train: BatchNorm by the statistics of the batch.
            frozen: no gradient goes to the backbone, whose statistics stay.
        """
        c = self.config
        sizes = c.channels, c.backbone_blocks, c.norm, c.backbone_features
        backbone = OSNet(*sizes, dtype=self.dtype, name="backbone")
        x, _ = backbone(images, train=train and not frozen)
        if frozen:
            x = jax.lax.stop_gradient(x)
        start = nn.initializers.normal(0.01)
        return x, nn.Dense(self.num_ids, kernel_init=start, name="classifier")(x)


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
        dtype: of the convolutions; features and losses are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the image and its mirror image.

    Returns:
        A `ReidModel` of images. Its features are one vector `[b d]` of each image.
    """
    network = Network(config, num_ids, dtype)

    images_of = partial(inputs.images_of, compares="osnet compares")

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        return dict(network.init(key, images_of(batch)[:1], train=False))

    def vector(variables: Variables, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b d"]:
        found: Any = network.apply(variables, images, train=False)
        return normalise(found[0]) if config.test_norm else found[0]

    def features(variables: Variables, batch: Batch) -> Features:
        images = images_of(batch)
        plain = vector(variables, images)
        return (plain + vector(variables, images[:, :, ::-1])) / 2 if flip else plain

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        return pairwise_euclidean(queries, gallery)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del key, step
        (_, logits), state = network.apply(
            variables, images_of(batch), train=True, frozen=frozen, mutable=["batch_stats"]
        )
        total = losses.cross_entropy(logits, batch.pids, config.label_smoothing)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == batch.pids)
        return total, (dict(state), {"cross_entropy": total, "accuracy": accuracy})

    return ReidModel(init, features, distance, loss, chance={"cross_entropy": math.log(num_ids)})
