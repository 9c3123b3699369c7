"""ImageNet networks, one file for each family."""

from jaxreid.backbones.caffenet import CaffeNet, caffenet
from jaxreid.backbones.densenet import DenseNet, densenet121
from jaxreid.backbones.googlenet import GoogLeNet, googlenet
from jaxreid.backbones.resnet import ResNet, resnet50, se_resnet50
from jaxreid.backbones.vgg import VGG16, vgg16

__all__ = [
    "VGG16",
    "CaffeNet",
    "DenseNet",
    "GoogLeNet",
    "ResNet",
    "caffenet",
    "densenet121",
    "googlenet",
    "resnet50",
    "se_resnet50",
    "vgg16",
]
