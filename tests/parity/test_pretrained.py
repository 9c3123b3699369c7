"""Files that PyTorch wrote."""

import collections
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from jaxreid.errors import UserError
from jaxreid.pretrained import read

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
