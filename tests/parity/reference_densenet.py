"""DenseNet-121 in PyTorch, written from the paper, with torchvision's names of the weights."""

import torch
from torch import nn

GROWTH = 32


class DenseLayer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(torch.relu(self.norm1(x)))
        y = self.conv2(torch.relu(self.norm2(y)))
        return torch.cat([x, y], dim=1)


class Transition(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        return self.pool(self.conv(torch.relu(self.norm(x))))


class DenseNet121(nn.Module):
    """Returns the logits and the map after every block, by our names."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 64, 7, 2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(64))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, padding=1))
        channels = 64
        for block, depth in enumerate((6, 12, 24, 16), 1):
            dense = nn.Sequential()
            for layer in range(1, depth + 1):
                dense.add_module(f"denselayer{layer}", DenseLayer(channels))
                channels += GROWTH
            self.features.add_module(f"denseblock{block}", dense)
            if block < 4:
                self.features.add_module(f"transition{block}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x):
        maps = {}
        for name, module in self.features.named_children():
            x = torch.relu(module(x)) if name == "norm5" else module(x)
            maps[name.replace("pool0", "stem").replace("dense", "")] = x
        maps = {name: maps[name] for name in maps if name.startswith(("stem", "block", "norm5"))}
        return self.classifier(x.mean(dim=(2, 3))), maps
