"""TransReID and CLIP-ReID's image encoder against PyTorch: maps, features, loss and gradients."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from jaxreid import pretrained
from jaxreid.backbones.vit import grid_of
from jaxreid.models import vit
from jaxreid.pretrained.sources import flatten
from jaxreid.pretrained.weights import resize_grid
from jaxreid.types import Batch
from tests.parity.compare import error, torch_files
from tests.parity.reference_vit import loss, network

NUM_IDS, CAMERAS = 3, 2
SMALL = {"backbone_width": 32, "backbone_heads": 4, "backbone_projection": 24, "drop_path": 0.0}
CONFIGS = {
    "plain": vit.Config(**SMALL, backbone_depth=3),
    "sie": vit.Config(**SMALL, backbone_depth=3, stride=12, sie=3.0, cameras=CAMERAS),
    # Files with JPM are read as of twelve blocks.
    "jpm": vit.Config(**SMALL, stride=12, sie=3.0, cameras=CAMERAS, jpm=True, label_smoothing=0.1),
    "clip": vit.Config(**SMALL, backbone_depth=3, form="clip", label_smoothing=0.1),
    "clip, sie": vit.Config(
        **SMALL, backbone_depth=3, form="clip", stride=12, sie=1.0, cameras=CAMERAS
    ),
}


def images(height=64, width=48, items=2 * NUM_IDS):
    """Persons of different colours, in noise, seen by two cameras."""
    rng = np.random.default_rng(0)
    pids = np.arange(items) // 2
    colours = rng.integers(40, 215, (items // 2, 1, 1, 3))[pids]
    pixels = np.clip(colours + rng.normal(0, 40, (items, height, width, 3)), 0, 255)
    camids = 1 + np.arange(items) % CAMERAS
    return Batch(jnp.asarray(pixels.astype(np.uint8)), jnp.asarray(pids), jnp.asarray(camids))


def normalised(batch):
    """[b, 3, h, w] from -1 to 1, in float64."""
    return torch.from_numpy(np.array(batch.images)).movedim(-1, 1).double() / 127.5 - 1


def cameras(batch):
    return torch.from_numpy(np.array(batch.camids)).long() - 1


def drawn(config, batch, seed=0):
    """The reference with weights away from where they start, and necks without a shift."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = grid_of(batch.images.shape[1:3], config.stride)
    reference = network(config, rows * columns, NUM_IDS)
    for name, tensor in reference.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif "bottleneck" in name and name.endswith("bias"):
            tensor.zero_()
        elif tensor.ndim == 1 and name.endswith("weight"):  # of a norm
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim <= 1 or "embed" in name or "token" in name:
            if tensor.is_floating_point():
                tensor.uniform_(-0.5, 0.5, generator=generator)
        else:
            fan_in = tensor.shape[0] if name.endswith(".proj") else tensor[0].numel()
            tensor.normal_(0, fan_in**-0.5, generator=generator)
    return reference


def pair(config, batch, paths=None):
    """(the reference in float64, our model, our variables with its weights)."""
    reference = drawn(config, batch)
    state = reference.state_dict()
    if paths is None:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        sources = [pretrained.convert(pretrained.Raw("theirs", "torch", arrays), config.arch)]
    else:
        sources = torch_files(state, paths)
    model = config.make(NUM_IDS)
    start = jax.eval_shape(model.init, jax.random.key(0), batch)
    found = [pretrained.install(start, source, config.arch) for source in sources]
    for _, report in found:
        assert not report.left_out
        assert not report.resized
    for variables, _ in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, variables, found[0][0])
    return reference.double(), model, jax.tree.map(jnp.asarray, found[0][0])


def ours_of(config, variables, batch, train):
    """The output of our network, and the maps of its backbone."""

    @jax.jit
    def run(variables, batch):
        apply = partial(
            vit.Network(config, NUM_IDS, jnp.float32).apply,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: module.name == "backbone",
        )
        out, state = apply(variables, batch.images, batch.camids, train=train, train_backbone=train)
        return out, state["intermediates"]["backbone"]["__call__"][0][1]

    return run(variables, batch)


def require_the_same(config, batch, train, paths=None):
    reference, model, variables = pair(config, batch, paths)
    reference.train(train)
    with torch.no_grad():
        vectors, logits, maps = reference(normalised(batch), cameras(batch))
    out, our_maps = ours_of(config, variables, batch, train)
    assert set(maps) == set(our_maps)
    errors = {name: error(our_maps[name], each.numpy()) for name, each in maps.items()}
    for name, got, want in (("vector", out.vectors, vectors), ("logits", out.logits, logits)):
        errors |= {f"{name} {i}": error(a, b.numpy()) for i, (a, b) in enumerate(zip(got, want))}
    assert max(errors.values()) < 1e-4, errors
    if not train:
        # As both papers compare: the vectors side by side, JPM's by a quarter, of unit length.
        whole, *others = vectors
        want = torch.cat([whole, *(x / 4 if config.jpm else x for x in others)], dim=1)
        want = functional.normalize(want).numpy()
        assert error(jax.jit(model.features)(variables, batch), want) < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("train", [False, True])
