import pytest

from jaxreid.backbones import resnet50, se_resnet50
from tests.parity.compare import draw, grey_levels, require_same_statistics, run_published
from tests.parity.reference_resnet import ResNet50, SEResNet50

NETWORKS = {"resnet50": (ResNet50, resnet50), "se_resnet50": (SEResNet50, se_resnet50)}
MAPS = {"stem", "layer1", "layer2", "layer3", "layer4", "output"}
# Odd sizes tell roundings and paddings apart.
SIZES = [(96, 64, 2), (97, 65, 1), (97, 65, 2)]


@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize(("height", "width", "last_stride"), SIZES)
@pytest.mark.parametrize("train", [False, True])
def test_the_network_equals_pytorch(arch, height, width, last_stride, train):
    reference, ours = NETWORKS[arch]
    module, network = draw(reference(last_stride), seed=0), ours(last_stride, num_classes=1000)
    images = grey_levels(height, width)
    errors, statistics = run_published(module, network, arch, images, train=train)
    assert set(errors) == MAPS
    assert max(errors.values()) < 1e-4, errors
    if train:
        # Two images: 48 x 32 or 49 x 33 positions after the first convolution.
        positions = 2 * -(-height // 2) * -(-width // 2)
        require_same_statistics(statistics, {"bn1": positions})
