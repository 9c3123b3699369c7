"""Files of OSNet with the names and shapes of the released ones, with weights from a seed."""

import numpy as np

from jaxreid.models import osnet
from tests.pretrained import writers


def arrays(network="osnet_x0_25", persons=5, seed=0):
    """A state dict as torchreid's."""
    rng = np.random.default_rng(seed)
    config = osnet.Config(network)
    stem, *widths = config.channels
    found = {}

    def weight(name, *shape):
        scale = (2 / np.prod(shape[1:])) ** 0.5
        found[f"{name}.weight"] = rng.normal(0, scale, shape).astype(np.float32)

    def bias(name, channels):
        found[f"{name}.bias"] = rng.uniform(-0.3, 0.3, channels).astype(np.float32)

    def norm(name, channels, instance=False):
        found[f"{name}.weight"] = rng.uniform(0.5, 1, channels).astype(np.float32)
        bias(name, channels)
        if not instance:
            found[f"{name}.running_mean"] = rng.normal(0, 0.1, channels).astype(np.float32)
            found[f"{name}.running_var"] = rng.uniform(0.5, 2, channels).astype(np.float32)
            found[f"{name}.num_batches_tracked"] = np.array(7)

    def convolution(name, inputs, outputs, size=1, instance=False):
        weight(f"{name}.conv", outputs, inputs, size, size)
        norm(f"{name}.bn", outputs, instance)

    def light(name, channels):
        weight(f"{name}.conv1", channels, channels, 1, 1)
        weight(f"{name}.conv2", channels, 1, 3, 3)
        norm(f"{name}.bn", channels)

    ain, ibn = config.norm == "ain", config.norm == "ibn"
    convolution("conv1", 3, stem, 7, instance=ain or ibn)
    for stage, inputs, outputs in zip((2, 3, 4), config.channels, widths):
        for block, before in enumerate((inputs, outputs)):
            name, middle = f"conv{stage}.{block}", outputs // 4
            inside = ain and (stage, block) in {(2, 0), (2, 1), (3, 1), (4, 0)}
            convolution(f"{name}.conv1", before, middle)
            for depth, letter in enumerate("abcd", 1):
                for place in range(depth):
                    plain = f"conv2{letter}" if depth == 1 else f"conv2{letter}.{place}"
                    layer = f"conv2.{depth - 1}.layers.{place}" if ain else plain
                    light(f"{name}.{layer}", middle)
            for layer, one, other in (("fc1", middle, middle // 16), ("fc2", middle // 16, middle)):
                weight(f"{name}.gate.{layer}", other, one, 1, 1)
                bias(f"{name}.gate.{layer}", other)
            weight(f"{name}.conv3.conv", outputs, middle, 1, 1)
            if not inside:
                norm(f"{name}.conv3.bn", outputs)
            if inside or (ibn and stage == 2):
                norm(f"{name}.IN", outputs, instance=True)
            if before != outputs:
                convolution(f"{name}.downsample", before, outputs)
        if stage < 4:
            convolution(f"pool{stage}.0" if ain else f"conv{stage}.2.0", outputs, outputs)
    convolution("conv5", widths[-1], widths[-1])
    weight("fc.0", 512, widths[-1])
    bias("fc.0", 512)
    norm("fc.1", 512)
    weight("classifier", persons, 512)
    bias("classifier", persons)
    return found


def write_onnx(path, state):
    """What an exporter makes of a network of BatchNorms: each is folded into its convolution.

    The convolution then has nameless weights, and its place in the network as the node's name.
    """
    nodes = []
    for name in state:
        layer, _, leaf = name.rpartition(".")
        if leaf != "weight" or layer.startswith("classifier") or layer.endswith(".bn"):
            continue
        *above, own = layer.split(".")
        inner = ".".join([*above, "bn"])
        if own in ("conv", "conv2") and f"{inner}.weight" in state:
            scale = state[f"{inner}.weight"] / np.sqrt(state[f"{inner}.running_var"] + 1e-5)
            folded = {
                f"onnx::Conv_{len(nodes)}0": state[name] * scale[:, None, None, None],
                f"onnx::Conv_{len(nodes)}1": state[f"{inner}.bias"]
                - state[f"{inner}.running_mean"] * scale,
            }
            nodes.append((_place(layer), "Conv", folded))
        else:
            leaves = ("weight", "bias", "running_mean", "running_var")
            own = {f"{layer}.{x}": state[f"{layer}.{x}"] for x in leaves if f"{layer}.{x}" in state}
            kind = {1: "BatchNormalization", 2: "Gemm", 4: "Conv"}[state[name].ndim]
            nodes.append((_place(layer), kind, own))
    return writers.write_onnx(path, nodes)


def _place(layer):
    """`conv2.0.conv1.conv` -> `/conv2/conv2.0/conv1/conv/...`"""
    words = []
    for word in layer.split("."):
        words.append(f"{words[-1]}.{word}" if word.isdigit() else word)
    return "/" + "/".join(words) + "/Op"