def test_every_map_vector_and_logit(name, train, tmp_path):
    require_the_same(CONFIGS[name], images(), train, tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_every_gradient_and_the_statistics(name):
    config, batch = CONFIGS[name], images()
    reference, model, variables = pair(config, batch)
    reference.train()
    pids = torch.from_numpy(np.array(batch.pids)).long()
    value = loss(reference(normalised(batch), cameras(batch)), pids, config)
    value.backward()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def step(params):
        return model.loss({**variables, "params": params}, batch, jax.random.key(0), jnp.int32(0))

    (got, (state, _)), grads = step(variables["params"])
    assert float(got) == pytest.approx(value.item(), rel=1e-5)

    def ours(tensors):
        arrays = {
            name: tensor.numpy()
            for name, tensor in tensors
            if tensor is not None and not ("bottleneck" in name and name.endswith("bias"))
        }
        return pretrained.convert(pretrained.Raw("theirs", "torch", arrays), config.arch).leaves

    grads = flatten({"params": grads})
    want = ours((name, p.grad) for name, p in reference.named_parameters())
    assert set(grads) == {name for name in want if name.startswith("params/")}
    largest = max(np.abs(leaf).max() for leaf in grads.values())
    for name, gradient in grads.items():
        theirs = want[name].reshape(gradient.shape)
        # What has no effect but rounding is compared with the gradients at large.
        scale = max(np.abs(theirs).max(), 1e-2 * largest)
        assert np.abs(gradient - theirs).max() < 1e-4 * scale, name
    want = ours(reference.named_buffers())
    for name, got in flatten(state).items():
        # PyTorch stores the unbiased variance, Flax the biased one.
        rtol = 0.2 if name.endswith("/var") else 1e-4
        np.testing.assert_allclose(got, want[name], rtol=rtol, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "config",
    [
        vit.Config(stride=12, sie=3.0, cameras=CAMERAS, jpm=True),
        vit.Config("clip", sie=1.0, cameras=CAMERAS),
    ],
    ids=["transreid", "clip"],
)
def test_the_whole_networks_equal_pytorch(config):
    require_the_same(config, images(256, 128, items=2), False)


@pytest.mark.parametrize("grid", [(21, 10), (16, 8), (5, 3), (7, 14)])
def test_positions_are_resized_as_pytorch_does(grid):
    square = np.random.default_rng(0).normal(size=(14, 14, 6)).astype(np.float32)
    tensor = torch.from_numpy(square).permute(2, 0, 1)[None].double()
    want = functional.interpolate(tensor, size=grid, mode="bilinear")[0].permute(1, 2, 0)
    np.testing.assert_allclose(resize_grid(square, grid), want.numpy(), atol=1e-6)


def test_a_start_from_imagenet(tmp_path):
    """timm's names and a square grid: positions are resized, the parts' block is the last one."""
    config = dataclasses.replace(CONFIGS["jpm"], sie=0.0)
    square = images(80, 80)
    base = drawn(dataclasses.replace(config, jpm=False, stride=16), square).base
    state = {name.replace("fc.", "head.") if name.startswith("fc.") else name: tensor
             for name, tensor in base.state_dict().items()}  # fmt: skip
    batch = images()
    start = jax.eval_shape(config.make(NUM_IDS).init, jax.random.key(0), batch)
    found, report = pretrained.install(start, torch_files(state, tmp_path)[0], config.arch)
    assert "resized bilinearly: params/backbone/position from 5 x 5 to 5 x 3" in str(report)
    backbone = found["params"]["backbone"]
    for leaf in ("qkv", "fc2"):
        np.testing.assert_array_equal(
            backbone["local_block"][leaf]["kernel"], backbone["block11"][leaf]["kernel"]
        )
    np.testing.assert_array_equal(backbone["local_norm"]["bias"], state["norm.bias"])
    tensor = state["pos_embed"][0, 1:].reshape(1, 5, 5, -1).permute(0, 3, 1, 2)
    want = functional.interpolate(tensor, size=(5, 3), mode="bilinear")[0].permute(1, 2, 0)
    np.testing.assert_allclose(backbone["position"], want.numpy(), atol=1e-6)
