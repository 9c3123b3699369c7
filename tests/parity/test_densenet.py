import pytest

from jaxreid.backbones import densenet121
from tests.parity.compare import draw, grey_levels, require_same_statistics, run_published
from tests.parity.reference_densenet import DenseNet121


@pytest.mark.parametrize(("height", "width"), [(96, 64), (97, 65)])
@pytest.mark.parametrize("train", [False, True])
def test_densenet121_equals_pytorch(height, width, train):
    module, network = draw(DenseNet121(), seed=0), densenet121(num_classes=1000)
    images = grey_levels(height, width)
    errors, statistics = run_published(module, network, "densenet121", images, train=train)
    assert set(errors) == {"stem", "block1", "block2", "block3", "block4", "norm5", "output"}
    assert max(errors.values()) < 1e-4, errors
    if train:
        # Two images: 48 x 32 or 49 x 33 positions after the first convolution, 3 x 2 in the end.
        positions = {"norm0": 2 * -(-height // 2) * -(-width // 2), "norm5": 2 * 3 * 2}
        require_same_statistics(statistics, positions)
