"""ResNet-50 and SE-ResNet-50 in PyTorch, written from the papers and from Caffe's definition.

The names of the weights are those of the published files: torchvision's for ResNet-50, those of
the port of the Caffe model for SE-ResNet-50.
"""

import torch
from torch import nn


class Bottleneck(nn.Module):
    """Version 1.5: the 3x3 convolution strides."""

    def __init__(self, inputs, width, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = project and projection(inputs, width, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x):
        z = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(z))))


class SEBottleneck(nn.Module):
    """As in Caffe: the first 1x1 convolution strides."""

    def __init__(self, inputs, width, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.se_module = SqueezeExcite(4 * width)
        self.downsample = project and projection(inputs, width, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.se_module(self.bn3(self.conv3(y)))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


def projection(inputs, width, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
    )


def stage(block, inputs, width, depth, stride):
    first = block(inputs, width, stride, True)
    return nn.Sequential(first, *[block(4 * width, width, 1, None) for _ in range(1, depth)])


class ResNet50(nn.Module):
    """Returns the logits and the map after every stage, by our names."""

    def __init__(self, last_stride):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(Bottleneck, 64, 64, 3, 1)
        self.layer2 = stage(Bottleneck, 256, 128, 4, 2)
        self.layer3 = stage(Bottleneck, 512, 256, 6, 2)
        self.layer4 = stage(Bottleneck, 1024, 512, 3, last_stride)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x):
        maps = {"stem": self.maxpool(torch.relu(self.bn1(self.conv1(x))))}
        maps["layer1"] = self.layer1(maps["stem"])
        maps["layer2"] = self.layer2(maps["layer1"])
        maps["layer3"] = self.layer3(maps["layer2"])
        maps["layer4"] = self.layer4(maps["layer3"])
        return self.fc(maps["layer4"].mean(dim=(2, 3))), maps


class SEResNet50(nn.Module):
    """Returns the logits and the map after every stage, by our names."""

    def __init__(self, last_stride):
        super().__init__()
        self.layer0 = nn.Sequential()
        self.layer0.add_module("conv1", nn.Conv2d(3, 64, 7, 2, padding=3, bias=False))
        self.layer0.add_module("bn1", nn.BatchNorm2d(64))
        self.layer0.add_module("relu1", nn.ReLU())
        self.layer0.add_module("pool", nn.MaxPool2d(3, 2, ceil_mode=True))
        self.layer1 = stage(SEBottleneck, 64, 64, 3, 1)
        self.layer2 = stage(SEBottleneck, 256, 128, 4, 2)
        self.layer3 = stage(SEBottleneck, 512, 256, 6, 2)
        self.layer4 = stage(SEBottleneck, 1024, 512, 3, last_stride)
        self.last_linear = nn.Linear(2048, 1000)

    def forward(self, x):
        maps = {"stem": self.layer0(x)}
        maps["layer1"] = self.layer1(maps["stem"])
        maps["layer2"] = self.layer2(maps["layer1"])
        maps["layer3"] = self.layer3(maps["layer2"])
        maps["layer4"] = self.layer4(maps["layer3"])
        return self.last_linear(maps["layer4"].mean(dim=(2, 3))), maps
