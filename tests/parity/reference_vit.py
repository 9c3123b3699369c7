"""TransReID and CLIP-ReID's image encoder in PyTorch, written from the equations, with the names
that the weights have in the released files."""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, width, patch, stride):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Transformer(nn.Module):
    """TransReID's `base`. With JPM its last block and its norm are not run."""

    def __init__(self, config, places):
        super().__init__()
        width = config.backbone_width
        self.sie, self.jpm = config.sie, config.jpm
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, places + 1, width))
        if config.sie:
            self.sie_embed = nn.Parameter(torch.zeros(config.cameras, 1, width))
        self.patch_embed = Patches(width, config.backbone_patch, config.stride)
        heads = config.backbone_heads
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(config.backbone_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc = nn.Linear(width, 10)

    def forward(self, x, cameras):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        if self.sie:
            x = x + self.sie * self.sie_embed[cameras]
        maps = {"embedded": x}
        for index, block in enumerate(self.blocks[:-1] if self.jpm else self.blocks):
            maps[f"block{index}"] = x = block(x)
        if not self.jpm:
            maps["norm"] = x = self.norm(x)
        return x, maps


class TransReID(nn.Module):
    """Returns vectors, logits and maps; the first vector is the whole image's."""

    def __init__(self, config, places, persons):
        super().__init__()
        width = config.backbone_width
        self.config = config
        self.base = Transformer(config, places)
        names = [""]
        if config.jpm:
            self.b1, self.b2 = (
                nn.Sequential(Block(width, config.backbone_heads), nn.LayerNorm(width, eps=1e-6))
                for _ in range(2)
            )
            names += [f"_{part}" for part in range(1, 5)]
        self.names = names
        for name in names:
            setattr(self, f"bottleneck{name}", nn.BatchNorm1d(width))
            setattr(self, f"classifier{name}", nn.Linear(width, persons, bias=False))

    def forward(self, x, cameras):
        x, maps = self.base(x, cameras)
        vectors = [x[:, 0]]
        if self.config.jpm:
            token, patches = x[:, :1], x[:, 1:]
            maps[f"block{self.config.backbone_depth - 1}"] = last = self.b1[0](x)
            maps["norm"] = last = self.b1[1](last)
            shift, groups = self.config.jpm_shift, self.config.jpm_groups
            places = patches.shape[1]
            order = [*range(shift - 1, places), *range(shift - 1)]
            if places % groups:
                order.append(order[-2])
            run = len(order) // groups
            order = [order[g * run + i] for i in range(run) for g in range(groups)]
            length = places // 4
            parts = [
                self.b2(torch.cat([token, patches[:, order[i * length : (i + 1) * length]]], 1))
                for i in range(4)
            ]
            vectors = [last[:, 0], *(part[:, 0] for part in parts)]
            maps["parts"] = torch.stack(vectors[1:], dim=1)
        logits = [
            getattr(self, f"classifier{name}")(getattr(self, f"bottleneck{name}")(vector))
            for name, vector in zip(self.names, vectors)
        ]
        return vectors, logits, maps


class ClipBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(y * torch.sigmoid(1.702 * y))


class Blocks(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, heads = config.backbone_width, config.backbone_heads
        self.resblocks = nn.Sequential(
            *[ClipBlock(width, heads) for _ in range(config.backbone_depth)]
        )


class Encoder(nn.Module):
    def __init__(self, config, places):
        super().__init__()
        width, patch = config.backbone_width, config.backbone_patch
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(places + 1, width))
        self.proj = nn.Parameter(torch.zeros(width, config.backbone_projection))
        self.conv1 = nn.Conv2d(3, width, patch, config.stride, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Blocks(config)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, x, side):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        if side is not None:
            token = token + side[:, None]
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        maps = {"embedded": x}
        for index, block in enumerate(self.transformer.resblocks):
            maps[f"block{index}"] = x = block(x)
        maps["norm"] = x = self.ln_post(x)
        maps["projected"] = x[:, 0] @ self.proj
        return maps


class ClipReID(nn.Module):
    """Returns vectors, logits and maps; and the class token before the last block as a map."""

    def __init__(self, config, places, persons):
        super().__init__()
        self.config = config
        self.image_encoder = Encoder(config, places)
        if config.sie:
            self.cv_embed = nn.Parameter(torch.zeros(config.cameras, config.backbone_width))
        self.bottleneck = nn.BatchNorm1d(config.backbone_width)
        self.bottleneck_proj = nn.BatchNorm1d(config.backbone_projection)
        self.classifier = nn.Linear(config.backbone_width, persons, bias=False)
        self.classifier_proj = nn.Linear(config.backbone_projection, persons, bias=False)

    def forward(self, x, cameras):
        side = self.config.sie * self.cv_embed[cameras] if self.config.sie else None
        maps = self.image_encoder(x, side)
        vectors = [maps["norm"][:, 0], maps["projected"]]
        logits = [
            self.classifier(self.bottleneck(vectors[0])),
            self.classifier_proj(self.bottleneck_proj(vectors[1])),
        ]
        return vectors, logits, maps


def network(config, places, persons):
    """The reference of a config, for so many patches."""
    kind = ClipReID if config.form == "clip" else TransReID
    return kind(config, places, persons)


def triplet(x, pids):
    """The soft margin of the farthest positive and the nearest negative."""
    distances = (x[:, None] - x[None]).square().sum(-1).clamp(min=1e-12).sqrt()
    same = pids[:, None] == pids[None]
    farthest = distances.masked_fill(~same, -1.0).amax(dim=1)
    nearest = distances.masked_fill(same, torch.inf).amin(dim=1)
    return functional.softplus(farthest - nearest).mean()


def loss(out, pids, config):
    """Both papers' loss of what the network returns."""
    vectors, logits, maps = out
    entropies = [
        functional.cross_entropy(each, pids, label_smoothing=config.label_smoothing)
        for each in logits
    ]
    if config.form == "clip":
        before = maps[f"block{config.backbone_depth - 2}"][:, 0]
        return sum(entropies) + sum(triplet(x, pids) for x in [before, *vectors])
    triplets = [triplet(x, pids) for x in vectors]
    if not config.jpm:
        return entropies[0] + triplets[0]
    return sum(each[0] / 2 + sum(each[1:]) / 8 for each in (entropies, triplets))
