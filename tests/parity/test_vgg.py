from jaxreid.backbones import vgg16
from tests.parity.compare import draw, grey_levels
from tests.parity.published import VGG16_TORCHVISION, run_both
from tests.parity.reference_vgg import VGG16


def test_vgg16_equals_pytorch():
    # Of 97 x 65 every pooling drops a row or column; 3 x 2 positions are left.
    module, network = draw(VGG16(cells=6, fc=256, classes=10), seed=0), vgg16(10, fc=256)
    images = grey_levels(97, 65)
    errors, ours, _ = run_both(module, network, VGG16_TORCHVISION, images, maps={"fc6": (3, 2)})
    assert set(errors) == {
        *("block1", "block2", "block3", "block4", "block5", "fc6", "fc7", "output")
    }
    assert max(errors.values()) < 1e-4, errors
    assert ours["block5"].shape == (2, 3, 2, 512)
