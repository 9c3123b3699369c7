"""JST-RNN: See the Forest for the Trees: Joint Spatial and Temporal Recurrent Neural Networks for
Video-based Person Re-identification (Zhou, Huang, Wang, Wang, Tan; CVPR 2017).

Two streams behind one CaffeNet, which gives maps f(x)_pool5 and vectors f(x)_fc7 of the T frames.

The feature stream looks at all frames in each of its T steps, and reads what it saw with an LSTM
(TAM, section 3.2); the features of a clip are the mean of its states:

    x̄_t = Σ_i ω_ti f(x_i)_fc7,  h_t = LSTM(x̄_t),  F(x) = (1/T) Σ_t h_t            Eqs. (1) and (3)

The metric stream compares two clips place by place, frame t with frame t (SRM, section 3.3):

    Δ = f(x^i)_pool5 - f(x^j)_pool5 → 1x1 convolution → six LSTMs that sweep the frames, the rows
    and the columns in both directions → side by side → 1x1 convolution → FC → M(x^i, x^j)

M is the probability of one person. In training, triplets of an anchor a, a positive p and a
negative n are taken from the batch; the loss is

    max(0, margin + ‖F̂_a - F̂_p‖² - ‖F̂_a - F̂_n‖²) + ½ [CE(M(a,p), 1) + CE(M(a,n), 0)]

with F̂ = F/‖F‖, and at test the similarity is

    S(x^i, x^j) = 1 / (1 + ‖F̂_i - F̂_j‖) + λ M(x^i, x^j)                                  Eq. (2)

Where the paper is silent or contradicts itself:

* "Wz_t-1" of section 3.2 is w·tanh(U f_i + V h_t-1 + b), the attention of the work it cites.
* A sweep is a chain for each line of pixels, as in the networks it cites; `sweep="raster"` is one
  chain for all of them. "Forward and backward" is the axis of time. The sweeps are in
  `jaxreid.ops.spatial`.
* A clip is 6 consecutive frames: from a random place in training, and one central window of each
  tracklet at test (`eval.clips="central"`). The rest of a tracklet is not scored.
* The difference is signed ("element-wise minus"), so M depends on the order of the two clips. The
  order is drawn in training, and both are averaged at test. `difference="abs"` has no order.
* The "normalized Euclidean distance" of Eq. (2) is that of normalised vectors. The loss has its
  square, after the work it cites.
* "Hard negative mining": the nearest negative beyond the positive, or the nearest of all where none
  is beyond, in the batch; M sees the same one. Without the feature stream it is drawn at random.
* A batch holds P persons with K clips each, and clips 2i and 2i+1 are a and p. With K odd some of
  these are of two persons: they are left out. Section 4.2 pairs a query of camera A with a
  candidate of camera B, so the recipes have `data.positives="cross_camera"`.
* The widths (but fc6 and fc7), the number of fully connected layers, the margin, the weight of the
  losses and the dropout of one half are not given; between the linear layers of the metric stream
  there is a ReLU behind the FC only.
* Eq. (1) is a map of each stream; "the track-lets of the gallery" of section 4.2 are the queries.

Parameters at the paper's sizes (T = 6 frames of 227 x 227, maps of 6 x 6):

    CaffeNet, conv1 to conv5                                                2,334,080
    fc6, fc7              9,216 x 1,024 + 1,024;  1,024 x 1,024 + 1,024    10,487,808
    TAM, attention        1,024 x 512 + 512 x 512 + 512 + 512                 787,456
    TAM, LSTM             4 x 512 x (1,024 + 512 + 2)                       3,149,824
    SRM, convolutions     256 x 128 + 128;  768 x 128 + 128                   131,328
    SRM, six LSTMs        6 x 4 x 128 x (128 + 128 + 2)                       792,576
    SRM, FC               27,648 x 512 + 512;  512 x 2 + 2                 14,157,314
    together                                                               31,840,386
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from jaxreid import losses
from jaxreid.backbones import CaffeNet
from jaxreid.backbones.layers import Linear, uniform
from jaxreid.data.sampler import Sampler
from jaxreid.errors import UserError, require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.models.inputs import clips_of
from jaxreid.models.recurrent import Recurrent, recurrent_weights
from jaxreid.ops.distance import normalise, pairwise_euclidean
from jaxreid.ops.recurrence import FrameAttentionWeights, RecurrentWeights, attentive_lstm_scan
from jaxreid.ops.spatial import SixDirections, Sweep, six_direction_lstm
from jaxreid.types import AttentionMap, Batch, Features, Metrics, ReidModel, Variables


@dataclasses.dataclass
class Config:
    """Choices of the paper's section 4, and the rows of its Table 2.

    Attributes:
        feature: the feature stream: the mean of fc7 over the frames (CNN), an LSTM over the frames
            (CNN+RNN), temporal attention (CNN+TAM), or none.
        metric: the metric stream: differences straight into the FC (CNN+DIFF), six sweeps before
            it (CNN+SRM), or none.
        attention_features: units of the attention.
        hidden_features: D_2, width of the temporal LSTM's state.
        srm_features: channels of both 1x1 convolutions.
        srm_hidden: units of each of the six LSTMs.
        sweep: their chains: a line of pixels along a direction, or all pixels of the clip.
        metric_features: width of the FC behind them.
        difference: of two maps: x^i - x^j, or its absolute value.
        mining: of the negatives: the nearest beyond the positive, or the nearest of all.
        margin: of the triplets, in units of the squared distance.
        metric_weight: of the metric stream's loss.
        test_lambda: λ of Eq. (2).
        fc: D_1, width of fc6 and fc7.
        dropout: behind fc6, fc7 and the FC.
        pretrained: weights of the backbone's convolutions; see `jaxreid.pretrained`.
        backbone_widths: channels of the five convolutions.
    """

    feature: Literal["none", "mean", "rnn", "tam"] = "tam"
    metric: Literal["none", "diff", "srm"] = "srm"
    attention_features: int = 512
    hidden_features: int = 512
    srm_features: int = 128
    srm_hidden: int = 128
    sweep: Sweep = "lines"
    metric_features: int = 512
    difference: Literal["signed", "abs"] = "signed"
    mining: Literal["semi_hard", "hardest"] = "semi_hard"
    margin: float = 0.2
    metric_weight: float = 1.0
    test_lambda: float = 1.0
    fc: int = 1024
    dropout: float = 0.5
    pretrained: str | None = None
    backbone_widths: tuple[int, ...] = (96, 256, 384, 384, 256)

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("identity",)

    @property
    def arch(self) -> str:
        """The backbone's name."""
        return "caffenet"

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        widths = (
            *("attention_features", "hidden_features", "fc"),
            *("srm_features", "srm_hidden", "metric_features"),
        )
        one_stream = self.feature == "none"
        rules = {
            "metric": (
                not one_stream or self.metric != "none",
                "'srm' or 'diff' with config.model.feature='none'",
            ),
            **{name: (getattr(self, name) >= 1, "1 or more") for name in widths},
            "margin": (self.margin >= 0, "0 or more"),
            "metric_weight": (self.metric_weight >= 0, "0 or more"),
            "test_lambda": (
                self.test_lambda > 0 if one_stream else self.test_lambda >= 0,
                "more than 0 with config.model.feature='none'" if one_stream else "0 or more",
            ),
            "dropout": (0 <= self.dropout < 1, "0 or more and less than 1"),
            "backbone_widths": (
                len(self.backbone_widths) == 5
                and min(self.backbone_widths) >= 1
                # The groups of conv2, conv4 and conv5 divide what they take and what they give.
                and not any(width % 2 for width in self.backbone_widths),
                "five even numbers of channels",
            ),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class ClipFeatures(NamedTuple):
    """What is kept of a clip. A stream that is left out leaves None.

    Attributes:
        vector: F(x), before it is normalised.
        maps: what the metric stream compares: pool5 behind the first 1x1 convolution, which is as
            good taken before the difference as after it; pool5 itself for absolute differences.
    """

    vector: Float[Array, "b d"] | None
    maps: Float[Array, "b t h w c"] | None


class LSTMWeights(nn.Module):
    """Weights of an LSTM under a name of their own.

    Attributes:
        inputs: width of what it reads.
        features: d, width of its state.
    """

    inputs: int
    features: int

    @nn.compact
    def __call__(self) -> RecurrentWeights:
        """The weights."""
        return recurrent_weights(self, self.inputs, self.features, gates=4)


class Sweeps(nn.Module):
    """Weights of the six LSTMs of section 3.3.

    Attributes:
        inputs: channels of the maps.
        features: units of each LSTM.
    """

    inputs: int
    features: int

    @nn.compact
    def __call__(self) -> SixDirections:
        """One LSTM for each direction."""
        names = SixDirections._fields
        return SixDirections(*(LSTMWeights(self.inputs, self.features, name=n)() for n in names))


class TemporalAttention(nn.Module):
    """TAM, section 3.2: an LSTM that looks at all frames in each of its steps.

    Attributes:
        units: of the attention.
        features: D_2, width of the LSTM's state.
        dtype: of the products; states, weights of the frames and outputs are float32.
    """

    units: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frames: Float[Array, "b t c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b t t"]]:
        """F(x), and ω_ti, the weight of frame i in step t."""
        c, d, n = frames.shape[-1], self.features, self.units
        attention = FrameAttentionWeights(
            kernel=self.param("kernel", uniform(c**-0.5), (c, n)),
            recurrent=self.param("recurrent", uniform(d**-0.5), (d, n)),
            bias=self.param("bias", uniform(c**-0.5), (n,)),
            score=self.param("score", uniform(n**-0.5), (n,)),
        )
        lstm = LSTMWeights(c, d, name="lstm")()
        h, omega = attentive_lstm_scan(frames.astype(self.dtype), attention, lstm)
        return h.mean(axis=1), omega


