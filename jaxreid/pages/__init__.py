"""Pages for people: HTML files that carry all they show and ask the network for nothing.

A template extends `base.html`, which holds the style sheet and the script. The script shows what
is interactive on any page that has it: charts, galleries, attention, tables that can be filtered.
Whatever a template is given is escaped, unless it is markup already.
"""

import base64
import io
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

_QUALITY = 80  # Of JPEG: 2 kB for a person of 64 x 128 pixels.


def render(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: a file of this folder.
        values: what it shows. One that it needs and is not given is an error.
    """
    pages = Environment(
        loader=PackageLoader("jaxreid", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.globals["inline"] = _inline
    return pages.get_template(template).render(**values)


def picture(pixels: UInt8[np.ndarray, "h w 3"], height: int) -> str:
    """An image as a data URI, `height` pixels high; a smaller one stays as it is."""
    image = Image.fromarray(pixels)
    if image.height > height:
        width = max(1, round(image.width * height / image.height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _inline(name: str) -> Markup:
    """A file of this folder as it is."""
    return Markup((resources.files(__name__) / name).read_text(encoding="utf-8"))
