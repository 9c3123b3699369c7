import pytest

from jaxreid.backbones import vgg16
from tests.parity import compare
from tests.parity.reference_vgg import VGG16

CAFFE_LAYERS = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]


@pytest.mark.parametrize("family", ["torch", "caffe"])
def test_vgg16_equals_pytorch(family, tmp_path):
    module, network = compare.draw(VGG16(fc=32, classes=7), seed=0), vgg16(7, fc=32)
    # Of 255 columns every pooling drops one, and 7 x 7 positions are left, as published.
    images = compare.grey_levels(224, 255, items=1)
    if family == "torch":
        x, paths = compare.normalised(images), compare.torch_files(module.state_dict(), tmp_path)
    else:
        x = compare.blue_first(images, (103.939, 116.779, 123.68))
        paths = compare.caffe_files(module, tmp_path, [*CAFFE_LAYERS, "fc6", "fc7", "fc8"])
    run = compare.run_both(module, x, network, images, paths, "vgg16")
    assert set(run.errors) == {
        *("block1", "block2", "block3", "block4", "block5", "fc6", "fc7", "output")
    }
    assert max(run.errors.values()) < 1e-4, run.errors
