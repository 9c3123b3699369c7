import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops


@pytest.mark.parametrize(
    ("places", "shift", "groups"), [(210, 5, 2), (128, 5, 2), (24, 5, 4), (15, 5, 2), (16, 1, 1)]
)
def test_the_shuffle_equals_a_loop(places, shift, groups):
    order = list(range(places))
    for _ in range(shift - 1):  # The first goes to the end.
        order.append(order.pop(0))
    if places % groups:
        order.append(order[-2])
    run = len(order) // groups
    shuffled = []
    for place in range(run):
        for group in range(groups):
            shuffled.append(order[group * run + place])
    length = places // 4
    want = [shuffled[part * length : (part + 1) * length] for part in range(4)]
    patches = jnp.arange(places)[None, :, None] + jnp.zeros((2, 1, 3))
    got = ops.jigsaw(patches, shift, groups)
    assert got.shape == (2, 4, length, 3)
    np.testing.assert_array_equal(got[1, :, :, 0], want)
