"""VGG-16 in PyTorch, written from the paper (configuration D), with torchvision's names."""

from torch import nn

CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Returns the logits and the maps by our names; fc6 sees 7 x 7 positions."""

    def __init__(self, fc, classes):
        super().__init__()
        self.features, inputs = nn.Sequential(), 3
        for block in CHANNELS:
            for outputs in block:
                self.features.append(nn.Conv2d(inputs, outputs, 3, padding=1)).append(nn.ReLU())
                inputs = outputs
            self.features.append(nn.MaxPool2d(2, 2))
        self.classifier = nn.Sequential(
            *(nn.Linear(512 * 7 * 7, fc), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(fc, fc), nn.ReLU(), nn.Dropout()),
            nn.Linear(fc, classes),
        )

    def forward(self, x):
        maps = {}
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps[f"block{len(maps) + 1}"] = x
        maps["fc6"] = self.classifier[:3](x.flatten(1))
        maps["fc7"] = self.classifier[3:6](maps["fc6"])
        return self.classifier[6](maps["fc7"]), maps