class PairNetwork(nn.Module):
    """The metric stream, section 3.3.

    The first 1x1 convolution is linear but for its bias, so it is computed once for each clip
    (`encode`), and of a pair the difference is taken behind it. The gates' shares of the pixels
    could be had in the same way, but they are 24 times as wide as the maps: on a CPU, moving them
    costs what their product saves (benchmarks/pairs.py).
    """

    config: Config
    dtype: Any

    def setup(self) -> None:
        """The layers of the row of Table 2."""
        c = self.config
        self.reduce = Linear(c.srm_features, self.dtype)
        if c.metric == "srm":
            self.sweeps = Sweeps(c.srm_features, c.srm_hidden)
            self.context = Linear(c.srm_features, self.dtype)
        self.fc = Linear(c.metric_features, self.dtype)
        self.verdict = Linear(2)
        self.drop = nn.Dropout(c.dropout)

    def encode(self, pool5: Float[Array, "b t h w c"]) -> Float[Array, "b t h w _"]:
        """The maps that are kept of a clip, in float32.

        Raises:
            UserError: the FC was made for clips of another length or maps of another size.
        """
        t, height, width = pool5.shape[1:4]
        if self.has_variable("params", "fc"):
            made_for: int = self.get_variable("params", "fc")["kernel"].shape[0]
            made_for //= self.config.srm_features
            if made_for != t * height * width:
                raise UserError(
                    f"config.model.metric={self.config.metric!r}: the network compares {made_for}"
                    f" places of two clips and got {t * height * width} ({t} frames, maps of"
                    f" {height} x {width}): it was made for clips of another length or images of"
                    " another size"
                )
        maps = pool5 if self.config.difference == "abs" else self.reduce(pool5)
        return maps.astype(jnp.float32)

    def contextual(self, delta: Float[Array, "b t h w c"]) -> Float[Array, "b t h w _"]:
        """The contextual features of pairs (Fig. 7); for DIFF, the dissimilarity map itself.

        Args:
            delta: what `encode` made of one clip, less what it made of another.
        """
        c = self.config
        if c.difference == "abs":
            x = self.reduce(jnp.abs(delta))
        else:
            # Both sides had the bias, so the difference has lost it.
            bias = self.reduce(jnp.zeros((1, 1, 1, 1, c.backbone_widths[-1])))
            x = delta + jnp.broadcast_to(bias, delta.shape)
        if c.metric == "diff":
            return x
        return self.context(six_direction_lstm(x.astype(self.dtype), self.sweeps(), c.sweep))

    def same(self, delta: Float[Array, "b t h w c"], *, train: bool) -> Float[Array, " b"]:
        """log(M / (1 - M)), in float32: the difference of the two logits.

        Args:
            delta: what `encode` made of one clip, less what it made of another.
            train: dropout behind the FC.
        """
        x = self.contextual(delta)
        x = nn.relu(self.fc(x.reshape(x.shape[0], -1)))
        logits = self.verdict(self.drop(x, deterministic=not train).astype(jnp.float32))
        return logits[:, 1] - logits[:, 0]


