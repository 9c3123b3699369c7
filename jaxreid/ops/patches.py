"""The rearrangement of patches of TransReID (He et al., ICCV 2021, section 3.2.1)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def jigsaw(
    patches: Float[Array, "b s d"], shift: int = 5, groups: int = 2, parts: int = 4
) -> Float[Array, "b n _ d"]:
    """Patches in n parts, each of which has some from all over the image.

    As the released code has it: the first `shift - 1` patches move to the end; of the sequence in
    `groups` runs of equal length, the first patch of each run comes first, then the second of
    each, and so on; and the result is cut into `parts`. What is left over at its end is in no part.
    Where the groups do not divide the sequence, the last but one patch is in it a second time.

    Args:
        patches: in reading order, without the class token. After that addition, the groups have to
            divide them.
        shift: see above; 1 moves none.
        groups: see above.
        parts: n.
    """
    b, _, d = patches.shape
    x = jnp.roll(patches, 1 - shift, axis=1)
    if x.shape[1] % groups:
        x = jnp.concatenate([x, x[:, -2:-1]], axis=1)
    x = x.reshape(b, groups, -1, d).swapaxes(1, 2).reshape(b, -1, d)
    length = patches.shape[1] // parts
    return x[:, : parts * length].reshape(b, parts, length, d)
