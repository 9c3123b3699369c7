"""DuATM: Dual Attention Matching Network for Context-Aware Feature Sequence based Person
Re-Identification (Si, Zhang, Li, Kuen, Kong, Kot, Wang; CVPR 2018).

An image becomes a sequence X of unit vectors, one for each position of DenseNet-121's last map. A
clip has one for each frame: the map's mean, through a bidirectional recurrent layer. Two sequences
are compared by refining each with itself and aligning it with the other:

    q   = ReLU(BN(W x + b))                                                    Eq. (1)
    x̄_a = Σ_m softmax_m⟨q_a, x_a^m⟩ x_a^m,  x̂_b = Σ_n softmax_n⟨q_a, x_b^n⟩ x_b^n  Eqs. (2)-(3)
    d   = ½ mean_i ‖x̄_a^i - x̂_b^i‖ + ½ mean_j ‖x̄_b^j - x̂_a^j‖                  Eqs. (4)-(5)

and the loss is l0 + λ1 l1 + λ2 l2: batch-hard triplets on d (Eq. 6), decorrelation of the sequence
(Eq. 7), and cross-entropy on a random convex pooling of it (Eq. 8).

Where the paper is silent or contradicts itself:

* Triplets are mined on the same d that the loss takes; Eq. (6) has a comma where a minus belongs.
* BN of Eq. (1) is per channel over all vectors of the batch, so that q belongs to one item.
* N of Eq. (7) is the length of the sequence: a D x D form could never reach zero when S < D.
* If every weight of Eq. (8) is dropped, the weights before dropping are used.
* A frozen DenseNet runs with its stored statistics and does not update them.
* "Data augmentation during evaluation" (Table 1, **): the map of the mirrored image, mirrored
  back, is averaged with the image's own, and the vectors are normalised again. Of a clip, the
  vectors of its frames are averaged with those of the mirrored clip.
* The recurrent cell is not named: a GRU of D/2 units in each direction, so that D is 256 for
  images and clips alike; LSTM and tanh are choices.
* Intra-only and inter-only matching (Table 2) leave out the other attention and change nothing
  else: ‖x̄_a^i - x̄_b^i‖, and ‖x_a^i - x̂_b^i‖ in both directions.
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
from jaxreid.backbones import DenseNet, layers
from jaxreid.data.sampler import Sampler
from jaxreid.errors import UserError, require
from jaxreid.models.recurrent import Recurrent
from jaxreid.ops import attention
from jaxreid.ops.attention import FeatureSequence
from jaxreid.ops.distance import normalise, pairwise_euclidean, safe_root
from jaxreid.types import AttentionMap, Batch, Features, Metrics, ReidModel, Variables


@dataclasses.dataclass
class Config:
    """Choices of the paper's section 4.1, and the rows of its tables.

    Attributes:
        dim: D, width of each vector of the sequence.
        sequence: the positions of an image, or the frames of a clip through a bidirectional
            recurrent layer of this cell.
        matching: the full dual attention, or what Tables 1 and 2 compare it with.
        margin: γ of Eq. (6), in units of the distance.
        lambda1: weight of the decorrelation loss.
        lambda2: weight of the cross-entropy loss.
        drop: p, the probability that a weight of the convex pooling is dropped.
        pretrained: weights to start from, see `jaxreid.pretrained`.
        backbone_layers: layers of DenseNet's blocks; (6, 12, 24, 16) is DenseNet-121.
        backbone_growth: channels that each of its layers adds.
        backbone_stem: channels of its first convolution.
    """

    dim: int = 256
    sequence: Literal["positions", "gru", "lstm", "rnn"] = "positions"
    matching: Literal["dual", "intra", "inter", "average"] = "dual"
    margin: float = 0.2
    lambda1: float = 0.1
    lambda2: float = 0.5
    drop: float = 0.2
    pretrained: str | None = None
    backbone_layers: tuple[int, ...] = (6, 12, 24, 16)
    backbone_growth: int = 32
    backbone_stem: int = 64

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """Batches that the loss can learn from."""
        return ("identity",)

    @property
    def arch(self) -> str:
        """The backbone's name in `jaxreid.pretrained`."""
        return "densenet121"

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        even = self.sequence == "positions" or self.dim % 2 == 0
        rules = {
            "dim": (self.dim >= 1 and even, "1 or more, and even for two directions of frames"),
            "margin": (self.margin >= 0, "0 or more"),
            "lambda1": (self.lambda1 >= 0, "0 or more"),
            "lambda2": (self.lambda2 >= 0, "0 or more"),
            "drop": (0 <= self.drop <= 1, "a probability"),
            "backbone_layers": (min(self.backbone_layers, default=0) >= 1, "1 or more in a block"),
            "backbone_growth": (self.backbone_growth >= 1, "1 or more"),
            "backbone_stem": (self.backbone_stem >= 1, "1 or more"),
        }
        require("config.model.", self, rules)

    def make(
        self, num_ids: int, *, dtype: Any = jnp.float32, frozen: bool = False, flip: bool = False
    ) -> ReidModel:
        """See `make`."""
        return make(self, num_ids, dtype=dtype, frozen=frozen, flip=flip)


