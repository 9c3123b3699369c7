import pytest

from jaxreid.backbones import googlenet
from tests.parity import compare
from tests.parity.reference_googlenet import BatchNormed, Original

MAPS = {
    *("conv1", "pool1", "conv2", "pool2", "inception3a", "inception3b", "pool3", "inception4a"),
    *("inception4b", "inception4c", "inception4d", "inception4e", "pool4", "inception5a"),
    "inception5b",
}
LOGITS = {"output", "aux1", "aux2"}


def test_the_original_equals_pytorch(tmp_path):
    module, network = compare.draw(Original(10), seed=0), googlenet(10, aux=True)
    # The auxiliary classifiers see 14 x 14 positions, as published. Of rows the second pooling's
    # last window reaches over the border, of columns the first's.
    images = compare.grey_levels(226, 227, items=1)
    x, paths = compare.blue_first(images), compare.caffe_files(module, tmp_path)
    run = compare.run_both(module, x, network, images, paths, "googlenet")
    assert set(run.errors) == MAPS | {"norm1", "norm2"} | LOGITS
    assert max(run.errors.values()) < 1e-4, run.errors
    # Weights and images are such that normalising matters.
    assert (run.maps["norm1"] < 0.9 * run.maps["pool1"]).any()


@pytest.mark.parametrize("train", [False, True])
def test_the_form_with_batch_norm_equals_pytorch(train, tmp_path):
    module, network = compare.draw(BatchNormed(10), seed=2), googlenet(10, aux=True, bn=True)
    # Heights are 97, 49, 24, 12, 6 and 3, widths 64, 32, 16, 8, 4 and 2.
    images = compare.grey_levels(97, 64, items=8 if train else 2)
    # torchvision's `transform_input`.
    x = compare.normalised(images) * (compare.STD / 0.5) + (compare.MEAN - 0.5) / 0.5
    paths = compare.torch_files(module.state_dict(), tmp_path)
    run = compare.run_both(module, x, network, images, paths, "googlenet_bn", train=train)
    assert set(run.errors) == MAPS | LOGITS
    # In training the classifiers see what dropout leaves, and the module has none.
    same = MAPS if train else MAPS | LOGITS
    assert max(run.errors[name] for name in same) < 1e-4, run.errors
    if train:
        assert min(run.errors[name] for name in LOGITS) > 1e-2
        # Eight images: 49 x 32 positions after the first convolution, 3 x 2 in the end.
        positions = {"conv1_bn": 8 * 49 * 32, "inception5b_5x5_bn": 8 * 3 * 2}
        compare.require_same_statistics(run, module, "googlenet_bn", positions)
