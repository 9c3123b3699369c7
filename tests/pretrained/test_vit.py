"""Files with the names of TransReID, timm, CLIP-ReID and OpenAI's CLIP."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import released
from jaxreid.errors import UserError
from jaxreid.models import vit
from jaxreid.pretrained import Raw, convert, install, save
from jaxreid.types import Batch
from tests.pretrained import vit_files
from tests.pretrained.writers import write_zip

# Files with JPM are read as of twelve blocks.
TINY = {"backbone_width": 8, "backbone_heads": 2, "backbone_projection": 6, "stride": 12}
CONFIGS = {
    "plain": vit.Config(**TINY),
    "sie": vit.Config(**TINY, sie=3.0, cameras=4),
    "jpm": vit.Config(**TINY, sie=3.0, cameras=4, jpm=True),
    "clip": vit.Config(**TINY, form="clip"),
    "clip, sie": vit.Config(**TINY, form="clip", sie=1.0, cameras=4),
}


def start_of(config, persons=5, size=(64, 48)):
    batch = Batch(
        jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8),
        *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2,
    )
    return jax.eval_shape(config.make(persons).init, jax.random.key(0), batch)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_release_is_read(name, prefix, tmp_path):
    config = CONFIGS[name]
    state = vit_files.arrays(config, places=5 * 3)
    path = write_zip(tmp_path / "x.pth", {prefix + key: leaf for key, leaf in state.items()})
    found, report = install(start_of(config), path, config.arch)
    assert not report.left_out
    assert not report.resized
    backbone = found["params"]["backbone"]
    clip = config.form == "clip"
    block = "image_encoder.transformer.resblocks.1" if clip else "base.blocks.1"
    own = {
        "qkv": f"{block}.attn.in_proj_weight" if clip else f"{block}.attn.qkv.weight",
        "fc2": f"{block}.mlp.c_proj.weight" if clip else f"{block}.mlp.fc2.weight",
    }
    for layer, theirs in own.items():
        np.testing.assert_array_equal(backbone["block1"][layer]["kernel"], state[theirs].T)
    rows = state["image_encoder.positional_embedding" if clip else "base.pos_embed"]
    rows = rows.reshape(16, 8)
    np.testing.assert_array_equal(backbone["class_position"], rows[0])
    np.testing.assert_array_equal(backbone["position"], rows[1:].reshape(5, 3, 8))
    if config.jpm:
        last = {"block11": "b1.0", "local_block": "b2.0"}
        for ours, theirs in last.items():
            kernel = backbone[ours]["proj"]["kernel"]
            np.testing.assert_array_equal(kernel, state[f"{theirs}.attn.proj.weight"].T)
        np.testing.assert_array_equal(backbone["norm"]["scale"], state["b1.1.weight"])
        np.testing.assert_array_equal(backbone["local_norm"]["scale"], state["b2.1.weight"])
    if config.sie:
        table = state["cv_embed" if clip else "base.sie_embed"].reshape(4, 8)
        np.testing.assert_array_equal(found["params"]["cameras"]["embedding"], table)
    if clip:
        np.testing.assert_array_equal(backbone["projection"], state["image_encoder.proj"])
        assert "text_encoder.ln_final.bias" in report.weights.dropped
    for leaf in found["preprocessing"]["backbone"].values():
        np.testing.assert_allclose(leaf, 127.5)
    # Other persons, once converted: the classifiers are left out.
    save(convert(path, config.arch), tmp_path / "ours.safetensors")
    _, report = install(start_of(config, 6), tmp_path / "ours.safetensors", config.arch)
    assert len(report.left_out) == sum("classifier" in key for key in state)


@pytest.mark.parametrize("name", ["plain", "jpm", "clip"])
def test_what_a_training_starts_from(name, tmp_path):
    """The transformer alone, of square images: the positions are resized, which is said once."""
    config = CONFIGS[name]
    state = vit_files.arrays(dataclasses.replace(config, jpm=False, sie=0.0), places=16)
    clip = config.form == "clip"
    alone = vit_files.of_openai(state) if clip else vit_files.of_imagenet(state)
    path = write_zip(tmp_path / "x.pth", alone)
    config = dataclasses.replace(config, sie=0.0)
    found, report = install(start_of(config), path, config.arch)
    assert report.resized == ("params/backbone/position from 4 x 4 to 5 x 3",)
    assert str(report).count("resized bilinearly") == 1
    assert (
        report.weights.arch
        == {
            "plain": "vit_b16",
            "jpm": "vit_b16_jpm",
            "clip": "clip_vit_b16",
        }[name]
    )
    backbone = found["params"]["backbone"]
    if config.jpm:
        copied = jax.tree.map(
            np.testing.assert_array_equal, backbone["local_block"], backbone["block11"]
        )
        assert copied
    # The bottom-right corner is outside of all centres of the square grid's cells.
    rows = state["image_encoder.positional_embedding" if clip else "base.pos_embed"]
    last = rows.reshape(17, 8)[1:].reshape(4, 4, 8)[-1]
    np.testing.assert_allclose(
        backbone["position"][-1, -1], 0.8333333 * last[3] + 0.1666667 * last[2], atol=1e-5
    )


@pytest.mark.parametrize(
    ("places", "changes", "message"),
    [
        (15, {"sie": 3.0, "cameras": 6}, r"missing 1 \(params/cameras/embedding\)"),
        (14, {}, r"shape 1 \(params/backbone/position \(14, 8\), the model's is \(5, 3, 8\)\)"),
        (15, {"backbone_depth": 11}, r"unexpected 12 \(params/backbone/block11/fc1/bias, "),
        (15, {"jpm": True}, r"do not fit the model: missing \d+ \(batch_stats/bottleneck_1/mean"),
    ],
)
def test_what_does_not_fit_is_one_line(places, changes, message, tmp_path):
    path = write_zip(tmp_path / "x.pth", vit_files.arrays(CONFIGS["plain"], places))
    config = dataclasses.replace(CONFIGS["plain"], **changes)
    with pytest.raises(UserError, match=message) as error:
        install(start_of(config), path, config.arch)
    assert "\n" not in str(error.value)


def test_a_file_of_other_cameras_is_one_line(tmp_path):
    path = write_zip(tmp_path / "x.pth", vit_files.arrays(CONFIGS["sie"], 15))
    config = dataclasses.replace(CONFIGS["sie"], cameras=6)
    expected = r"params/cameras/embedding \(4, 8\), the model's is \(6, 8\)"
    with pytest.raises(UserError, match=expected):
        install(start_of(config), path, config.arch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "places", "size"),
    [
        ({}, 128, (256, 128)),
        ({"stride": 12, "sie": 3.0, "cameras": 15, "jpm": True}, 210, (256, 128)),
        ({"stride": 12, "sie": 3.0, "cameras": 8}, 310, (384, 128)),
        ({"form": "clip"}, 128, (256, 128)),
        ({"form": "clip", "stride": 12, "sie": 1.0, "cameras": 6}, 210, (256, 128)),
    ],
)
def test_a_search_knows_the_network_of_a_file(changes, places, size):
    config = vit.Config(**changes)
    raw = Raw("a file", "torch", vit_files.arrays(config, places, seed=None))
    name, release, variables = released._recognised(raw)
    assert name == config.arch
    assert release.model == config
    assert release.image_size == size
    assert not np.any(variables["params"]["classifier"]["kernel"])


@pytest.mark.slow
def test_a_grid_that_nobody_publishes_is_one_line():
    raw = Raw("a file", "torch", vit_files.arrays(places=196, seed=None))
    expected = r"embedding of 196 patches; expected 128 \(256 x 128, stride 16\), 162 "
    with pytest.raises(UserError, match=expected):
        released._recognised(raw)
