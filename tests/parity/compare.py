"""The same weights and images through PyTorch and through ours."""

import jax
import numpy as np
import torch
from torch import nn

from jaxreid.pretrained import Raw
from jaxreid.pretrained import convert as convert_published


def draw(module, seed):
    """Weights and statistics away from where they start, at scales that a deep network keeps."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.uniform_(low, high, generator=generator)

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            layer.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                uniform(layer.bias, -0.5, 0.5)
        elif isinstance(layer, nn.BatchNorm2d):
            # At the end of a residual branch less, as after training: where branches outweigh
            # what they are added to, PyTorch itself is off by 1e-4 against 64 bits.
            uniform(layer.weight, *((0.2, 0.5) if name.endswith("bn3") else (0.5, 1.0)))
            uniform(layer.bias, -0.3, 0.3)
            uniform(layer.running_mean, -0.3, 0.3)
            uniform(layer.running_var, 0.5, 2.0)
    return module


def grey_levels(height, width, items=2):
    return np.random.default_rng(7).integers(0, 256, (items, height, width, 3), dtype=np.uint8)


def error(got, want):
    """The largest difference, relative to the largest magnitude of what is wanted."""
    assert got.shape == want.shape
    return np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()


def leaves_of(module, arch):
    """The module's weights in our layout, through the door that published weights take."""
    state = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    return convert_published(Raw("reference", "torch", state), arch).leaves


def nested(leaves):
    """`params/conv1/kernel` -> `["params"]["conv1"]["kernel"]`."""
    tree = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def run_published(module, network, arch, images, *, train=False):
    """Runs a module with torchvision's preprocessing, and our network with the module's weights.

    Returns:
        The error of the output and of every map by its name; the running statistics before, and
        afterwards ours and PyTorch's, each by our names.
    """
    variables = nested(leaves_of(module, arch))
    shapes = jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x, train=False), jax.numpy.asarray(images)
    )
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)

    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    module.train(train)
    with torch.no_grad():
        want, want_maps = module((x - mean) / std)

    @jax.jit
    def run(variables, images):
        return network.apply(variables, images, train=train, mutable=["batch_stats"])

    (got, got_maps), state = run(variables, images)
    assert set(got_maps) == set(want_maps)
    errors = {"output": error(got, want.numpy())}
    for name, x in want_maps.items():
        errors[name] = error(got_maps[name], x.permute(0, 2, 3, 1).numpy())
    after = nested(leaves_of(module, arch))["batch_stats"]
    return errors, (variables["batch_stats"], state["batch_stats"], after)


def require_same_statistics(statistics, positions):
    """Running means as PyTorch's, variances too but for what is known.

    PyTorch's running variance is that of a sample, n / (n - 1) times the batch's own.

    Args:
        statistics: of `run_published`.
        positions: n of some of the layers.
    """
    before, ours, theirs = statistics
    for name in theirs:
        assert error(ours[name]["mean"], theirs[name]["mean"]) < 1e-4, name
    for name, n in positions.items():
        step, sampled = (s[name]["var"] - 0.9 * before[name]["var"] for s in (ours, theirs))
        assert error(step * n / (n - 1), sampled) < 1e-3, name
