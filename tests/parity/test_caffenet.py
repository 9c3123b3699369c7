import pytest

from jaxreid.backbones import caffenet
from tests.parity.compare import draw, grey_levels
from tests.parity.published import CAFFE, CAFFENET_CAFFE, run_both
from tests.parity.reference_caffenet import CaffeNet


@pytest.mark.parametrize(("height", "width", "grid"), [(227, 227, (6, 6)), (97, 65, (2, 1))])
def test_caffenet_equals_pytorch(height, width, grid):
    module = draw(CaffeNet(cells=grid[0] * grid[1], fc=1024, classes=10), seed=0)
    network, images = caffenet(10, fc=1024), grey_levels(height, width)
    errors, ours, _ = run_both(module, network, CAFFENET_CAFFE, images, CAFFE, maps={"fc6": grid})
    assert set(errors) == {
        *("conv1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7"),
        "output",
    }
    assert max(errors.values()) < 1e-4, errors
    assert ours["pool5"].shape == (2, *grid, 256)
    # Weights and images are such that normalising matters.
    assert float(ours["norm1"].max()) < 0.9 * float(ours["conv1"].max())
