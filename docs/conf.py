"""How the documentation is built: `make docs`, or

    sphinx-build -W --keep-going -n -b html docs build/docs

Pages are Markdown (MyST). Formulas become MathML, so that a page asks the network for nothing.
"""

import html
import re
import typing
from importlib.metadata import version as version_of
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

# Before the package is imported: jaxtyping then shows shapes as they are written.
typing.GENERATING_DOCUMENTATION = True

project = "jaxreid"
author = "the authors of jaxreid"
copyright = author
release = version = version_of("jaxreid")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
nitpicky = True
# Links have to lead somewhere, but for what is documented elsewhere, types in signatures, and
# names in docstrings that are not of ours alone (`jaxreid.prepare --check`).
nitpick_ignore_regex = [
    ("py:.*", r"(?!jaxreid\.).*"),
    ("py:class", r".*"),
    ("py:obj", r".*[^\w.].*"),
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A name in a docstring is a link where it is one of ours; anything else is code.
default_role = "py:obj"
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 90
python_display_short_literal_types = True
toc_object_entries = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = True

html_theme = "furo"
html_title = f"jaxreid {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["pages.css"]


def visit_math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """A formula as MathML, which browsers set by themselves."""
    block = isinstance(node, nodes.math_block)
    mathml = _with_accents(tex2mathml(node.astext(), as_block=block))
    if block:
        self.body.append(f'<div class="formula" role="math">{mathml}</div>\n')
    else:
        self.body.append(mathml)
    raise nodes.SkipNode


def _with_accents(mathml: str) -> str:
    """Accents belong to their letter, and an index below to both: docutils has it as a limit."""
    ElementTree.register_namespace("", _MATHML)
    # XML knows five of HTML's names of characters.
    known = r"&(?!amp;|lt;|gt;|quot;|apos;)\w+;"
    tree = ElementTree.fromstring(re.sub(known, lambda found: html.unescape(found[0]), mathml))
    for node in list(tree.iter()):
        kind = node.tag.removeprefix(f"{{{_MATHML}}}")
        if kind not in ("mover", "munderover") or node[-1].text not in _ACCENTS:
            continue
        letter, *index, accent = list(node)
        if index:
            node.clear()
            node.tag = f"{{{_MATHML}}}msub"
            above = ElementTree.SubElement(node, f"{{{_MATHML}}}mover")
            above.extend([letter, accent])
            node.extend(index)
            node = above
        node.set("accent", "true")
    return ElementTree.tostring(tree, encoding="unicode")


_MATHML = "http://www.w3.org/1998/Math/MathML"
_ACCENTS = ("ˉ", "¯", "^", "ˆ", "~", "˜")


def skip_fields(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool:
    """The fields of a NamedTuple stand in its docstring already."""
    return skip or type(member).__name__ == "_tuplegetter"


def escape(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """In docstrings backticks are the only markup: stars, bars and underscores are themselves.

    What is indented behind an empty line is an example or an equation, and stays as it is.
    """
    before, after_empty, verbatim, result = "", True, False, []
    for line in lines:
        indented = line.startswith("    ")
        if indented and after_empty and not before.startswith("    ") and not verbatim:
            verbatim = True
            result += ["::", ""]
        verbatim = verbatim and (indented or not line)
        result.append(line if verbatim else _escaped(line))
        before, after_empty = line or before, not line
    lines[:] = result


def _escaped(line: str) -> str:
    line = re.sub(r"(: \w)\.$", r"\1\\.", line)  # `bias: b.` is no list.
    bullet, text = re.fullmatch(r"(\s*(?:\* +)?)(.*)", line).groups()
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"(\*|\||_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    return bullet + "".join(parts)


def escape_types(
    app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """The same for the types of attributes, which napoleon adds: they have shapes such as *b d."""
    lines[:] = [line.replace("*", r"\*") if line.startswith(":vartype") else line for line in lines]


def shorten(
    app: Any, what: str, name: str, value: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    """Names of types as our files write them."""
    pairs = {"jaxlib._jax.Array": "Array", _FEATURES: "Features"}

    def short(text: str | None) -> str | None:
        for long, brief in pairs.items():
            text = text and text.replace(long, brief)
        return text

    return short(signature), short(returns)


_FEATURES = "PyTree[Shaped[Array, '...'] | Shaped[ndarray, '...']]"


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math, None)
    )
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", escape_types, priority=900)


html_math_renderer = "mathml"
