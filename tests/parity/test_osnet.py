import pytest

from jaxreid.backbones import osnet
from tests.parity import compare
from tests.parity.reference_osnet import OSNet

X0_25 = (16, 64, 96, 128)


@pytest.mark.parametrize("norm", ["batch", "ibn", "ain"])
@pytest.mark.parametrize("train", [False, True])
def test_the_network_equals_pytorch(norm, train, tmp_path):
    module = compare.draw(OSNet(X0_25, norm, persons=5), seed=0)
    network = osnet(0.25, norm, num_classes=5)
    # Odd heights and even widths tell paddings and roundings apart.
    images = compare.grey_levels(97, 64, items=16)
    x, paths = compare.normalised(images), compare.torch_files(module.state_dict(), tmp_path)
    arch = {"batch": "osnet_x0_25", "ibn": "osnet_ibn_x1_0", "ain": "osnet_ain_x0_25"}[norm]
    run = compare.run_both(module, x, network, images, paths, arch, train=train)
    names = {"stem", "conv2", "conv3", "conv4", "conv5", "features", "output"}
    assert set(run.errors) == names
    assert max(run.errors.values()) < 1e-4, run.errors
    if train:
        positions = {"conv4_1_stream4_3_norm": run.maps["conv4"][..., 0].size, "fc_norm": 16}
        compare.require_same_statistics(run, module, arch, positions)
