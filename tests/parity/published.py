"""What the layers of GoogLeNet, VGG-16 and CaffeNet are called in published weights."""

from functools import partial

import jax
import numpy as np
import torch

from tests.parity.compare import error
from tests.parity.conversion import convert

# What published weights expect of RGB images in grey levels: mean and deviation.
TORCHVISION = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))

MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")

TORCHVISION_BRANCHES = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}
TORCHVISION_CONVOLUTIONS = {
    "conv1": "conv1",
    "conv2_reduce": "conv2",
    "conv2": "conv3",
    "aux1_conv": "aux1.conv",
    "aux2_conv": "aux2.conv",
    **{
        f"inception{module}_{ours}": f"inception{module}.{published}"
        for module in MODULES
        for ours, published in TORCHVISION_BRANCHES.items()
    },
}
GOOGLENET_TORCHVISION = {
    **{ours: f"{published}.conv" for ours, published in TORCHVISION_CONVOLUTIONS.items()},
    **{f"{ours}_bn": f"{published}.bn" for ours, published in TORCHVISION_CONVOLUTIONS.items()},
    **{f"aux{i}_fc": f"aux{i}.fc1" for i in (1, 2)},
    **{f"aux{i}_classifier": f"aux{i}.fc2" for i in (1, 2)},
    "classifier": "fc",
}
GOOGLENET_CAFFE = {
    "conv1": "conv1/7x7_s2",
    "conv2_reduce": "conv2/3x3_reduce",
    "conv2": "conv2/3x3",
    **{
        f"inception{module}_{branch}": f"inception_{module}/{branch}"
        for module in MODULES
        for branch in TORCHVISION_BRANCHES
    },
    **{f"aux{i}_{layer}": f"loss{i}/{layer}" for i in (1, 2) for layer in ("conv", "fc")},
    **{f"aux{i}_classifier": f"loss{i}/classifier" for i in (1, 2)},
    "classifier": "loss3/classifier",
}
VGG16_TORCHVISION = {
    **dict(zip(("conv1_1", "conv1_2"), ("features.0", "features.2"))),
    **dict(zip(("conv2_1", "conv2_2"), ("features.5", "features.7"))),
    **{f"conv3_{i}": f"features.{8 + 2 * i}" for i in (1, 2, 3)},
    **{f"conv4_{i}": f"features.{15 + 2 * i}" for i in (1, 2, 3)},
    **{f"conv5_{i}": f"features.{22 + 2 * i}" for i in (1, 2, 3)},
    **{"fc6": "classifier.0", "fc7": "classifier.3", "classifier": "classifier.6"},
}
CAFFENET_CAFFE = {
    **{name: name for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")},
    "classifier": "fc8",
}


def variables_of(module, names, maps):
    """A module's weights as our `params` and `batch_stats`.

    Args:
        module: of PyTorch.
        names: our names -> published names; all weights of the module.
        maps: of each layer that sees a flattened map, the map's height and width.
    """
    state = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    renamed = {}
    for ours, published in names.items():
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if f"{published}.{leaf}" in state:
                renamed[f"{ours}.{leaf}"] = state.pop(f"{published}.{leaf}")
    assert not state
    for name, size in maps.items():
        # Channels come first there, and last here.
        weight = renamed[f"{name}.weight"]
        weight = weight.reshape(len(weight), -1, *size).transpose(0, 2, 3, 1)
        renamed[f"{name}.weight"] = weight.reshape(len(weight), -1)
    return {name: tree for name, tree in convert(renamed).items() if tree}


def run_both(module, network, names, images, expects=TORCHVISION, *, maps=None, train=False):
    """Runs a module of PyTorch, and our network with its weights.

    Returns:
        The error of the output and of every map by its name, our maps, and our statistics
        afterwards.
    """
    mean, std = np.float32(expects)
    variables = {
        **variables_of(module, names, maps or {}),
        "preprocessing": {"mean": mean, "std": std},
    }
    start = partial(network.init, train=False)
    shapes = jax.eval_shape(start, jax.random.key(0), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)

    module.train(train)
    with torch.no_grad():
        want, want_maps = module(torch.from_numpy((images - mean) / std).permute(0, 3, 1, 2))

    @jax.jit
    def run(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return network.apply(variables, images, train=train, rngs=rngs, mutable=["batch_stats"])

    (got, got_maps), state = run(variables, images)
    assert set(got_maps) == set(want_maps)
    errors = {"output": error(got, want.numpy())}
    for name, x in want_maps.items():
        x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        errors[name] = error(got_maps[name], x.numpy())
    return errors, got_maps, state
