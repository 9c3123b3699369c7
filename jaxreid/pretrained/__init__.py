"""Weights made elsewhere -> our variables.

    python -m jaxreid.pretrained densenet121-a639ec97.pth --arch=densenet121 \\
        --out=densenet121.safetensors

`sources` reads files into arrays by their published names, `rules` says what they are called here,
`weights` brings the arrays into our layout and puts them into a model's variables. A file is never
trusted: nothing in it is run, and its sizes are checked before memory is taken for them.
"""

from jaxreid.pretrained.sources import Raw, read
from jaxreid.pretrained.weights import Report, Weights, convert, install, known, load, save

__all__ = ["Raw", "Report", "Weights", "convert", "install", "known", "load", "read", "save"]
