"""ImageNet networks, one file each."""

from jaxreid.backbones.densenet import DenseNet, densenet121

__all__ = ["DenseNet", "densenet121"]
