"""CaffeNet in PyTorch, written from Caffe's definition, with the names of its layers."""

import torch
from torch import nn


class CaffeNet(nn.Module):
    """Returns the logits and the maps by our names; fc6 sees 6 x 6 positions."""

    def __init__(self, fc, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, 4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(256 * 6 * 6, fc)
        self.fc7 = nn.Linear(fc, fc)
        self.fc8 = nn.Linear(fc, classes)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

    def forward(self, x):
        m = {"conv1": torch.relu(self.conv1(x))}
        m["norm1"] = self.norm(self.pool(m["conv1"]))
        m["conv2"] = torch.relu(self.conv2(m["norm1"]))
        m["norm2"] = self.norm(self.pool(m["conv2"]))
        m["conv3"] = torch.relu(self.conv3(m["norm2"]))
        m["conv4"] = torch.relu(self.conv4(m["conv3"]))
        m["conv5"] = torch.relu(self.conv5(m["conv4"]))
        m["pool5"] = self.pool(m["conv5"])
        m["fc6"] = torch.relu(self.fc6(m["pool5"].flatten(1)))
        m["fc7"] = torch.relu(self.fc7(m["fc6"]))
        return self.fc8(m["fc7"]), m
