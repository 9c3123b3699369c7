"""Where-and-When to Look: Deep Siamese Attention Networks for Video-based Person Re-identification
(Wu, Wang, Gao, Li; IEEE Transactions on Multimedia 2019).

A frame's map X_t (GoogLeNet: 7 x 7 x 1024) is weighted by where the network decided to look after
the frame before, and goes through three layers of convolutional GRU. What the top layer says of the
frames is summed by when it is worth looking, and two clips are compared by a weighted product:

    m_t = softmax_i(W_iᵀ h^3_{t-1}),  x_t[i] = g m_{t,i} X_t[i]                  Eqs. (3), (4)
    h^l_t = ConvGRU(h^{l-1}_t, h^l_{t-1}),  h^0 = x                              Eq. (5)
    h̄ = Σ_t α_t h^3_t,  α = softmax_t(w_αᵀ GAP(h^3_t))                           Eq. (6)
    h^l_0 = tanh(A^l mean_{t,i}(X) + a^l), at every place                        Eq. (7)
    s(a, b) = σ(vᵀ(h̄_a · h̄_b) - c)                                               Eq. (8)
    L = mean over pairs of BCE(s, same) + λ ½ Σ_{a,b} Σ_i (1 - Σ_t m_{t,i})²     Eq. (9)

The equations stand here as corrected: as printed, the denominator of Eq. (3) lacks its
exponential, Eq. (6) a sum, the exponent of Eq. (8) its braces, and the loss is "maximised". Section
III-C has every layer read x_t, and Eq. (5) the layer below: the code does the latter. Section III-D
combines "the features at all convolutional levels", and Eq. (6) has the top layer's alone, as here.
Section V-B has these averaged over the frames (`pooling="average"`), and Eq. (6) weighed.

With 7 x 7 places GoogLeNet has 5,973,552 parameters, the GRUs 21,184,512, W 614,656, the initial
states 656,000, and Eqs. (6) and (8) 256 and 12,545.

Where the paper is silent, or contradicts itself:

* W is one linear map of the top layer's state, and "perceptron" in Eq. (7) one layer with a tanh.
* The weighted map is kept and not summed, as in Fig. 3. g is the number of places: weights of 1/49
  shrink the input until the gates see nothing (`rescale=False`: g = 1, as printed).
* Kernels are 3, 5, 5 wide (Table II), for inputs and states alike; section V-B has 5 throughout.
* Between layers is a max pooling of 3 x 3 with stride 1, which keeps the maps' size
  (`between_pool`); section V-B has one "for compatibility".
* The GRUs start as Glorot's (`initial="uniform"`: U[-1, 1], as printed, from which gradients of
  1e14 to 1e16 come); v and W start at U(±1/√12544), w_α and c at 0.
* The attention penalty cannot vanish: 20 frames cannot give 1 to each of 49 places. Its least,
  49 (1 - 20/49)², changes no gradient, and is left out of what is computed and logged.
* Dropout drops 0.7 of what a layer hands on: to the next layer and to Eq. (6), not to itself, and
  not to Eq. (3).
* Clips are compared by the Euclidean distance of h̄ (section V-C), or by s (`test_metric`).
* The FC-GRU baselines of Table III see one vector of each frame, and so attend to no places.
* Frames that only repeat (`Batch.mask`) have no weight in Eqs. (6), (7) and (9).
* `pairs="all"` compares every clip of a batch with every other, for networks that start from
  random weights: ten drawn pairs teach those little.
* Fisher vectors (Eq. 10) are of GAP(h^3_t), since of whole maps they would have 400 k numbers.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, Shaped, UInt8

from jaxreid import losses
from jaxreid.backbones import VGG16, GoogLeNet, layers
from jaxreid.data.sampler import Sampler
from jaxreid.errors import UserError, require
from jaxreid.models.freezing import freeze_backbone
from jaxreid.models.inputs import clips_of
from jaxreid.ops.attention import location_attention, temporal_attention
from jaxreid.ops.conv_gru import ConvGRULoop, ConvGRUWeights, conv_gru_scan
from jaxreid.ops.distance import distance_precision, pairwise_euclidean
from jaxreid.types import AttentionMap, Batch, Features, Metrics, ReidModel, Variables

# Published widths of VGG-16, in units of its first: blocks, fc6 and fc7.
_VGG_BLOCKS, _VGG_FC = (1, 2, 4, 8, 8), 64
# The conditions under which short clips are compared, after the plain one: moved along the
# diagonal by so many quarters of 5 % of height and width, and mirrored or not. The code whose
# protocol the paper follows (McLaughlin et al., CVPR 2016) takes eight crops along the diagonal.
_CONDITIONS = tuple((shift, mirror) for shift in range(-4, 4) for mirror in (False, True))
_PLAIN = (0, False)


@dataclasses.dataclass
class Config:
    """Choices of the paper's sections III and V, and the rows of its tables.

    Attributes:
        backbone: the network of images; "googlenet_bn" is torchvision's, for its weights.
        recurrence: convolutional GRUs; or fully connected ones (Table III), on VGG-16's fc7 or
            GoogLeNet's mean.
        kernels: width of each layer's kernels; of "conv" alone.
        channels: of each layer's state.
        attention: whether to attend to places; False weighs all by 1/K² (Table III, "muted").
        rescale: g is the number of places, and not 1.
        between_pool: max pooling between layers: 3 x 3 with stride 1, none, or 2 x 2 with stride
            2; of "conv" alone.
        pooling: from frames to a clip (Table IV): by α, the mean, or the maximum.
        initial: how the GRUs' weights start.
        penalty: λ of Eq. (9).
        dropout: probability to drop.
        pairs: what Eq. (9) is the mean over: the pairs that the sampler drew; or all pairs of
            clips of the batch, those of one person weighing as much as those of two.
        test_metric: distance of clips: Euclidean between h̄, or 1 - s.
        test_conditions: 16 compares clips that are shorter than they should be under 8 shifts x 2
            mirrors, and averages the distances; 1 does not.
        pretrained: weights of the backbone; see `jaxreid.pretrained`.
        backbone_width: channels of its first convolution; 64 as published.
    """

    backbone: Literal["googlenet", "googlenet_bn", "vgg16"] = "googlenet"
    recurrence: Literal["conv", "fc"] = "conv"
    kernels: tuple[int, int, int] = (3, 5, 5)
    channels: tuple[int, int, int] = (128, 256, 256)
    attention: bool = True
    rescale: bool = True
    between_pool: Literal["max3", "none", "max2"] = "max3"
    pooling: Literal["attention", "average", "max"] = "attention"
    initial: Literal["glorot", "uniform"] = "glorot"
    penalty: float = 1.0
    dropout: float = 0.7
    pairs: Literal["drawn", "all"] = "drawn"
    test_metric: Literal["euclidean", "similarity"] = "euclidean"
    test_conditions: int = 1
    pretrained: str | None = None
    backbone_width: int = 64

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("identity",) if self.pairs == "all" else ("pairs", "mixed_pairs")

    @property
    def arch(self) -> str:
        """The backbone's name."""
        return self.backbone

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        rules = {
            "kernels": (
                len(self.kernels) == 3 and all(k >= 1 and k % 2 for k in self.kernels),
                "three odd widths",
            ),
            "channels": (
                len(self.channels) == 3 and min(self.channels) >= 1,
                "three numbers of 1 or more",
            ),
            "penalty": (self.penalty >= 0, "0 or more"),
            "dropout": (0 <= self.dropout < 1, "0 or more and less than 1"),
            "test_conditions": (
                self.test_conditions in (1, len(_CONDITIONS)),
                f"1 or {len(_CONDITIONS)}",
            ),
            "backbone_width": (self.backbone_width >= 4, "4 or more"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Output(NamedTuple):
    """What the network says of each clip.

    Attributes:
        vector: h̄ of Eq. (6), flattened.
        frames: GAP(h^3_t), of each frame.
        where: m of Eq. (3); None where it does not attend to places.
        when: α of Eq. (6); None where frames are not weighed.
    """

    vector: Float[Array, "b d"]
    frames: Float[Array, "b t c"]
    where: Float[Array, "b t h w"] | None
    when: Float[Array, "b t"] | None


class Encoder(nn.Module):
    """From the maps of a clip's frames to its vector, Eqs. (3) to (7).

    Attributes:
        config: choices.
        dtype: of the convolutions; states, softmaxes and sums are in float32.
    """

    config: Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Float[Array, "b t h w c"], mask: Bool[Array, "b t"], *, train: bool
    ) -> Output:
        """Runs all of it.

        Args:
            maps: X of each frame.
            mask: the frames that count.
            train: whether to drop.

        Raises:
            UserError: the maps are too small to be halved twice, or of another size than those that
                the network was made for.
        """
        c = self.config
        t, height, width = maps.shape[1:4]
        halved = c.recurrence == "conv" and c.between_pool == "max2"
        if halved and min(height, width) < 4:
            raise UserError(
                f"config.model.between_pool=max2 halves maps twice and got {height} x {width}:"
                " expected larger images"
            )
        # Scores of frames of equal weight; those that do not count have none.
        equal = jnp.where(mask, 0.0, -jnp.inf)
        mean = temporal_attention(maps.mean(axis=(2, 3), dtype=jnp.float32), equal)
        weights, states = self._weights(maps.shape[-1]), self._initial_states(mean, (height, width))
        keys = None
        if train and c.dropout > 0:
            keys = jax.random.split(self.make_rng("dropout"), (t, len(weights)))

        maps = maps.astype(self.dtype)
        where = None
        if c.attention and c.recurrence == "conv":
            outputs, where = self._attend(maps, weights, states, keys)
        else:
            outputs = maps if c.rescale else maps / (height * width)
            for layer, (of_layer, state) in enumerate(zip(weights, states)):
                below = self._between(outputs) if layer else outputs
                outputs, _ = conv_gru_scan(below.astype(self.dtype), of_layer, state)
                outputs = drop(outputs, None if keys is None else keys[0, layer], c.dropout)

        frames = outputs.mean(axis=(2, 3))
        flat = outputs.reshape(*mask.shape, -1)
        if c.pooling == "max":
            vector = jnp.max(flat, axis=1, where=mask[..., None], initial=-jnp.inf)
            return Output(vector, frames, where, None)
        if c.pooling == "average":
            return Output(temporal_attention(flat, equal), frames, where, None)
        w_alpha = self.param("when", nn.initializers.zeros, (c.channels[-1],))
        scores = equal + frames @ w_alpha
        return Output(
            temporal_attention(flat, scores), frames, where, jax.nn.softmax(scores, axis=1)
        )

    def _weights(self, width: int) -> list[ConvGRUWeights]:
        """Of each layer, the first of which sees maps of that width."""
        c = self.config
        kernels = c.kernels if c.recurrence == "conv" else (1, 1, 1)
        stack = []
        for layer, (k, above) in enumerate(zip(kernels, c.channels), 1):
            # Glorot and Bengio 2010, for the convolution of one gate.
            bound = 1.0 if c.initial == "uniform" else (6 / (k * k * (width + above))) ** 0.5
            start = layers.uniform(bound)
            shapes = (k, k, width, 3 * above), (k, k, above, 2 * above), (k, k, above, above)
            names = (f"gru{layer}_{name}" for name in ConvGRUWeights._fields)
            stack.append(
                ConvGRUWeights(
                    *(self.param(name, start, shape) for name, shape in zip(names, shapes))
                )
            )
            width = above
        return stack

    def _initial_states(
        self, mean: Float[Array, "b c"], size: tuple[int, int]
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Eq. (7): h_0 of each layer."""
        states = []
        for layer, channels in enumerate(self.config.channels, 1):
            state = jnp.tanh(layers.Linear(channels, name=f"initial{layer}")(mean))
            shape = (mean.shape[0], *size, channels)
            states.append(jnp.broadcast_to(state[:, None, None], shape))
            size = jax.eval_shape(self._between, states[-1]).shape[1:3]
        return tuple(states)

    def _attend(
        self,
        maps: Float[Array, "b t h w c"],
        weights: list[ConvGRUWeights],
        states: tuple[Float[Array, "b _ _ _"], ...],
        keys: Key[Array, "t n"] | None,
    ) -> tuple[Float[Array, "b t _ _ _"], Float[Array, "b t h w"]]:
        """All layers frame by frame, since where to look depends on the top one."""
        c = self.config
        b, _, height, width, _ = maps.shape
        places, top = height * width, states[-1][0].size
        kernel = _sized_param(self, "where", (top, places))
        g = places if c.rescale else 1

        frames = maps.swapaxes(0, 1)
        gru = [
            ConvGRULoop.of(of_layer, (len(frames), *state.shape[:3]), self.dtype)
            for of_layer, state in zip(weights, states)
        ]

        def step(states: tuple[Array, ...], frame: Any) -> tuple[Any, tuple[Array, Array]]:
            x, key, taps = frame
            m = location_attention(states[-1], kernel).reshape(b, height, width)  # Eq. (3)
            below = x * (g * m)[..., None].astype(x.dtype)  # Eq. (4)
            after = []
            for layer, state in enumerate(states):
                x = self._between(below) if layer else below
                after.append(gru[layer].step(x, state, taps[layer]))  # Eq. (5)
                below = drop(after[-1], None if key is None else key[layer], c.dropout)
            return tuple(after), (below, m)

        taps = [layer.taps for layer in gru]
        _, (outputs, where) = jax.lax.scan(step, states, (frames, keys, taps))
        return outputs.swapaxes(0, 1), where.swapaxes(0, 1)

    def _between(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b _ _ c"]:
        """What the next layer sees of a layer's output."""
        if self.config.recurrence == "fc" or self.config.between_pool == "none":
            return x
        if self.config.between_pool == "max3":
            return nn.max_pool(x, (3, 3), (1, 1), "SAME")
        return nn.max_pool(x, (2, 2), (2, 2))


class Similarity(nn.Module):
    """Eq. (8), before its sigmoid."""

    @nn.compact
    def __call__(self, a: Float[Array, "q d"], b: Float[Array, "g d"]) -> Float[Array, "q g"]:
        """Log-odds that clips are of one person, for all pairs."""
        v = _sized_param(self, "v", a.shape[1:])
        c = self.param("c", nn.initializers.zeros, ())
        return jnp.einsum("d,qd,gd->qg", v, a, b, precision=distance_precision()) - c


class Network(nn.Module):
    """Backbone, encoder and similarity."""

    config: Config
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the parts."""
        c = self.config
        if c.backbone == "vgg16":
            widths = tuple(c.backbone_width * n for n in _VGG_BLOCKS)
            fc = c.backbone_width * _VGG_FC if c.recurrence == "fc" else 0
            self.backbone: nn.Module = VGG16(widths, fc, dtype=self.dtype)
        else:
            bn = c.backbone == "googlenet_bn"
            self.backbone = GoogLeNet(bn=bn, width=c.backbone_width, dtype=self.dtype)
        self.encoder = Encoder(c, self.dtype)
        self.similarity = Similarity()

    def __call__(
        self,
        clips: Num[Array, "b t h w c"],
        mask: Bool[Array, "b t"],
        *,
        train: bool,
        train_backbone: bool,
    ) -> Output:
        """Runs the network on frames as decoded, or on what `maps` made of them."""
        out = self.encoder(self.of_clips(clips, train=train_backbone), mask, train=train)
        if self.is_initializing():
            self.similarity(out.vector, out.vector)
        return out

    def of_clips(self, clips: Num[Array, "b t h w c"], *, train: bool) -> Float[Array, "b t _ _ _"]:
        """The maps of clips, be they frames as decoded or what `maps` made of them."""
        if clips.dtype != jnp.uint8:
            return clips
        maps = self.maps(clips.reshape(-1, *clips.shape[2:]), train=train)
        return maps.reshape(*clips.shape[:2], *maps.shape[1:])

    def maps(self, images: UInt8[Array, "n h w 3"], *, train: bool) -> Float[Array, "n _ _ c"]:
        """X of Eq. (1); for the FC-GRU, a map of one place."""
        x, _ = self.backbone(images, train=train)
        if self.config.recurrence == "conv":
            return x
        x = x if x.ndim == 2 else x.mean(axis=(1, 2))
        return x[:, None, None]

    def compare(self, a: Float[Array, "q d"], b: Float[Array, "g d"]) -> Float[Array, "q g"]:
        """See `Similarity`."""
        return self.similarity(a, b)


def drop(
    x: Float[Array, "*n"], key: Key[Array, ""] | None, probability: float
) -> Float[Array, "*n"]:
    """Dropout (Srivastava et al. 2014); without a key, nothing."""
    if key is None:
        return x
    kept = jax.random.bernoulli(key, 1 - probability, x.shape)
    return jnp.where(kept, x / (1 - probability), 0.0)


def moved(
    clips: UInt8[Array, "b t h w 3"], quarters: Int[Array, ""], mirror: Bool[Array, ""]
) -> UInt8[Array, "b t h w 3"]:
    """Clips moved along the diagonal, with their border repeated, and mirrored or not.

    Args:
        clips: frames.
        quarters: of 5 % of height and width; whole pixels are moved.
        mirror: after moving.
    """
    for axis in (2, 3):
        length = clips.shape[axis]
        places = jnp.arange(length) + jnp.round(quarters * length / 80).astype(int)
        clips = jnp.take(clips, jnp.clip(places, 0, length - 1), axis=axis)
    return jnp.where(mirror, clips[:, :, :, ::-1], clips)


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
        num_ids: training persons; the method has no use for their number.
        dtype: of the convolutions; states, the pooling and the loss are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the clip and its mirror image.

    Returns:
        A `ReidModel` of clips. Its features are h̄ under each condition, `[b n d]`; `vector` is the
        plain one. In training clips 2i and 2i+1 are a pair, where pairs are drawn.

    Raises:
        UserError: `flip`, and conditions that mirror already.
    """
    del num_ids
    if flip and config.test_conditions > 1:
        raise UserError(
            f"config.model.test_conditions={config.test_conditions}: expected 1 with"
            " config.eval.flip: the conditions mirror already"
        )
    network = Network(config, dtype)

    frames_of = partial(clips_of, compares="siamese attention compares", least=1)

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        clips = frames_of(batch)[:1]
        mask = jnp.ones(clips.shape[:2], bool)
        return dict(network.init(key, clips, mask, train=False, train_backbone=False))

    def run(variables: Variables, clips: Shaped[Array, "..."], mask: Any) -> Output:
        mask = jnp.ones(clips.shape[:2], bool) if mask is None else mask
        out: Any = network.apply(variables, clips, mask, train=False, train_backbone=False)
        return out

    def compare(variables: Variables, a: Array, b: Array) -> Float[Array, "q g"]:
        logits: Any = network.apply(variables, a, b, method="compare")
        return logits

    def features(variables: Variables, batch: Batch) -> Features:
        clips, mask = frames_of(batch), batch.mask
        plain = run(variables, clips, mask).vector
        if flip:
            plain = (plain + run(variables, clips[:, :, :, ::-1], mask).vector) / 2
        if config.test_conditions == 1:
            return plain[:, None]
        conditions = [condition for condition in _CONDITIONS if condition != _PLAIN]
        shifts, mirrors = (jnp.array(part) for part in zip(*conditions))
        alike = jnp.broadcast_to(plain, (len(conditions), *plain.shape))
        if mask is None:
            others = alike
        else:
            short = ~mask.all(axis=1)

            def under(condition: tuple[Array, Array]) -> Float[Array, "b d"]:
                return run(variables, moved(clips, *condition), mask).vector

            others = jax.lax.cond(
                short.any(), lambda: jax.lax.map(under, (shifts, mirrors)), lambda: alike
            )
            others = jnp.where(short[None, :, None], others, alike)
        return jnp.concatenate([plain[None], others]).swapaxes(0, 1)

    def vector(_: Variables, features: Features) -> Float[Array, "b d"]:
        return features[:, 0]

    def distance(variables: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        def one(a: Array, b: Array) -> Float[Array, "q g"]:
            if config.test_metric == "similarity":
                return jax.nn.sigmoid(-compare(variables, a, b))  # 1 - s
            return pairwise_euclidean(a, b)

        return jax.vmap(one, 1)(queries, gallery).mean(axis=0)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del step
        clips = frames_of(batch)
        if config.pairs == "drawn" and len(clips) % 2:
            raise UserError(f"siamese attention learns from pairs and got {len(clips)} clips")
        if frozen:
            variables = freeze_backbone(variables)
        mask = jnp.ones(clips.shape[:2], bool) if batch.mask is None else batch.mask
        forward: Any = partial(network.apply, mutable=["batch_stats"])
        out, state = forward(
            variables,
            clips,
            mask,
            train=True,
            train_backbone=not frozen,
            rngs={"dropout": key},
        )
        if config.pairs == "drawn":
            a, b = np.arange(0, len(clips), 2), np.arange(1, len(clips), 2)
        else:
            a, b = np.triu_indices(len(clips), 1)
        logits = compare(variables, out.vector, out.vector)[a, b]
        same = batch.pids[a] == batch.pids[b]
        counted = None if batch.positives is None else ~same | batch.positives[a, b]
        verify = partial(losses.pair_verification, logits, same)
        if config.pairs == "drawn":  # The sampler draws as many of one person as of two.
            verification = verify(where=counted)
        else:
            positive = same if counted is None else same & counted
            verification = (verify(where=positive) + verify(where=~same)) / 2
        terms = {"verification": verification}
        total = terms["verification"]
        if out.where is not None:
            m = out.where.reshape(*out.where.shape[:2], -1)
            terms["penalty"] = losses.attention_penalty(m, mask)
            total += config.penalty * terms["penalty"]  # Eq. (9)
        return total, (state, {**terms, "accuracy": jnp.mean((logits > 0) == same, where=counted)})

    def explain(variables: Variables, batch: Batch) -> dict[str, AttentionMap]:
        """The paper's Figs. 6 and 8: when, where, and the channel of a map that has its peak."""
        clips: Any = network.apply(variables, frames_of(batch), train=False, method="of_clips")
        out = run(variables, clips, batch.mask)
        found = {}
        if out.where is not None:
            strongest = jnp.argmax(clips.max(axis=(2, 3)), axis=-1)[:, :, None, None, None]
            response = jnp.take_along_axis(clips, strongest, axis=-1)[..., 0]
            found["response"] = AttentionMap(response.astype(jnp.float32), "frames", shown="range")
            found["where"] = AttentionMap(out.where, "frames")
        if out.when is not None:
            found["when"] = AttentionMap(out.when[:, :, None, None], "frames")
        return found

    def maps(variables: Variables, images: UInt8[Array, "n h w 3"]) -> Float[Array, "n _ _ c"]:
        out: Any = network.apply(variables, images, train=False, method="maps")
        return out

    def frames(variables: Variables, batch: Batch) -> Float[Array, "b t d"]:
        return run(variables, frames_of(batch), batch.mask).frames

    attends = config.pooling == "attention" or (config.attention and config.recurrence == "conv")
    return ReidModel(
        init,
        features,
        distance,
        loss,
        explain if attends else None,
        vector=vector,
        maps=maps,
        frames=frames,
        chance={"verification": math.log(2)},
    )


def _sized_param(module: nn.Module, name: str, shape: tuple[int, ...]) -> Array:
    """A parameter that starts at U(±1/√n), n its first axis, and whose shape follows the images'.

    Raises:
        UserError: the network was made for images of another size.
    """
    if module.has_variable("params", name):
        made_for: tuple[int, ...] = module.get_variable("params", name).shape
        if made_for != shape:
            raise UserError(
                f"{'/'.join(module.path)}/{name} is of shape {made_for} and these maps need"
                f" {shape}: the network was made for images of another size"
            )
    return module.param(name, layers.uniform(shape[0] ** -0.5), shape)
