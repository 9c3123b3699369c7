import pytest

from jaxreid.backbones import densenet121
from tests.parity import compare
from tests.parity.reference_densenet import DenseNet121


@pytest.mark.parametrize("train", [False, True])
def test_densenet121_equals_pytorch(train, tmp_path):
    module, network = compare.draw(DenseNet121(), seed=0), densenet121(num_classes=1000)
    # Heights are 97, 49, 25, 12, 6 and 3, an odd one for every kind of layer; widths are even.
    images = compare.grey_levels(97, 64)
    x, paths = compare.normalised(images), compare.torch_files(module.state_dict(), tmp_path)
    run = compare.run_both(module, x, network, images, paths, "densenet121", train=train)
    assert set(run.errors) == {"stem", "block1", "block2", "block3", "block4", "norm5", "output"}
    assert max(run.errors.values()) < 1e-4, run.errors
    if train:
        # Two images: 49 x 32 positions after the first convolution, 3 x 2 in the end.
        positions = {"norm0": 2 * 49 * 32, "norm5": 2 * 3 * 2}
        compare.require_same_statistics(run, module, "densenet121", positions)
