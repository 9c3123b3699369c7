from jaxreid.backbones import caffenet
from tests.parity import compare
from tests.parity.reference_caffenet import CaffeNet


def test_caffenet_equals_pytorch(tmp_path):
    module, network = compare.draw(CaffeNet(fc=64, classes=10), seed=0), caffenet(10, fc=64)
    # Both sides leave 6 positions: of 227 rows every window fits, of 200 columns each pooling's
    # last one reaches over the border.
    images = compare.grey_levels(227, 200)
    x, paths = compare.blue_first(images), compare.caffe_files(module, tmp_path)
    run = compare.run_both(module, x, network, images, paths, "caffenet")
    assert set(run.errors) == {
        *("conv1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7"),
        "output",
    }
    assert max(run.errors.values()) < 1e-4, run.errors
    # Weights and images are such that normalising matters.
    assert float(run.maps["norm1"].max()) < 0.9 * float(run.maps["conv1"].max())
