"""OSNet, OSNet-IBN and OSNet-AIN in PyTorch, written from the papers.

The names of the weights are those of the released files.
"""

import torch
from torch import nn

STREAMS = ("conv2a", "conv2b", "conv2c", "conv2d")
# Which blocks of OSNet-AIN normalise instances: conv2's both, conv3's second, conv4's first.
INSIDE = {("conv2", 0), ("conv2", 1), ("conv3", 1), ("conv4", 0)}


def convolution(inputs, outputs, size=1, stride=1, norm=nn.BatchNorm2d):
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False))
    if norm:
        layer.add_module("bn", norm(outputs))
    return layer


def instance_norm(channels):
    return nn.InstanceNorm2d(channels, affine=True)


def light(channels):
    """The Lite 3x3 of the paper's Fig. 3: pointwise, then depthwise."""
    layer = nn.Sequential()
    layer.add_module("conv1", nn.Conv2d(channels, channels, 1, bias=False))
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    layer.add_module("conv2", depthwise)
    layer.add_module("bn", nn.BatchNorm2d(channels))
    layer.add_module("relu", nn.ReLU())
    return layer


class Stream(nn.Module):
    def __init__(self, channels, depth):
        super().__init__()
        self.layers = nn.Sequential(*[light(channels) for _ in range(depth)])

    def forward(self, x):
        return self.layers(x)


class Gate(nn.Module):
    """Eq. (2)'s G."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x):
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))


class Block(nn.Module):
    def __init__(self, inputs, outputs, ain, inside, behind):
        super().__init__()
        middle = outputs // 4
        self.conv1 = convolution(inputs, middle)
        if ain:
            self.conv2 = nn.ModuleList([Stream(middle, depth) for depth in (1, 2, 3, 4)])
        else:
            self.conv2a = light(middle)
            for depth, name in enumerate(STREAMS[1:], 2):
                setattr(self, name, nn.Sequential(*[light(middle) for _ in range(depth)]))
        self.gate = Gate(middle)
        self.conv3 = convolution(middle, outputs, norm=None if inside else nn.BatchNorm2d)
        self.downsample = convolution(inputs, outputs) if inputs != outputs else None
        self.ain, self.inside, self.behind = ain, inside, behind
        if inside or behind:
            self.IN = instance_norm(outputs)

    def forward(self, x):
        y = torch.relu(self.conv1(x))
        streams = self.conv2 if self.ain else [getattr(self, name) for name in STREAMS]
        y = self.conv3(sum(self.gate(stream(y)) for stream in streams))
        if self.inside:
            y = self.IN(y)
        x = y + (self.downsample(x) if self.downsample else x)
        return torch.relu(self.IN(x) if self.behind else x)


class OSNet(nn.Module):
    """Returns the logits, and the maps by our names."""

    def __init__(self, channels, norm, persons):
        super().__init__()
        stem, *widths = channels
        ain = norm == "ain"
        first = nn.BatchNorm2d if norm == "batch" else instance_norm
        self.conv1 = convolution(3, stem, 7, 2, first)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.ain = ain
        for name, inputs, outputs in zip(("conv2", "conv3", "conv4"), channels, widths):
            behind = norm == "ibn" and name == "conv2"
            blocks = [
                Block(before, outputs, ain, ain and (name, place) in INSIDE, behind)
                for place, before in enumerate((inputs, outputs))
            ]
            pool = nn.Sequential(convolution(outputs, outputs), nn.ReLU(), nn.AvgPool2d(2))
            if ain and name != "conv4":
                setattr(self, name.replace("conv", "pool"), pool)
            elif name != "conv4":
                blocks.append(pool)
            setattr(self, name, nn.Sequential(*blocks))
        self.conv5 = convolution(widths[-1], widths[-1])
        self.fc = nn.Sequential(nn.Linear(widths[-1], 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512, persons)

    def forward(self, x):
        maps = {"stem": self.maxpool(torch.relu(self.conv1(x)))}
        maps["conv2"] = self.conv2(maps["stem"])
        if self.ain:
            maps["conv2"] = self.pool2(maps["conv2"])
        maps["conv3"] = self.conv3(maps["conv2"])
        if self.ain:
            maps["conv3"] = self.pool3(maps["conv3"])
        maps["conv4"] = self.conv4(maps["conv3"])
        maps["conv5"] = torch.relu(self.conv5(maps["conv4"]))
        maps["features"] = self.fc(maps["conv5"].mean(dim=(2, 3)))
        return self.classifier(maps["features"]), maps
