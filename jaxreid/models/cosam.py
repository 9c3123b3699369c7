"""COSAM: Co-segmentation Inspired Attention Networks for Video-based Person Re-identification
(Subramaniam, Nambiar, Mittal; ICCV 2019).

A module between two blocks of a network looks for what the frames of a clip have in common. Every
place of a frame is compared with every place of the other frames by the normalised
cross-correlation of their channels (Eqs. 1-2), and the comparisons of a place become one number
of a mask; then the channels that are strong in all frames are raised:

    m_n = sigmoid(summary(NCC of frame n with the others)),  F'_n = m_n F_n      section 4.1
    g   = mean_n sigmoid(MLP(GAP(F'_n))),  out_n = F'_n (1 + g)                  section 4.2

Frames become one vector of the clip by pooling (TP), temporal attention (TA) or an LSTM (RNN). The
loss is L_CE + L_triplet (Eqs. 3-4), the triplets batch-hard on the Euclidean distance of clips.

Where the released code differs from the paper, it is the default. `variant="paper"` takes the
printed module, and the configs' variant `paper` the whole recipe as printed:

* `summary` is two 1x1 convolutions with BatchNorm and ReLU between them; section 4.1 has one.
* The gate is residual, F'(1 + g); section 4.2 has F' g.
* The cross-entropy has labels smoothed by 0.1; section 5.1 names no smoothing.
* Adam starts at 3e-4, and at 1e-4 for the LSTM; section 6.2 has 1e-4 for all.
* Both losses are means over the batch, in either variant; Eq. (3) is a sum over it.

Where the paper is silent, and the released code decides:

* The MLP's activation is tanh.
* The deviations of Eq. (2) are unbiased. That 1e-4 is added to them is in section 4.1.
* The last stage keeps its stride at 1 for TP and RNN, which doubles the grid; at 2 for TA.
* Where a map has no more than D_R channels, a quarter of D_R is correlated.
* The margin is 0.3, and the weight decay 5e-4.
* The mask takes the comparisons in the order of the frames and places, so that a network is made
  for one length of clips and one size of images.

Where both are silent: a frozen backbone runs with its stored statistics and does not change; the
modules between its blocks are trained through it.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxreid import losses
from jaxreid.backbones import ResNet, layers
from jaxreid.data.sampler import Sampler
from jaxreid.errors import UserError, require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.models.inputs import clips_of
from jaxreid.models.recurrent import Recurrent
from jaxreid.ops.attention import temporal_attention
from jaxreid.ops.correlation import normalized_cross_correlation
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.types import AttentionMap, Batch, Features, Metrics, ReidModel, Variables

# What the paper calls block 1 to 5, by the backbone's names.
BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")


@dataclasses.dataclass
class Config:
    """Choices of the paper's sections 5 and 6, and the rows of its tables.

    Attributes:
        backbone: the network of images.
        blocks: after which of its blocks (1 the stem, 5 the last) a module stands; () for none,
            the tables' baseline.
        head: from frames to a clip: the mean (TP), temporal attention (TA), an LSTM (RNN).
        variant: the released code, or the paper's words where they differ.
        last_stride: of the backbone's last stage; None takes 2 for TA and else 1.
        reduced: D_R, channels that are correlated; a quarter of them where a map has no more
            than D_R.
        attention_features: channels of TA's first convolution.
        hidden_features: width of the LSTM's state.
        margin: m of Eq. (4), in units of the distance.
        label_smoothing: share of the target that is spread over all persons.
        pretrained: weights of the backbone, or of a released network; see `jaxreid.pretrained`.
        backbone_layers: bottlenecks of each stage; (3, 4, 6, 3) is ResNet-50.
        backbone_width: channels of its stem.
    """

    backbone: Literal["resnet50", "se_resnet50"] = "se_resnet50"
    blocks: tuple[int, ...] = (4, 5)
    head: Literal["tp", "ta", "rnn"] = "tp"
    variant: Literal["released", "paper"] = "released"
    last_stride: int | None = None
    reduced: int = 256
    attention_features: int = 256
    hidden_features: int = 512
    margin: float = 0.3
    label_smoothing: float = 0.1
    pretrained: str | None = None
    backbone_layers: tuple[int, ...] = (3, 4, 6, 3)
    backbone_width: int = 64

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("identity",)

    @property
    def arch(self) -> str:
        """The backbone's name."""
        return self.backbone

    @property
    def stage_stride(self) -> int:
        """The stride of the backbone's last stage."""
        return self.last_stride or (2 if self.head == "ta" else 1)

    def correlated(self, channels: int) -> int:
        """How many channels of a map of so many are correlated."""
        return self.reduced if channels > self.reduced else self.reduced // 4

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        rules = {
            "blocks": (
                set(self.blocks) <= {1, 2, 3, 4, 5} and len(set(self.blocks)) == len(self.blocks),
                "different numbers from 1 to 5",
            ),
            "last_stride": (self.last_stride in (None, 1, 2), "1, 2 or none"),
            "reduced": (self.reduced >= 8, "8 or more"),
            "attention_features": (self.attention_features >= 1, "1 or more"),
            "hidden_features": (self.hidden_features >= 1, "1 or more"),
            "margin": (self.margin >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 or more and less than 1"),
            "backbone_layers": (
                len(self.backbone_layers) == 4 and min(self.backbone_layers) >= 1,
                "four stages of 1 or more",
            ),
            "backbone_width": (self.backbone_width >= 1, "1 or more"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Cosam(nn.Module):
    """The co-segmentation activation module, section 4.

    Attributes:
        reduced: D_R, channels that are correlated.
        variant: the released code, or the paper's words.
        dtype: of the maps; the correlation and its statistics are in float32.
    """

    reduced: int = 256
    variant: Literal["released", "paper"] = "released"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Float[Array, "b n h w d"], *, train: bool
    ) -> tuple[Float[Array, "b n h w d"], Float[Array, "b n h w"]]:
        """The maps of the n frames of a clip, co-segmented, and the masks.

        Raises:
            UserError: there is nothing to compare with, or the module was made for clips of
                another length or maps of another size.
        """
        n, height, width, d = maps.shape[1:]
        self._require_clips(n, height, width)

        def norm_relu(x: Array, name: str) -> Array:
            norm = layers.batch_norm(use_running_average=not train, dtype=self.dtype, name=name)
            return nn.relu(norm(x))

        released = self.variant == "released"
        descriptors = norm_relu(
            layers.Linear(self.reduced, self.dtype, name="reduce")(maps), "reduce_bn"
        )
        volume = normalized_cross_correlation(descriptors)  # Eqs. (1) and (2)
        if released:
            volume = layers.Linear(64, self.dtype, name="summary_hidden")(volume)
            volume = norm_relu(volume, "summary_bn")
        logits = layers.Linear(1, self.dtype, name="summary")(volume)[..., 0]
        mask = nn.sigmoid(logits.astype(jnp.float32))
        attended = maps * mask[..., None].astype(maps.dtype)

        pooled = attended.mean(axis=(2, 3), dtype=jnp.float32)
        hidden = jnp.tanh(layers.Linear(self.reduced, name="channel_hidden")(pooled))
        gate = nn.sigmoid(layers.Linear(d, name="channel")(hidden))
        gate = gate.mean(axis=1)[:, None, None, None, :]  # g: one for the frames of a clip
        gate = jnp.broadcast_to(1 + gate if released else gate, attended.shape)
        return attended * gate.astype(maps.dtype), mask

    def _require_clips(self, n: int, height: int, width: int) -> None:
        if n < 2:
            raise UserError(
                f"{self.name} compares the frames of a clip and got 1: expected"
                " config.data.clip_length=2 or more"
            )
        first = "summary_hidden" if self.variant == "released" else "summary"
        if self.has_variable("params", first):
            made_for: int = self.get_variable("params", first)["kernel"].shape[0]
            if made_for != (n - 1) * height * width:
                raise UserError(
                    f"{self.name} compares each place with {made_for} others and got"
                    f" {(n - 1) * height * width} ({n} frames, maps of {height} x {width}): the"
                    " network was made for clips of another length or images of another size"
                )


class Head(nn.Module):
    """From the maps of a clip's frames to its vector: TP, TA or RNN (Gao and Nevatia 2018)."""

    config: Config
    dtype: Any

    @nn.compact
    def __call__(self, maps: Float[Array, "b n h w d"]) -> Float[Array, "b c"]:
        """The vector, in float32."""
        c = self.config
        b, n, *_ = maps.shape
        frames = maps.mean(axis=(2, 3), dtype=jnp.float32)
        if c.head == "tp":
            return frames.mean(axis=1)
        if c.head == "rnn":
            return Recurrent("lstm", c.hidden_features, dtype=self.dtype, name="lstm")(frames).mean(
                axis=1
            )
        # A convolution as large as the map; then one over three frames, the outer ones zero.
        x = layers.Linear(c.attention_features, self.dtype, name="spatial")(maps.reshape(b, n, -1))
        x = jnp.pad(nn.relu(x), ((0, 0), (1, 1), (0, 0)))
        windows = jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=-1)
        scores = nn.relu(layers.Linear(1, name="temporal")(windows)[..., 0])
        return temporal_attention(frames, scores)


class Output(NamedTuple):
    """What the network says of each clip.

    Attributes:
        vector: to compare it by.
        logits: of the training persons.
        masks: of the frames, by the module's name.
    """

    vector: Float[Array, "b c"]
    logits: Float[Array, "b n"]
    masks: dict[str, Float[Array, "b n h w"]]


class Network(nn.Module):
    """Backbone, modules between its blocks, head and classifier."""

    config: Config
    num_ids: int
    dtype: Any

    @nn.compact
    def __call__(
        self, clips: UInt8[Array, "b n h w 3"], *, train: bool, train_backbone: bool
    ) -> Output:
        """Runs all of it.

        Args:
            clips: frames as decoded.
            train: BatchNorm by the statistics of the batch, outside the backbone.
            train_backbone: the same in the backbone.
        """
        c = self.config
        b, n, *size = clips.shape
        backbone = ResNet(
            c.backbone_layers,
            c.backbone_width,
            c.stage_stride,
            se=c.backbone == "se_resnet50",
            dtype=self.dtype,
            name="backbone",
        )
        masks: dict[str, Array] = {}

        def cosegment(block: str, x: Array) -> Array:
            number = BLOCKS.index(block) + 1
            if number not in c.blocks:
                return x
            name = f"cosam{number}"
            module = Cosam(c.correlated(x.shape[-1]), c.variant, self.dtype, name=name, parent=self)
            y, masks[name] = module(x.reshape(b, n, *x.shape[1:]), train=train)
            return y.reshape(x.shape)

        x, _ = backbone(clips.reshape(b * n, *size), train=train_backbone, between=cosegment)
        vector = Head(c, self.dtype, name="head")(x.reshape(b, n, *x.shape[1:]))
        return Output(vector, layers.Linear(self.num_ids, name="classifier")(vector), masks)


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
        dtype: of the maps; the correlation, the pooling and the losses are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the clip and its mirror image.

    Returns:
        A `ReidModel` of clips. Its features are one vector `[b c]` of each clip.
    """
    network = Network(config, num_ids, dtype)

    who = f"{config.backbone} with COSAM compares the frames of"
    frames = partial(clips_of, compares=who, least=2)

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        return dict(network.init(key, frames(batch)[:1], train=False, train_backbone=False))

    def run(variables: Variables, clips: UInt8[Array, "b n h w 3"]) -> Output:
        out: Any = network.apply(variables, clips, train=False, train_backbone=False)
        return out

    def features(variables: Variables, batch: Batch) -> Features:
        clips = frames(batch)
        vector = run(variables, clips).vector
        return (vector + run(variables, clips[:, :, :, ::-1]).vector) / 2 if flip else vector

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        return pairwise_euclidean(queries, gallery)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del key, step
        if frozen:
            variables = freeze_backbone(variables)
        forward: Any = partial(network.apply, mutable=["batch_stats"])
        out, state = forward(
            variables,
            frames(batch),
            train=True,
            train_backbone=not frozen,
        )
        distmat = pairwise_euclidean(out.vector, out.vector)
        terms = {
            "triplet": losses.batch_hard_triplet(
                distmat, batch.pids, config.margin, batch.positives
            ),
            "cross_entropy": losses.cross_entropy(out.logits, batch.pids, config.label_smoothing),
        }
        accuracy = jnp.mean(jnp.argmax(out.logits, axis=1) == batch.pids)
        total = terms["cross_entropy"] + terms["triplet"]  # Eq. (3)
        return total, (state, {**terms, "accuracy": accuracy})

    def explain(variables: Variables, batch: Batch) -> dict[str, AttentionMap]:
        """The paper's Fig. 6: the mask of every frame."""
        masks = run(variables, frames(batch)).masks
        return {name: AttentionMap(mask, "frames", shown="range") for name, mask in masks.items()}

    return ReidModel(
        *(init, features, distance, loss, explain if config.blocks else None),
        chance={"triplet": config.margin, "cross_entropy": math.log(num_ids)},
    )
