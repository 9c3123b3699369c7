import dataclasses
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.errors import UserError
from jaxreid.models import osnet
from jaxreid.pretrained import rules
from tests.networks import MODELS, NUM_IDS, make_batch


@pytest.fixture(scope="module")
def built():
    model, batch = MODELS["osnet"].make(NUM_IDS), make_batch("osnet")
    return model, jax.jit(model.init)(jax.random.key(0), batch), batch


def test_every_network_has_rules_and_the_published_widths():
    networks = typing.get_args(typing.get_type_hints(osnet.Config)["network"])
    assert networks == rules.OSNETS
    channels = {name: osnet.Config(name).channels for name in networks}
    assert channels["osnet_x1_0"] == channels["osnet_ibn_x1_0"] == (64, 256, 384, 512)
    assert channels["osnet_x0_75"] == channels["osnet_ain_x0_75"] == (48, 192, 288, 384)
    assert channels["osnet_x0_5"] == channels["osnet_ain_x0_5"] == (32, 128, 192, 256)
    assert channels["osnet_x0_25"] == channels["osnet_ain_x0_25"] == (16, 64, 96, 128)
    norms = [osnet.Config(name).norm for name in networks]
    assert norms == ["batch"] * 4 + ["ibn"] + ["ain"] * 4


def test_the_loss_is_that_of_smoothed_labels(built):
    model, variables, batch = built
    network = osnet.Network(MODELS["osnet"], NUM_IDS)
    (_, logits), _ = network.apply(variables, batch.images, train=True, mutable=["batch_stats"])
    loss, (_, metrics) = model.loss(variables, batch, jax.random.key(0), jnp.int32(0))
    total = 0.0
    for row, pid in zip(np.float64(logits), np.asarray(batch.pids)):
        logs = row - math.log(sum(math.exp(each) for each in row))
        for person in range(NUM_IDS):
            total -= ((0.9 if person == pid else 0.0) + 0.1 / NUM_IDS) * logs[person]
    np.testing.assert_allclose(loss, total / len(logits), rtol=1e-5)
    assert metrics["cross_entropy"] == loss
    assert metrics["accuracy"] == np.mean(np.argmax(logits, axis=1) == batch.pids)


def test_unit_vectors_rank_by_the_cosine(built):
    _, variables, batch = built
    plain = built[0].features(variables, batch)
    model = dataclasses.replace(MODELS["osnet"], test_norm=True).make(NUM_IDS)
    unit = model.features(variables, batch)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    cosine = np.float64(plain) @ np.float64(plain).T
    norms = np.linalg.norm(np.float64(plain), axis=1)
    cosine /= norms[:, None] * norms[None]
    distances = model.distance(variables, unit, unit)
    np.testing.assert_allclose(np.square(distances), 2 - 2 * cosine, atol=1e-5)


def test_clips_and_bad_values_are_one_clear_line(built):
    model, variables, batch = built
    with pytest.raises(UserError, match=r"osnet compares images and got clips"):
        model.features(variables, batch._replace(images=batch.images[:, None]))
    cases = {
        "label_smoothing": 1.0,
        "backbone_channels": (64, 256, 384, 510),
        "backbone_blocks": 3,
        "backbone_features": 0,
    }
    for name, value in cases.items():
        with pytest.raises(UserError, match=rf"config\.model\.{name}="):
            osnet.Config(**{name: value}).validate()
