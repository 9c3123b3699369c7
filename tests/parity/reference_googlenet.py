"""GoogLeNet in PyTorch: the original, from Caffe's definition with the names of its layers, and the
form with BatchNorm, with torchvision's names.

Both return the logits and the maps by our names. They have no dropout, which changes logits alone.
"""

import torch
from torch import nn

# Channels: in, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
MODULES = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class Original(nn.Module):
    """The auxiliary classifiers see 14 x 14 positions, those of images of 224 x 224.

    They average 5 x 5 windows, which fit into 14 positions: there Caffe has no window over the
    border, which it would keep.
    """

    def __init__(self, classes):
        super().__init__()
        self.add("conv1/7x7_s2", nn.Conv2d(3, 64, 7, 2, 3))
        self.add("conv2/3x3_reduce", nn.Conv2d(64, 64, 1))
        self.add("conv2/3x3", nn.Conv2d(64, 192, 3, 1, 1))
        for module, (inputs, one, reduce3, three, reduce5, five, proj) in MODULES.items():
            self.add(f"inception_{module}/1x1", nn.Conv2d(inputs, one, 1))
            self.add(f"inception_{module}/3x3_reduce", nn.Conv2d(inputs, reduce3, 1))
            self.add(f"inception_{module}/3x3", nn.Conv2d(reduce3, three, 3, 1, 1))
            self.add(f"inception_{module}/5x5_reduce", nn.Conv2d(inputs, reduce5, 1))
            self.add(f"inception_{module}/5x5", nn.Conv2d(reduce5, five, 5, 1, 2))
            self.add(f"inception_{module}/pool_proj", nn.Conv2d(inputs, proj, 1))
        for i, inputs in ((1, 512), (2, 528)):
            self.add(f"loss{i}/conv", nn.Conv2d(inputs, 128, 1))
            self.add(f"loss{i}/fc", nn.Linear(128 * 4 * 4, 1024))
            self.add(f"loss{i}/classifier", nn.Linear(1024, classes))
        self.add("loss3/classifier", nn.Linear(1024, classes))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.keep = nn.MaxPool2d(3, 1, 1)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.average = nn.AvgPool2d(5, 3)

    def add(self, name, layer):
        self.add_module(name, layer)

    def run(self, name, x):
        return torch.relu(self.get_submodule(name)(x))

    def inception(self, module, x):
        name = f"inception_{module}"
        branches = [
            self.run(f"{name}/1x1", x),
            self.run(f"{name}/3x3", self.run(f"{name}/3x3_reduce", x)),
            self.run(f"{name}/5x5", self.run(f"{name}/5x5_reduce", x)),
            self.run(f"{name}/pool_proj", self.keep(x)),
        ]
        return torch.cat(branches, 1)

    def auxiliary(self, i, x):
        x = self.run(f"loss{i}/conv", self.average(x)).flatten(1)
        return self.get_submodule(f"loss{i}/classifier")(self.run(f"loss{i}/fc", x))

    def forward(self, x):
        m = {"conv1": self.run("conv1/7x7_s2", x)}
        m["pool1"] = self.pool(m["conv1"])
        m["norm1"] = self.norm(m["pool1"])
        m["conv2"] = self.run("conv2/3x3", self.run("conv2/3x3_reduce", m["norm1"]))
        m["norm2"] = self.norm(m["conv2"])
        m["pool2"] = self.pool(m["norm2"])
        m["inception3a"] = self.inception("3a", m["pool2"])
        m["inception3b"] = self.inception("3b", m["inception3a"])
        m["pool3"] = self.pool(m["inception3b"])
        m["inception4a"] = self.inception("4a", m["pool3"])
        m["inception4b"] = self.inception("4b", m["inception4a"])
        m["inception4c"] = self.inception("4c", m["inception4b"])
        m["inception4d"] = self.inception("4d", m["inception4c"])
        m["inception4e"] = self.inception("4e", m["inception4d"])
        m["pool4"] = self.pool(m["inception4e"])
        m["inception5a"] = self.inception("5a", m["pool4"])
        m["inception5b"] = self.inception("5b", m["inception5a"])
        m["aux1"] = self.auxiliary(1, m["inception4a"])
        m["aux2"] = self.auxiliary(2, m["inception4d"])
        return self.get_submodule("loss3/classifier")(m["inception5b"].mean((2, 3))), m


class Convolution(nn.Module):
    def __init__(self, inputs, outputs, size, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """The third branch is 3x3, where the paper has 5x5."""

    def __init__(self, inputs, one, reduce3, three, reduce5, five, proj):
        super().__init__()
        self.branch1 = Convolution(inputs, one, 1)
        self.branch2 = nn.Sequential(
            Convolution(inputs, reduce3, 1), Convolution(reduce3, three, 3)
        )
        self.branch3 = nn.Sequential(Convolution(inputs, reduce5, 1), Convolution(reduce5, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), Convolution(inputs, proj, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.conv = Convolution(inputs, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x):
        x = self.conv(nn.functional.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


class BatchNormed(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = Convolution(3, 64, 7, 2)
        self.conv2 = Convolution(64, 64, 1)
        self.conv3 = Convolution(64, 192, 3)
        for module, channels in MODULES.items():
            self.add_module(f"inception{module}", Inception(*channels))
        self.aux1 = Auxiliary(512, classes)
        self.aux2 = Auxiliary(528, classes)
        self.fc = nn.Linear(1024, classes)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.pool4 = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x):
        m = {"conv1": self.conv1(x)}
        m["pool1"] = self.pool(m["conv1"])
        m["conv2"] = self.conv3(self.conv2(m["pool1"]))
        m["pool2"] = self.pool(m["conv2"])
        m["inception3a"] = self.inception3a(m["pool2"])
        m["inception3b"] = self.inception3b(m["inception3a"])
        m["pool3"] = self.pool(m["inception3b"])
        m["inception4a"] = self.inception4a(m["pool3"])
        m["inception4b"] = self.inception4b(m["inception4a"])
        m["inception4c"] = self.inception4c(m["inception4b"])
        m["inception4d"] = self.inception4d(m["inception4c"])
        m["inception4e"] = self.inception4e(m["inception4d"])
        m["pool4"] = self.pool4(m["inception4e"])
        m["inception5a"] = self.inception5a(m["pool4"])
        m["inception5b"] = self.inception5b(m["inception5a"])
        m["aux1"] = self.aux1(m["inception4a"])
        m["aux2"] = self.aux2(m["inception4d"])
        return self.fc(m["inception5b"].mean((2, 3))), m
