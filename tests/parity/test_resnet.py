import pytest

from jaxreid.backbones import resnet50, se_resnet50
from tests.parity import compare
from tests.parity.reference_resnet import ResNet50, SEResNet50

NETWORKS = {"resnet50": (ResNet50, resnet50), "se_resnet50": (SEResNet50, se_resnet50)}


@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize(("train", "last_stride"), [(False, 2), (True, 1)])
def test_the_network_equals_pytorch(arch, train, last_stride, tmp_path):
    reference, ours = NETWORKS[arch]
    module = compare.draw(reference(last_stride), seed=0)
    network = ours(last_stride, num_classes=1000)
    # Odd heights and even widths tell paddings and roundings apart.
    images = compare.grey_levels(97, 64)
    x, paths = compare.normalised(images), compare.torch_files(module.state_dict(), tmp_path)
    run = compare.run_both(module, x, network, images, paths, arch, train=train)
    assert set(run.errors) == {"stem", "layer1", "layer2", "layer3", "layer4", "output"}
    assert max(run.errors.values()) < 1e-4, run.errors
    if train:
        # Two images: 49 x 32 positions after the first convolution.
        positions = {"bn1": 2 * 49 * 32, "layer4_2_bn3": run.maps["layer4"][..., 0].size}
        compare.require_same_statistics(run, module, arch, positions)
