"""Networks that ImageNet or persons have trained, one file for each family."""

from jaxreid.backbones.caffenet import CaffeNet, caffenet
from jaxreid.backbones.densenet import DenseNet, densenet121
from jaxreid.backbones.googlenet import GoogLeNet, googlenet
from jaxreid.backbones.osnet import OSNet, osnet
from jaxreid.backbones.resnet import ResNet, resnet50, se_resnet50
from jaxreid.backbones.vgg import VGG16, vgg16
from jaxreid.backbones.vit import ViT, vit_b16

__all__ = [
    "VGG16",
    "CaffeNet",
    "DenseNet",
    "GoogLeNet",
    "OSNet",
    "ResNet",
    "ViT",
    "caffenet",
    "densenet121",
    "googlenet",
    "osnet",
    "resnet50",
    "se_resnet50",
    "vgg16",
    "vit_b16",
]
