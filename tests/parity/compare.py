"""The same weights and images through PyTorch and through ours.

Weights go by files and through `jaxreid.pretrained`, as published ones do.
"""

from typing import NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from jaxreid.pretrained import Raw, convert, install
from tests.pretrained.writers import write_caffe

# Of ImageNet in 0..1, R G B.
MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).reshape(3, 1, 1)


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
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
            # At the end of a residual branch less, as after training: where branches outweigh
            # what they are added to, PyTorch itself is off by 1e-4 against 64 bits.
            last = name.endswith(("bn3", "conv3.bn", "IN"))
            uniform(layer.weight, *((0.2, 0.5) if last else (0.5, 1.0)))
            uniform(layer.bias, -0.3, 0.3)
            if layer.track_running_stats:
                uniform(layer.running_mean, -0.3, 0.3)
                uniform(layer.running_var, 0.5, 2.0)
    return module


def torch_files(content, folder):
    """A state dict, or what a training saves, in PyTorch's two forms of file."""
    paths = folder / "zip.pth", folder / "legacy.pth"
    for path, new in zip(paths, (True, False)):
        torch.save(content, path, _use_new_zipfile_serialization=new)
    return paths


def caffe_files(module, folder, names=None):
    """The module's weights in Caffe's two forms of file.

    Args:
        module: of PyTorch.
        folder: to write to.
        names: of its layers in their order, where the module calls them otherwise.
    """
    layers = {}
    for name, tensor in module.state_dict().items():
        layers.setdefault(name.rpartition(".")[0], []).append(tensor.numpy())
    if names:
        layers = dict(zip(names, layers.values(), strict=True))
    paths = folder / "v1.caffemodel", folder / "v2.caffemodel"
    return [write_caffe(path, layers, v1) for path, v1 in zip(paths, (True, False))]


def installed(start, paths, arch):
    """The variables of a model with the weights of the files, which must all give the same.

    Args:
        start: the shapes of the variables.
        paths: of the files. Nothing in them may be left over.
        arch: whose rules name the weights.
    """
    (variables, report), *others = (install(start, path, arch) for path in paths)
    assert not report.left_out
    for other, _ in others:
        jax.tree.map(np.testing.assert_array_equal, other, variables)
    return variables


def grey_levels(height, width, items=2):
    return np.random.default_rng(7).integers(0, 256, (items, height, width, 3), dtype=np.uint8)


def normalised(images):
    """[..., h, w, 3] -> [..., 3, h, w] in float64, as published weights of PyTorch want them."""
    return (torch.from_numpy(images).movedim(-1, -3).double() / 255 - MEAN) / STD


def blue_first(images, mean=(104, 117, 123)):
    """[b, h, w, 3] -> [b, 3, h, w], as published weights of Caffe want them; the mean is B G R."""
    return torch.from_numpy(images[..., ::-1] - np.float32(mean)).movedim(-1, -3)


def error(got, want):
    """The largest difference, relative to the largest magnitude of what is wanted."""
    assert got.shape == want.shape
    return np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()


class Run(NamedTuple):
    """What a network did.

    Attributes:
        errors: of the output and of every map, by its name.
        maps: ours.
        before: our running statistics.
        after: the same, after training.
    """

    errors: dict
    maps: dict
    before: dict
    after: dict


def run_both(module, x, network, images, paths, arch, *, train=False):
    """Runs a module of PyTorch, and our network with the module's weights.

    Args:
        module: returns its output and its maps.
        x: what it sees.
        network: ours.
        images: what that sees.
        paths: files of the module's weights.
        arch: whose rules name them.
        train: BatchNorm by the batch.
    """
    start = jax.eval_shape(
        lambda images: network.init(jax.random.key(0), images, train=False), images
    )
    below = {collection: {"backbone": tree} for collection, tree in start.items()}
    variables = installed(below, paths, arch)
    variables = {collection: tree["backbone"] for collection, tree in variables.items()}

    module.train(train)
    with torch.no_grad():
        want, want_maps = module(x.float())

    @jax.jit
    def run(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return network.apply(variables, images, train=train, rngs=rngs, mutable=["batch_stats"])

    (got, maps), state = run(variables, images)
    assert set(maps) == set(want_maps)
    errors = {name: error(maps[name], m.movedim(1, -1).numpy()) for name, m in want_maps.items()}
    errors["output"] = error(got, want.numpy())
    return Run(errors, maps, variables.get("batch_stats", {}), state.get("batch_stats", {}))


def require_same_statistics(run, module, arch, positions):
    """Running means as PyTorch's, variances too but for what is known.

    PyTorch's running variance is that of a sample, n / (n - 1) times the batch's own.

    Args:
        run: in training, of the module.
        module: of PyTorch.
        arch: of `run_both`.
        positions: n of some of the layers.
    """
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    theirs = convert(Raw("after training", "torch", state), arch).leaves
    for layer, ours in run.after.items():
        assert error(ours["mean"], theirs[f"batch_stats/{layer}/mean"]) < 1e-4, layer
    for layer, n in positions.items():
        kept = 0.9 * run.before[layer]["var"]
        step, sampled = run.after[layer]["var"] - kept, theirs[f"batch_stats/{layer}/var"] - kept
        assert error(step * n / (n - 1), sampled) < 1e-3, layer