class Network(nn.Module):
    """The layers that have parameters. The matching is in `jaxreid.ops`."""

    config: Config
    num_ids: int
    dtype: Any

    def setup(self) -> None:
        """Names the layers."""
        c = self.config
        self.backbone = DenseNet(
            c.backbone_layers, c.backbone_growth, c.backbone_stem, dtype=self.dtype
        )
        if c.sequence == "positions":
            self.embedding = layers.Linear(c.dim, self.dtype)
        else:
            self.recurrent = Recurrent(c.sequence, c.dim // 2, bidirectional=True)
        self.transform = layers.Linear(c.dim)
        self.transform_norm = layers.batch_norm()
        self.classifier = layers.Linear(self.num_ids)

    def sequence(
        self, images: UInt8[Array, "b *t h w 3"], *, train: bool, frozen: bool
    ) -> Float[Array, "b i j d"]:
        """Section 3.1: unit vectors over the grid of the last map; of a clip, over `1 x t`."""
        *items, height, width, _ = images.shape
        x, _ = self.backbone(images.reshape(-1, height, width, 3), train=train and not frozen)
        if frozen:
            x = jax.lax.stop_gradient(x)
        if self.config.sequence == "positions":
            x = self.embedding(x)
        else:
            frames = x.astype(jnp.float32).mean(axis=(1, 2)).reshape(*items, -1)
            x = self.recurrent(frames)[:, None]
        return normalise(x.astype(jnp.float32))

    def filters(self, x: Float[Array, "b s d"], *, train: bool) -> Float[Array, "b s d"]:
        """Eq. (1)."""
        return nn.relu(self.transform_norm(self.transform(x), use_running_average=not train))

    def classify(self, z: Float[Array, "b d"]) -> Float[Array, "b n"]:
        """The linear layer of Eq. (8)."""
        return self.classifier(z)

    def __call__(self, images: UInt8[Array, "b *t h w 3"]) -> Array:
        """Touches every layer, to initialise them."""
        x = flatten(self.sequence(images, train=False, frozen=False))
        return self.classify(self.filters(x, train=False).mean(axis=1))


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
        dtype: of the convolutions; the matching and the losses are in float32.
        frozen: the loss leaves the backbone, statistics included, as it is.
        flip: features are the average over the image and its mirror image.

    Returns:
        A `ReidModel`. Its features are a `FeatureSequence` with leaves `[b s d]`, or the mean
        vector `[b d]` for `matching="average"`.
    """
    network = Network(config, num_ids, dtype)

    def apply(variables: Variables, *args: Any, method: str, **kwargs: Any) -> Any:
        return network.apply(variables, *args, method=method, **kwargs)

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        check_images(batch)
        return dict(network.init(key, batch.images[:1]))

    def check_images(batch: Batch) -> None:
        rank = 4 if config.sequence == "positions" else 5
        if batch.images.ndim != rank:
            raise UserError(
                f"config.model.sequence={config.sequence!r}: expected"
                f" {'images' if rank == 4 else 'clips (config.data.clip_length)'},"
                f" got arrays of shape {batch.images.shape}"
            )

    def grid(variables: Variables, batch: Batch) -> Float[Array, "b i j d"]:
        check_images(batch)
        images = batch.images
        run = partial(apply, variables, method="sequence", train=False, frozen=frozen)
        if not flip:
            return run(images)
        mirrored = run(images[..., ::-1, :])
        if config.sequence == "positions":
            mirrored = mirrored[:, :, ::-1]
        return normalise(run(images) + mirrored)

    def features(variables: Variables, batch: Batch) -> Features:
        x = flatten(grid(variables, batch))
        return describe(x, apply(variables, x, method="filters", train=False))

    def describe(x: Float[Array, "b s d"], filters: Float[Array, "b s d"]) -> Features:
        if config.matching == "average":
            return x.mean(axis=1)
        return FeatureSequence(x, filters, attention.attend(filters, x))

    def distance(_: Variables, queries: Features, gallery: Features) -> Float[Array, "q g"]:
        if config.matching == "dual":
            return attention.dual_attention_distmat(queries, gallery)
        return pairwise(queries, gallery)

    def pairwise(queries: Features, gallery: Features) -> Float[Array, "q g"]:
        """The same distance by its definition, which has gradients everywhere."""
        if config.matching == "average":
            return pairwise_euclidean(queries, gallery)
        match = {
            "dual": attention.dual_attention_distance,
            "intra": intra_distance,
            "inter": inter_distance,
        }[config.matching]
        return jax.vmap(jax.vmap(match, (None, 0)), (0, None))(queries, gallery)

    def loss(
        variables: Variables, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        del step

        def forward(module: Network) -> tuple[Array, Array, Array]:
            x = module.sequence(batch.images, train=True, frozen=frozen)
            x = flatten(x)
            weights = losses.convex_pooling_weights(key, x.shape[0], x.shape[1], config.drop)
            pooled = jnp.einsum("bs,bsd->bd", weights, x)  # z of Eq. (8)
            return x, module.filters(x, train=True), module.classify(pooled)

        check_images(batch)
        (x, filters, logits), state = nn.apply(forward, network, mutable=["batch_stats"])(variables)
        items = describe(x, filters)
        distmat = pairwise(items, items)
        terms = {
            "triplet": losses.batch_hard_triplet(
                distmat, batch.pids, config.margin, batch.positives
            ),
            "decorrelation": losses.decorrelation(x),
            "cross_entropy": losses.cross_entropy(logits, batch.pids),
        }
        total = (
            terms["triplet"]
            + config.lambda1 * terms["decorrelation"]
            + config.lambda2 * terms["cross_entropy"]
        )
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == batch.pids)
        return total, (state, {**terms, "accuracy": accuracy})

    def explain(variables: Variables, batch: Batch) -> dict[str, AttentionMap]:
        """The paper's Fig. 8: for each position of an image, where it looked in both images.

        Of clips, what three frames of a clip and of its partner saw in each of its frames.
        """
        x_grid = grid(variables, batch)
        b, height, width, _ = x_grid.shape
        x = flatten(x_grid)
        filters = apply(variables, x, method="filters", train=False)
        if config.sequence != "positions":
            seen = [attention.attention_weights(f, x) for f in (filters, partners(filters))]
            references = sorted({(2 * i + 1) * width // 6 for i in range(3)})
            return {
                f"{whose} frame {k + 1}": AttentionMap(weights[:, k, :, None, None], "frames")
                for k in references
                for whose, weights in zip(("own", "other's"), seen)
            }
        partner = partners(x)

        def lay_out(weights: Float[Array, "b n s"]) -> Float[Array, "b n i j"]:
            return weights.reshape(b, -1, height, width)

        positions = jnp.broadcast_to(jnp.eye(height * width), (b, height * width, height * width))
        return {
            "reference": AttentionMap(lay_out(positions), "self"),
            "intra": AttentionMap(lay_out(attention.attention_weights(filters, x)), "self"),
            "inter": AttentionMap(
                lay_out(attention.attention_weights(filters, partner)), "partner"
            ),
        }

    def pool(variables: Variables, mean: Features) -> Features:
        """The mean over clips, frame by frame, as a sequence of unit vectors again."""
        if config.matching == "average":
            return mean
        x = normalise(mean.x)
        return describe(x, apply(variables, x, method="filters", train=False))

    def vector(_: Variables, feats: Features) -> Float[Array, "b d"]:
        return feats.x.mean(axis=1)

    return ReidModel(
        *(init, features, distance, loss, explain if config.matching != "average" else None, pool),
        vector=None if config.matching == "average" else vector,
        chance={"triplet": config.margin, "cross_entropy": math.log(num_ids)},
    )


def intra_distance(a: FeatureSequence, b: FeatureSequence) -> Float[Array, ""]:
    """Table 2, Intra: refined sequences compared position by position."""
    return safe_root(jnp.sum(jnp.square(a.refined - b.refined), axis=-1)).mean()


def inter_distance(a: FeatureSequence, b: FeatureSequence) -> Float[Array, ""]:
    """Table 2, Inter: each sequence against the other one aligned with it, both ways."""
    return attention.dual_attention_distance(a._replace(refined=a.x), b._replace(refined=b.x))


def partners(x: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """Items 2i and 2i + 1 in each other's place."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def flatten(grid: Float[Array, "b i j d"]) -> Float[Array, "b s d"]:
    """Positions in reading order."""
    return grid.reshape(grid.shape[0], -1, grid.shape[-1])
