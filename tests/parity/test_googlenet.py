import numpy as np
import pytest

from jaxreid.backbones import googlenet
from tests.parity.compare import draw, error, grey_levels
from tests.parity.published import CAFFE, GOOGLENET_CAFFE, GOOGLENET_TORCHVISION, run_both
from tests.parity.reference_googlenet import BatchNormed, Original

MAPS = {
    *("conv1", "pool1", "conv2", "pool2", "inception3a", "inception3b", "pool3", "inception4a"),
    *("inception4b", "inception4c", "inception4d", "inception4e", "pool4", "inception5a"),
    *("inception5b", "output"),
}


def test_the_original_equals_pytorch():
    # Of 128 x 80 the auxiliary classifiers see 8 x 5, in which windows of 5 / 3 are 2 x 1.
    module, images = draw(Original(10, cells=2), seed=0), grey_levels(128, 80)
    maps = {"aux1_fc": (2, 1), "aux2_fc": (2, 1)}
    errors, ours, _ = run_both(
        module, googlenet(10, aux=True), GOOGLENET_CAFFE, images, CAFFE, maps=maps
    )
    assert set(errors) == MAPS | {"norm1", "norm2", "aux1", "aux2"}
    assert max(errors.values()) < 1e-4, errors
    # Weights and images are such that normalising matters.
    assert (ours["norm1"] < 0.9 * ours["pool1"]).any()


def test_the_original_of_odd_size_equals_pytorch():
    module = draw(Original(10), seed=1)
    errors, _, _ = run_both(module, googlenet(10), GOOGLENET_CAFFE, grey_levels(97, 65), CAFFE)
    assert set(errors) == MAPS | {"norm1", "norm2"}
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize(("height", "width"), [(96, 96), (97, 65)])
def test_the_form_with_batch_norm_equals_pytorch(height, width):
    module, images = draw(BatchNormed(10), seed=2), grey_levels(height, width)
    maps = {"aux1_fc": (4, 4), "aux2_fc": (4, 4)}
    errors, _, _ = run_both(
        module, googlenet(10, aux=True, bn=True), GOOGLENET_TORCHVISION, images, maps=maps
    )
    assert set(errors) == MAPS | {"aux1", "aux2"}
    assert max(errors.values()) < 1e-4, errors


def test_the_form_with_batch_norm_equals_pytorch_in_training():
    """In all maps: dropout acts on what the classifiers see, and the module has none."""
    module, images = draw(BatchNormed(10), seed=3), grey_levels(96, 96, items=8)
    maps = {"aux1_fc": (4, 4), "aux2_fc": (4, 4)}
    errors, _, state = run_both(
        module,
        googlenet(10, aux=True, bn=True),
        GOOGLENET_TORCHVISION,
        images,
        maps=maps,
        train=True,
    )
    same = {name: errors[name] for name in MAPS - {"output"}}
    assert max(same.values()) < 1e-4, same
    # The classifiers themselves differ, by what was dropped.
    assert min(errors[name] for name in ("output", "aux1", "aux2")) > 1e-2
    for ours in ("conv1_bn", "inception3a_5x5_bn", "inception5b_pool_proj_bn", "aux2_conv_bn"):
        norm = module.get_submodule(GOOGLENET_TORCHVISION[ours])
        assert error(state["batch_stats"][ours]["mean"], norm.running_mean.numpy()) < 1e-4
        assert np.isfinite(state["batch_stats"][ours]["var"]).all()
