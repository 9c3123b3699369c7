"""Published names of PyTorch's arrays -> ours; axes by the rank. Weights and gradients alike."""

import re

import numpy as np

# The dots that are left become underscores.
NAMES = (
    (r"downsample\.0\.", "downsample_conv."),
    (r"downsample\.1\.", "downsample_bn."),
    (r"^layer0\.", ""),
    (r"\.se_module\.", ".se_"),
    (r"^(fc|last_linear)\.", "classifier."),
)
STATISTICS = {"running_mean": "mean", "running_var": "var"}


def convert(arrays):
    """NumPy arrays by published names -> `params` and `batch_stats`."""
    params, batch_stats = {}, {}
    for name, array in arrays.items():
        for published, ours in NAMES:
            name = re.sub(published, ours, name)
        layer, leaf = name.replace(".", "_", name.count(".") - 1).split(".")
        if leaf in STATISTICS:
            batch_stats.setdefault(layer, {})[STATISTICS[leaf]] = array
        elif leaf == "bias":
            params.setdefault(layer, {})["bias"] = array
        elif leaf == "weight":
            key = "scale" if array.ndim == 1 else "kernel"
            # out, in, height, width -> height, width, in, out.
            axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[array.ndim]
            params.setdefault(layer, {})[key] = np.ascontiguousarray(array.transpose(axes))
    return {"params": params, "batch_stats": batch_stats}
