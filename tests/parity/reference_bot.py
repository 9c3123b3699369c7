"""BoT and AGW in PyTorch, written from the papers, with fast-reid's names of the weights."""

import torch
from torch import nn
from torch.nn import functional


class IBN(nn.Module):
    """Half of the channels are normalised per image, half over the batch."""

    def __init__(self, width):
        super().__init__()
        self.half = width // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(width - self.half)

    def forward(self, x):
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, ibn, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = IBN(width) if ibn else nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class NonLocal(nn.Module):
    """Every place is compared with every place, and the products are divided by their number."""

    def __init__(self, channels, width=1):
        super().__init__()
        self.g = nn.Conv2d(channels, width, 1)
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.W = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        products = torch.einsum("bci,bcj->bij", theta, phi) / phi.shape[-1]
        y = torch.einsum("bij,bcj->bci", products, g)
        return x + self.W(y.reshape(len(x), -1, *x.shape[2:]))


class Backbone(nn.Module):
    """Returns the map after every bottleneck and its non-local block, by our names."""

    def __init__(self, layers, width, ibn, non_local, ceil):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True) if ceil else nn.MaxPool2d(3, 2, padding=1)
        self.non_local, inputs = non_local, width
        for stage, depth in enumerate(layers, 1):
            inner, blocks = width * 2 ** (stage - 1), []
            for block in range(depth):
                stride = 2 if block == 0 and stage in (2, 3) else 1
                of_ibn = ibn and stage < 4
                blocks.append(Bottleneck(inputs, inner, stride, of_ibn, block == 0))
                inputs = 4 * inner
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            several = [NonLocal(inputs) for _ in range(non_local[stage - 1])]
            self.add_module(f"NL_{stage}", nn.ModuleList(several))

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        maps = {}
        for stage in range(1, 5):
            blocks, looks = getattr(self, f"layer{stage}"), getattr(self, f"NL_{stage}")
            for number, block in enumerate(blocks):
                x = block(x)
                place = number - len(blocks) + len(looks)
                if place >= 0:
                    x = looks[place](x)
                maps[f"layer{stage}_{number}"] = x
        return x, maps


class GeM(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


class Heads(nn.Module):
    def __init__(self, channels, num_ids, gem):
        super().__init__()
        self.pool_layer = GeM() if gem else Mean()
        self.bottleneck = nn.Sequential(nn.BatchNorm1d(channels))
        self.bottleneck[0].bias.requires_grad_(False)
        self.weight = nn.Parameter(torch.normal(0, 0.01, (num_ids, channels)))

    def forward(self, x):
        before = self.pool_layer(x)
        after = self.bottleneck(before)
        return before, after, functional.linear(after, self.weight)


class Network(nn.Module):
    """Returns f, f_i and the logits, and the maps."""

    def __init__(self, config, num_ids):
        super().__init__()
        self.backbone = Backbone(
            config.backbone_layers,
            config.backbone_width,
            config.backbone == "resnet50_ibn_a",
            config.non_local,
            config.stem_pool == "ceil",
        )
        self.heads = Heads(32 * config.backbone_width, num_ids, config.pooling == "gem")

    def forward(self, x):
        x, maps = self.backbone(x)
        return *self.heads(x), maps


def loss(before, logits, pids, centres, config):
    """L of BoT, or of AGW; anchor by anchor."""
    smoothed = functional.cross_entropy(logits, pids, label_smoothing=config.label_smoothing)
    triplets = []
    for anchor, pid in enumerate(pids):
        others = [i for i in range(len(pids)) if i != anchor]
        distances = {i: (before[anchor] - before[i]).norm() for i in others}
        positives = torch.stack([distances[i] for i in others if pids[i] == pid])
        negatives = torch.stack([distances[i] for i in others if pids[i] != pid])
        if config.triplet == "weighted":
            far = (torch.softmax(positives, 0) * positives).sum()
            near = (torch.softmax(-negatives, 0) * negatives).sum()
            triplets.append(torch.log1p(torch.exp(far - near)))
        else:
            triplets.append(torch.relu(config.margin + positives.max() - negatives.min()))
    centre = torch.stack([(x - centres[pid]).pow(2).sum() for x, pid in zip(before, pids)]).mean()
    return smoothed + torch.stack(triplets).mean() + config.centre * centre
