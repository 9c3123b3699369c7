"""Files that PyTorch wrote, and networks that run with them as PyTorch does."""

import collections
import warnings

import jax
import numpy as np
import pytest
import torch
from torch import nn

from jaxreid import backbones
from jaxreid.errors import UserError
from jaxreid.pretrained import install, read
from tests.parity.compare import draw, error, grey_levels
from tests.parity.reference_caffenet import CaffeNet
from tests.parity.reference_densenet import DenseNet121
from tests.parity.reference_googlenet import BatchNormed, Original
from tests.parity.reference_resnet import ResNet50, SEResNet50
from tests.parity.reference_vgg import VGG16
from tests.pretrained.writers import write_caffe

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NEW = [True, False]


def save(content, path, new):
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path


@pytest.mark.parametrize("new", NEW)
def test_tensors_of_every_kind_are_read_as_pytorch_does(tmp_path, new):
    base = torch.arange(24, dtype=torch.float32)
    content = {
        "plain": base.reshape(2, 3, 4).clone(),
        "strided": base.reshape(4, 6)[1:, ::2],
        "transposed": base.reshape(4, 6).T,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(3)),
        "bfloat16": torch.randn(5).bfloat16(),
        "half": torch.randn(5).half(),
        "double": torch.randn(5).double(),
        "bool": torch.tensor([True, False]),
    }
    for kind in (torch.int32, torch.int16, torch.int8, torch.uint8):
        content[str(kind)] = torch.tensor([1, 2, 100], dtype=kind)
    arrays = read(save(content, tmp_path / "x.pth", new)).arrays
    assert list(arrays) == list(content)
    for name, tensor in content.items():
        tensor = tensor.detach()
        want = (tensor.float() if name in ("bfloat16", "half") else tensor).numpy()
        assert arrays[name].dtype == want.dtype
        np.testing.assert_array_equal(arrays[name], want)


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoints_of_a_training(tmp_path, new, wrapper):
    module = nn.DataParallel(nn.Sequential(collections.OrderedDict(bn1=nn.BatchNorm2d(3))))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = {
        wrapper: module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "rank1": np.float64(0.5),
        "size": torch.Size([1, 2]),
        "dtype": torch.float32,
    }
    arrays = read(save(content, tmp_path / "x.pth.tar", new)).arrays
    assert list(arrays) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


@pytest.mark.parametrize("new", NEW)
def test_a_whole_module_is_refused(tmp_path, new):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(nn.Linear(2, 2), tmp_path / "x.pth", new)
    with pytest.raises(UserError, match=r"refused: it asks for torch\.nn\.modules\.linear\.Linear"):
        read(path)


def run(network, arch, path, images):
    """The logits of our network with the weights of a file as its backbone's."""
    start = jax.eval_shape(
        lambda images: network.init(jax.random.key(0), images, train=False), images
    )
    below = {name: {"backbone": tree} for name, tree in start.items()}
    variables, report = install(below, path, arch)
    assert report.left_out == ()
    variables = {name: tree["backbone"] for name, tree in variables.items()}
    logits, _ = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images)
    return logits


TORCH = {
    "densenet121": (lambda: DenseNet121(), lambda: backbones.densenet121(1000), 64),
    "resnet50": (lambda: ResNet50(2), lambda: backbones.resnet50(num_classes=1000), 64),
    "se_resnet50": (lambda: SEResNet50(2), lambda: backbones.se_resnet50(num_classes=1000), 64),
    "googlenet_bn": (lambda: BatchNormed(7), lambda: backbones.googlenet(7, aux=True, bn=True), 64),
    # fc6 sees 7 x 7 positions, as published.
    "vgg16": (lambda: VGG16(49, 32, 7), lambda: backbones.vgg16(7, fc=32), 224),
}


def expects(arch, images):
    """Images as the published weights of PyTorch want them."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in IMAGENET)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    if arch == "googlenet_bn":
        # torchvision's `transform_input`.
        x = x * (std / 0.5) + (mean - 0.5) / 0.5
    return x


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("arch", TORCH)
def test_pth_files_give_pytorchs_logits(tmp_path, arch, new):
    reference, ours, size = TORCH[arch]
    module = draw(reference(), seed=0).eval()
    images = grey_levels(size, size)
    with torch.no_grad():
        want, _ = module(expects(arch, images))
    path = save(module.state_dict(), tmp_path / "x.pth", new)
    assert error(run(ours(), arch, path, images), want.numpy()) < 1e-4


CAFFE = {
    "googlenet": (lambda: Original(7, 16), lambda: backbones.googlenet(7, aux=True), 224),
    "vgg16": (lambda: VGG16(49, 32, 7), lambda: backbones.vgg16(7, fc=32), 224),
    "caffenet": (lambda: CaffeNet(36, 32, 7), lambda: backbones.caffenet(7, fc=32), 227),
}
VGG_LAYERS = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("arch", CAFFE)
def test_caffemodels_give_the_logits_of_images_in_caffes_order(tmp_path, arch, v1):
    reference, ours, size = CAFFE[arch]
    module = draw(reference(), seed=0).eval()
    images = grey_levels(size, size)
    mean = (103.939, 116.779, 123.68) if arch == "vgg16" else (104, 117, 123)
    blue_first = images[..., ::-1] - np.float32(mean)
    with torch.no_grad():
        want, _ = module(torch.from_numpy(blue_first).permute(0, 3, 1, 2))
    layers = {}
    for name, tensor in module.state_dict().items():
        layers.setdefault(name.rpartition(".")[0], []).append(tensor.numpy())
    if arch == "vgg16":
        caffe = [*VGG_LAYERS, "fc6", "fc7", "fc8"]
        layers = dict(zip(caffe, layers.values(), strict=True))
    path = write_caffe(tmp_path / "x.caffemodel", layers, v1)
    assert error(run(ours(), arch, path, images), want.numpy()) < 1e-4