class Network(nn.Module):
    """CaffeNet and the two streams."""

    config: Config
    dtype: Any

    def setup(self) -> None:
        """The streams that there are."""
        c = self.config
        widths: Any = c.backbone_widths
        self.backbone = CaffeNet(widths, dtype=self.dtype)
        if c.feature != "none":
            self.fc6 = Linear(c.fc, self.dtype)
            self.fc7 = Linear(c.fc, self.dtype)
            self.drop = nn.Dropout(c.dropout)
        if c.feature == "tam":
            self.tam = TemporalAttention(c.attention_features, c.hidden_features, self.dtype)
        if c.feature == "rnn":
            self.lstm = Recurrent("lstm", c.hidden_features, dtype=self.dtype)
        if c.metric != "none":
            self.pair = PairNetwork(c, self.dtype)

    def clip(
        self, clips: UInt8[Array, "b t h w 3"], *, train: bool
    ) -> tuple[ClipFeatures, Float[Array, "b t t"] | None]:
        """Both streams as far as a clip goes alone, and ω of the temporal attention."""
        c = self.config
        b, t, *size = clips.shape
        pool5, _ = self.backbone(clips.reshape(b * t, *size), train=train)
        vector = maps = omega = None
        if c.feature != "none":
            x = pool5.reshape(b * t, -1)
            for layer in (self.fc6, self.fc7):
                x = self.drop(nn.relu(layer(x)), deterministic=not train)
            frames = x.reshape(b, t, -1)
            if c.feature == "tam":
                vector, omega = self.tam(frames)
            else:
                steps = self.lstm(frames) if c.feature == "rnn" else frames
                vector = steps.mean(axis=1, dtype=jnp.float32)
        if c.metric != "none":
            maps = self.pair.encode(pool5.reshape(b, t, *pool5.shape[1:]))
        return ClipFeatures(vector, maps), omega

    def same(self, delta: Float[Array, "b t h w c"], *, train: bool = False) -> Float[Array, " b"]:
        """`PairNetwork.same`."""
        return self.pair.same(delta, train=train)

    def dissimilarity(self, delta: Float[Array, "b t h w c"]) -> Float[Array, "b t h w"]:
        """How far the contextual features of each place are from those of two equal clips."""
        apart = self.pair.contextual(delta) - self.pair.contextual(jnp.zeros_like(delta))
        return jnp.linalg.norm(apart.astype(jnp.float32), axis=-1)

    def __call__(self, clips: UInt8[Array, "b t h w 3"]) -> None:
        """Touches every layer, to initialise them."""
        features, _ = self.clip(clips, train=False)
        if features.maps is not None:
            self.same(features.maps)


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
        num_ids: training persons; not needed, since the losses are of triplets and pairs.
        dtype: of the convolutions and products; attention, states and losses are in float32.
        frozen: the loss leaves the backbone as it is.
        flip: features are the average over the clip and its mirror image.

    Returns:
        A `ReidModel` of clips. Its features are `ClipFeatures`. Its distance is 1 + λ - S of
        Eq. (2), which ranks as -S; a stream that is left out takes its term, and its part of
        1 + λ, with it.
    """
    del num_ids
    network = Network(config, dtype)

    clips = partial(clips_of, compares="JST-RNN compares", least=2)

    def run(variables: Variables, *args: Any, method: str, **options: Any) -> Any:
        return network.apply(variables, *args, method=method, **options)

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        return dict(network.init(key, clips(batch)[:1]))

    def features(variables: Variables, batch: Batch) -> Features:
        frames = clips(batch)
        ahead, _ = run(variables, frames, train=False, method="clip")
        if not flip:
            return ahead
        mirrored, _ = run(variables, frames[:, :, :, ::-1], train=False, method="clip")
        if mirrored.maps is not None:
            mirrored = mirrored._replace(maps=mirrored.maps[:, :, :, ::-1])
        return jax.tree.map(lambda a, b: (a + b) / 2, ahead, mirrored)

    def distance(variables: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        """1 - 1 / (1 + ‖F̂_i - F̂_j‖) + λ (1 - M)."""
        total: Any = 0.0
        if config.feature != "none":
            apart = pairwise_euclidean(normalise(queries.vector), normalise(gallery.vector))
            total += apart / (1 + apart)
        if config.metric != "none" and config.test_lambda:
            total += config.test_lambda * different(variables, queries.maps, gallery.maps)
        return total

    def different(
        variables: Variables, queries: Float[Array, "q t h w c"], gallery: Float[Array, "g t h w c"]
    ) -> Float[Array, "q g"]:
        """1 - M, the mean of both orders, in a loop over queries: the gallery stays divided."""
        orders = jnp.array([1.0] if config.difference == "abs" else [1.0, -1.0])

        def against_gallery(query: Float[Array, "t h w c"]) -> Float[Array, " g"]:
            def in_order(sign: Float[Array, ""]) -> Float[Array, " g"]:
                delta = sign * (jnp.broadcast_to(query, gallery.shape) - gallery)
                return jax.nn.sigmoid(-run(variables, delta, method="same"))

            return jax.lax.map(in_order, orders).mean(axis=0)

        return jax.lax.map(against_gallery, queries)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del step
        frames, pids = clips(batch), batch.pids
        if len(pids) % 2:
            raise UserError(
                f"a batch of {len(pids)} clips, config.data.num_ids x config.data.num_instances:"
                " clips 2i and 2i+1 are an anchor and its positive; expected an even number"
            )
        if frozen:
            variables = freeze_backbone(variables)
        key_drop, key_negative, key_order = jax.random.split(key, 3)
        train = partial(run, variables, train=True, rngs={"dropout": key_drop})
        found, _ = train(frames, method="clip")

        terms, total = {}, jnp.float32(0)
        if found.vector is None:
            negatives = random_negatives(key_negative, pids)
        else:
            unit = normalise(found.vector)
            squares = jnp.sum(jnp.square(unit[:, None] - unit[None]), axis=-1)
            hardest = config.mining == "hardest"
            negatives = losses.semi_hard_negatives(squares, pids, hardest)
            terms["triplet"] = losses.semi_hard_triplet(
                squares, pids, config.margin, batch.positives, hardest
            )
            total += terms["triplet"]
        if found.maps is not None:
            anchors, positives = jnp.arange(0, len(pids), 2), jnp.arange(1, len(pids), 2)
            complete = (pids[anchors] == pids[positives]) & (pids[anchors] != pids[negatives])
            if batch.positives is not None:
                complete &= batch.positives[anchors, positives]
            one, two = jnp.tile(anchors, 2), jnp.concatenate([positives, negatives])
            same, counted = pids[one] == pids[two], jnp.tile(complete, 2)
            swap = jax.random.bernoulli(key_order, shape=one.shape)
            first, second = jnp.where(swap, two, one), jnp.where(swap, one, two)
            logits = train(found.maps[first] - found.maps[second], method="same")
            terms["verification"] = losses.pair_verification(logits, same, where=counted)
            right = jnp.sum((logits > 0) == same, where=counted)
            terms["accuracy"] = right / jnp.maximum(counted.sum(), 1)
            total += config.metric_weight * terms["verification"]
        return total, ({}, terms)

    def vector(_: Variables, features: Features) -> Float[Array, "b d"]:
        """F̂; without the feature stream, what Δ is the difference of."""
        if features.vector is None:
            return features.maps.reshape(len(features.maps), -1)
        return normalise(features.vector)

    def explain(variables: Variables, batch: Batch) -> dict[str, AttentionMap]:
        """How much each frame was looked at, and where the clips of a pair differ."""
        found, omega = run(variables, clips(batch), train=False, method="clip")
        maps = {}
        if omega is not None:
            maps["frames"] = AttentionMap(omega.mean(axis=1)[:, :, None, None], "frames")
        if found.maps is not None:
            delta = found.maps[::2] - found.maps[1::2]
            apart = run(variables, delta, method="dissimilarity")
            maps["dissimilarity"] = AttentionMap(jnp.repeat(apart, 2, axis=0), "frames")
        return maps

    has_pictures = config.feature == "tam" or config.metric != "none"
    return ReidModel(
        init,
        features,
        distance,
        loss,
        explain if has_pictures else None,
        vector=vector,
        chance={"triplet": config.margin, "verification": math.log(2)},
    )


def random_negatives(key: Key[Array, ""], pids: Int[Array, " b"]) -> Int[Array, " n"]:
    """For each anchor 2i, any clip of another person. Where there is none, a clip of its own.

    Args:
        key: random key.
        pids: person ids.
    """
    other: Bool[Array, "n b"] = pids[::2, None] != pids[None, :]
    return jax.random.categorical(key, jnp.where(other, 0.0, -jnp.inf), axis=1)
