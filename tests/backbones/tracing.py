"""Networks without compiling their initialisation, which takes long."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def trace(network, height, width):
    """Variables, output and maps, as shapes alone."""
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
    out, maps = jax.eval_shape(lambda v, x: network.apply(v, x, train=False), variables, image)
    return variables, out, maps


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def drawn(network, height, width):
    """Variables at the scale that ReLUs keep; statistics and preprocessing are all positive."""
    rng, (shapes, _, _) = np.random.default_rng(0), trace(network, height, width)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(leaf.dtype)

    positive = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(x.dtype), shapes)
    return {**positive, "params": jax.tree.map(draw, shapes["params"])}


@partial(jax.jit, static_argnames=("network", "train"))
def run(network, variables, images, train=False, rngs=None):
    return network.apply(variables, images, train=train, rngs=rngs)


def assert_half_precision(network, variables, images):
    """Parameters and logits in float32, maps in bfloat16, and logits near the full precision's."""
    traced, _, _ = trace(network, *images.shape[1:3])
    assert {leaf.dtype for leaf in jax.tree.leaves(traced)} == {jnp.dtype("float32")}
    out, maps = run(network, variables, images)
    assert {m.dtype for m in maps.values()} == {jnp.dtype("bfloat16")}
    assert out.dtype == jnp.float32
    full, _ = run(network.clone(dtype=jnp.float32), variables, images)
    np.testing.assert_allclose(out, full, atol=0.05 * float(jnp.abs(full).max()))
