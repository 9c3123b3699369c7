"""COSAM in PyTorch, frame by frame as the paper describes it.

The names of the weights, and what the paper leaves open, are those of the released networks.
"""

import torch
from torch import nn

from tests.parity.reference_resnet import Bottleneck, SEBottleneck, stage

SMOOTHING, MARGIN = 0.1, 0.3


class Cosam(nn.Module):
    def __init__(self, channels, reduced, comparisons):
        super().__init__()
        self.dim_reduction = nn.Sequential(
            nn.Conv2d(channels, reduced, 1), nn.BatchNorm2d(reduced), nn.ReLU()
        )
        self.spatial_mask_summary = nn.Sequential(
            nn.Conv2d(comparisons, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 1, 1)
        )
        self.channelwise_attention = nn.Sequential(
            nn.Linear(channels, reduced), nn.Tanh(), nn.Linear(reduced, channels), nn.Sigmoid()
        )

    def forward(self, maps):
        """[b, n, c, h, w] -> the same, and the masks [b, n, h, w]."""
        b, n, c, h, w = maps.shape
        reduced = self.dim_reduction(maps.reshape(b * n, c, h, w)).reshape(b, n, -1, h, w)
        r = reduced.shape[2]
        volumes = []
        for item in range(b):
            for frame in range(n):
                rows = []
                for other in range(n):
                    if other != frame:
                        p, q = (reduced[item, i].reshape(r, h * w) for i in (frame, other))
                        p, q = ((x - x.mean(dim=0)) / (x.std(dim=0) + 1e-4) for x in (p, q))
                        rows.append(q.T @ p / r)  # [places of the other frame, places of this]
                volumes.append(torch.cat(rows).reshape(-1, h, w))
        mask = torch.sigmoid(self.spatial_mask_summary(torch.stack(volumes))).reshape(b, n, h, w)
        attended = maps * mask[:, :, None]
        gates = self.channelwise_attention(attended.mean(dim=(3, 4)).reshape(b * n, c))
        gate = gates.reshape(b, n, c).mean(dim=1)[:, None, :, None, None]
        return attended + attended * gate, mask


class AttentionModules(nn.Module):
    """The release nests the list in a module of the same name."""

    def __init__(self, modules):
        super().__init__()
        self.attention_modules = nn.ModuleList(modules)


class TA(nn.Module):
    def __init__(self, channels, features, grid):
        super().__init__()
        self.attention_conv = nn.Conv2d(channels, features, grid)
        self.attention_tconv = nn.Conv1d(features, 1, 3, padding=1)

    def forward(self, maps):
        b, n = maps.shape[:2]
        x = torch.relu(self.attention_conv(maps.flatten(0, 1))).reshape(b, n, -1)
        scores = torch.relu(self.attention_tconv(x.transpose(1, 2)))[:, 0]
        return (torch.softmax(scores, dim=1)[..., None] * maps.mean(dim=(3, 4))).sum(dim=1)


class RNN(nn.Module):
    def __init__(self, channels, features):
        super().__init__()
        self.lstm = nn.LSTM(channels, features, batch_first=True)

    def forward(self, maps):
        return self.lstm(maps.mean(dim=(3, 4)))[0].mean(dim=1)


class TP(nn.Module):
    def forward(self, maps):
        return maps.mean(dim=(1, 3, 4))


class SEBase(nn.Module):
    def __init__(self, layers, width, last_stride):
        super().__init__()
        self.layer0 = nn.Sequential()
        self.layer0.add_module("conv1", nn.Conv2d(3, width, 7, 2, padding=3, bias=False))
        self.layer0.add_module("bn1", nn.BatchNorm2d(width))
        self.layer0.add_module("relu1", nn.ReLU())
        self.layer0.add_module("pool", nn.MaxPool2d(3, 2, ceil_mode=True))
        inputs = width
        for i, (depth, stride) in enumerate(zip(layers, (1, 2, 2, last_stride))):
            self.add_module(
                f"layer{i + 1}", stage(SEBottleneck, inputs, width * 2**i, depth, stride)
            )
            inputs = 4 * width * 2**i

    def blocks(self):
        return [self.layer0, self.layer1, self.layer2, self.layer3, self.layer4]


def resnet_base(layers, width, last_stride):
    """The children of torchvision's ResNet in a row; its stem is four of them."""
    parts = [nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width)]
    parts += [nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    inputs = width
    for i, (depth, stride) in enumerate(zip(layers, (1, 2, 2, last_stride))):
        parts.append(stage(Bottleneck, inputs, width * 2**i, depth, stride))
        inputs = 4 * width * 2**i
    return nn.Sequential(*parts)


class Network(nn.Module):
    """Of a `jaxreid.models.cosam.Config`, for clips [n, h, w]. Blocks 1 to 3 have no COSAM."""

    def __init__(self, config, num_ids, clip):
        super().__init__()
        n, height, width = clip
        self.se, last_stride = config.backbone == "se_resnet50", 2 if config.head == "ta" else 1
        base = SEBase if self.se else resnet_base
        self.base = base(config.backbone_layers, config.backbone_width, last_stride)
        modules = [nn.Identity()] * (3 if self.se else 2)
        for block in (4, 5):
            stride = 16 * (last_stride if block == 5 else 1)
            comparisons = (n - 1) * (height // stride) * (width // stride)
            channels = config.backbone_width * 2**block
            modules.append(Cosam(channels, config.reduced, comparisons))
        self.attention_modules = AttentionModules(modules)
        self.aggregation = {
            "tp": lambda: TP(),
            "ta": lambda: TA(
                channels, config.attention_features, (height // stride, width // stride)
            ),
            "rnn": lambda: RNN(channels, config.hidden_features),
        }[config.head]()
        features = config.hidden_features if config.head == "rnn" else channels
        self.classifier = nn.Linear(features, num_ids)

    def forward(self, clips):
        """[b, n, 3, h, w], normalised -> the vectors, the logits, and the masks of 4 and 5."""
        b, n = clips.shape[:2]
        if self.se:
            blocks = self.base.blocks()
        else:
            # Where the release has no module behind the stem, the stem is one with layer 1.
            blocks = [self.base[:5], self.base[5], self.base[6], self.base[7]]
        x, masks = clips.flatten(0, 1), []
        for block, module in zip(blocks, self.attention_modules.attention_modules):
            x = block(x)
            if isinstance(module, Cosam):
                x, mask = module(x.reshape(b, n, *x.shape[1:]))
                x = x.flatten(0, 1)
                masks.append(mask)
        vectors = self.aggregation(x.reshape(b, n, *x.shape[1:]))
        return vectors, self.classifier(vectors), masks


def loss(vectors, logits, pids):
    """Cross-entropy of smoothed labels, and the hardest triplet of each clip."""
    target = torch.full_like(logits, SMOOTHING / logits.shape[1])
    target[torch.arange(len(pids)), pids] += 1 - SMOOTHING
    cross_entropy = -(target * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
    triplets = []
    for i, anchor in enumerate(vectors):
        distances = [(anchor - other).norm() for other in vectors]
        positive = max(d for j, d in enumerate(distances) if pids[j] == pids[i] and j != i)
        negative = min(d for j, d in enumerate(distances) if pids[j] != pids[i])
        triplets.append(torch.clamp(MARGIN + positive - negative, min=0))
    return cross_entropy + torch.stack(triplets).mean()
