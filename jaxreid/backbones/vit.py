"""ViT-B/16 (Dosovitskiy et al., ICLR 2021), in two forms that are published for persons: that of
TransReID (He et al., ICCV 2021) and the image encoder of CLIP (Radford et al., ICML 2021) as
CLIP-ReID has it (Li, Sun, Li; AAAI 2023).

Patches of 16 x 16 pixels, which overlap where the stride is less than 16, become vectors by a
convolution. A class token stands before them, and each place has an embedding of its own:

    z = [token; patches] + position
    z = z + Attention(LN(z));  z = z + MLP(LN(z))        of each block

The image's vector is the class token behind the last LayerNorm. CLIP's encoder has another
LayerNorm before the first block, x sigmoid(1.702 x) in the place of GELU, no bias at the patches,
and a matrix that takes the vector to the space that it shares with texts.

The position embedding is kept as a grid, so that its shape says how the patches lie.
"""

from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float, Num

from jaxreid import ops
from jaxreid.backbones import layers
from jaxreid.errors import UserError

Form: TypeAlias = Literal["transreid", "clip"]

_start = initializers.normal(0.02)


def grid_of(size: tuple[int, int], stride: int, patch: int = 16) -> tuple[int, int]:
    """Rows and columns of the patches of an image of (height, width)."""
    height, width = ((length - patch) // stride + 1 for length in size)
    return height, width


class Block(nn.Module):
    """Self-attention and two layers, each behind a LayerNorm and added to what it sees.

    Attributes:
        heads: of the attention.
        form: see `ViT`.
        drop_path: the probability that an image goes past the attention, or past the layers.
        depth: blocks of the network, by which CLIP's start is scaled.
        dtype: of the result.
    """

    heads: int
    form: Form
    drop_path: float
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"], *, train: bool) -> Float[Array, "b s d"]:
        """One vector of each place.

        Args:
            x: the same before.
            train: whether images go past anything.
        """
        width = x.shape[-1]

        def dense(features: int, name: str) -> nn.Dense:
            start = _start
            if self.form == "clip":
                shares = {"qkv": 1, "fc1": 2, "proj": 2 * self.depth, "fc2": 2 * self.depth}
                start = initializers.normal((shares[name] * width) ** -0.5)
            return nn.Dense(features, dtype=self.dtype, kernel_init=start, name=name)

        # Depth that is stochastic: all of an image's places go past, or none.
        past = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        qkv = dense(3 * width, "qkv")(layer_norm(self.form, self.dtype, "norm1")(x))
        queries, keys, values = jnp.split(qkv, 3, axis=-1)
        y = ops.multi_head_attention(queries, keys, values, self.heads)
        x = x + past(dense(width, "proj")(y))
        y = dense(4 * width, "fc1")(layer_norm(self.form, self.dtype, "norm2")(x))
        if self.form == "clip":
            y = y * nn.sigmoid(1.702 * y)
        else:
            y = y * (1 + lax.erf(y * 0.5**0.5)) / 2
        return x + past(dense(width, "fc2")(y))


def layer_norm(form: Form, dtype: Any, name: str) -> nn.LayerNorm:
    """A LayerNorm as the form has it; the mean first, in float32."""
    epsilon = 1e-5 if form == "clip" else 1e-6
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class ViT(nn.Module):
    """A vision transformer.

    Attributes:
        form: TransReID's or CLIP's.
        stride: of the patches.
        jigsaw: whether there is a second last block for parts of the image, see `ops.jigsaw`;
            `(shift, groups)`, or None.
        drop_path: of the last block; it rises linearly from zero in the first.
        width: of the vectors.
        depth: blocks.
        heads: of each block; they divide `width`.
        patch: height and width of a patch.
        projection: of CLIP's shared space.
        dtype: of the blocks; parameters, norms' statistics and the vectors of the image are in
            float32.
    """

    form: Form = "transreid"
    stride: int = 16
    jigsaw: tuple[int, int] | None = None
    drop_path: float = 0.0
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    projection: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Num[Array, "b h w 3"],
        side: Float[Array, "b d"] | None = None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "b d"], dict[str, Array]]:
        """Runs the network up to the vector of each image.

        Args:
            images: RGB in grey levels.
            side: what else is known of each image, which is added to all of its vectors before the
                first block; of CLIP's form to the class token alone.
            train: whether images go past blocks. This takes the key `dropout`.

        Returns:
            The vector, and every intermediate by its name: `embedded`, `block0`, ..., and `norm`,
            each `[b s d]` with the class token first. With a jigsaw `parts`, the vectors
            `[b 4 d]` of four parts. Of CLIP's form `projected`, `[b p]`.

        Raises:
            UserError: the images are too small, or of another size than the network was made for.
        """
        clip = self.form == "clip"
        layers.require_size(images, self.patch, "vit")
        x = layers.normalise(self, images, (layers.EVEN, layers.EVEN))
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            self.stride,
            padding="VALID",
            use_bias=not clip,
            dtype=self.dtype,
            kernel_init=initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="patch",
        )(x)
        start = initializers.normal(self.width**-0.5) if clip else _start
        token = self.param("class_token", start, (self.width,))
        token = token + self.param("class_position", start, (self.width,))
        x = x + self._positions(x.shape[1:3]).astype(self.dtype)[None]
        x = x.reshape(x.shape[0], -1, self.width)
        first = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
        if side is not None:
            side = side[:, None].astype(self.dtype)
            first = first + side
            x = x if clip else x + side
        x = jnp.concatenate([first, x], axis=1)
        if clip:
            x = layer_norm(self.form, self.dtype, "norm_pre")(x)
        maps = {"embedded": x}

        def block(index: int, name: str) -> Block:
            rate = self.drop_path * index / max(1, self.depth - 1)
            return Block(self.heads, self.form, rate, self.depth, self.dtype, name=name)

        for index in range(self.depth):
            if index == self.depth - 1 and self.jigsaw is not None:
                maps["parts"] = self._parts(x, block(index, "local_block"), train=train)
            maps[f"block{index}"] = x = block(index, f"block{index}")(x, train=train)
        maps["norm"] = x = layer_norm(self.form, self.dtype, "norm")(x)
        vector = x[:, 0].astype(jnp.float32)
        if clip:
            matrix = self.param("projection", start, (self.width, self.projection))
            maps["projected"] = vector @ matrix
        return vector, maps

    def _positions(self, grid: tuple[int, ...]) -> Float[Array, "h w d"]:
        if self.has_variable("params", "position"):
            made_for: tuple[int, ...] = self.get_variable("params", "position").shape[:2]
            if made_for != grid:
                raise UserError(
                    f"{'/'.join(self.path)} takes {made_for[0]} x {made_for[1]} patches and got"
                    f" {grid[0]} x {grid[1]}: the network was made for images of another size"
                )
        start = initializers.normal(self.width**-0.5) if self.form == "clip" else _start
        return self.param("position", start, (*grid, self.width))

    def _parts(self, x: Array, block: Block, *, train: bool) -> Float[Array, "b 4 d"]:
        """The class token with a quarter of the patches at a time, through one block."""
        assert self.jigsaw is not None
        parts = ops.jigsaw(x[:, 1:], *self.jigsaw)
        b, n, _, d = parts.shape
        token = jnp.broadcast_to(x[:, None, :1], (b, n, 1, d))
        every = jnp.concatenate([token, parts], axis=2).reshape(b * n, -1, d)
        y = layer_norm(self.form, self.dtype, "local_norm")(block(every, train=train)[:, :1])
        return y.reshape(b, n, d).astype(jnp.float32)


def vit_b16(form: Form = "transreid", stride: int = 16, dtype: Any = jnp.float32) -> ViT:
    """The published ViT-B/16. Images of 256 x 128 have 85,746,432 parameters, at stride 12
    85,809,408; CLIP's form, with its matrix, 86,140,416 at stride 16."""
    return ViT(form, stride, dtype=dtype)
