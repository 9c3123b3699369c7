"""A gallery's features, kept in one file: what is new is computed, what is gone is dropped."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxreid import npz
from jaxreid.errors import UserError
from jaxreid.search.extractor import Extractor, Skip
from jaxreid.search.items import Item
from jaxreid.types import Features

FORMAT = "jaxreid gallery 1"
SAVE_EVERY = 120  # seconds


class Gallery(NamedTuple):
    """Items and their features.

    Attributes:
        items: those that could be read.
        features: every leaf has the leading axis n.
        kept: how many come from the index.
        computed: how many are new there, or have changed.
        dropped: how many were in the index and are no longer in the gallery, or have changed.
    """

    items: list[Item]
    features: Features
    kept: int
    computed: int
    dropped: int


def open_gallery(
    extractor: Extractor,
    items: list[Item],
    path: Path | None = None,
    *,
    skip: Skip | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Gallery:
    """The features of a gallery.

    An item in the index is known by where its files lie, their sizes, and when they were written.
    The index is made of the gallery as it is now, also if this is interrupted: then it holds what
    has been computed; and if it is killed, what was there up to `SAVE_EVERY` seconds before.

    Args:
        extractor: computes them.
        items: of the gallery.
        path: of the index, which need not exist yet; None keeps nothing.
        skip: is told of items that cannot be read, by their number. By default the first ends it.
        advance: is told how many more items are done.

    Raises:
        UserError: the index is another network's, damaged, or cannot be written; or an item cannot
            be read.
    """
    stamps = [_stamp(item) for item in items]
    known, before = _read(path, extractor) if path is not None and path.exists() else ([], None)
    if known == stamps:
        advance(len(items))
        return Gallery(items, before, len(items), 0, 0)
    # In the items' own order: it plays no part what came when.
    features = jax.tree.map(lambda x: np.empty((len(items), *x.shape), x.dtype), extractor.shapes)
    rows = {stamp: row for row, stamp in enumerate(known)}
    there = np.array([stamp in rows for stamp in stamps])
    kept, todo = there.sum(), np.flatnonzero(~there)
    if kept:
        those = [rows[stamp] for stamp in stamps if stamp in rows]
        for leaf, old in zip(jax.tree.leaves(features), jax.tree.leaves(before)):
            leaf[there] = old[those]
        before = old = None  # Of a large gallery, no more than is needed.
        advance(int(kept))

    def skipped(number: int, error: UserError) -> None:
        if skip is None:
            raise error
        skip(int(todo[number]), error)
        advance(1)

    def so_far() -> Gallery:
        """What there is; the index is written where it would tell anything new."""
        which = np.flatnonzero(there)
        whole = len(which) == len(items)
        gallery = Gallery(
            [items[i] for i in which],
            features if whole else jax.tree.map(lambda x: x[which], features),
            kept=int(kept),
            computed=len(which) - int(kept),
            dropped=len(known) - int(kept),
        )
        if path is not None and len(which) and (gallery.computed or gallery.dropped):
            _write(path, extractor.fingerprint, gallery, [stamps[i] for i in which])
        return gallery

    saved = time.monotonic()
    try:
        pictures = [items[i] for i in todo]
        for number, found in extractor.stream(pictures, "gallery", skipped):
            for leaf, one in zip(jax.tree.leaves(features), jax.tree.leaves(found)):
                leaf[todo[number]] = one
            there[todo[number]] = True
            if path is not None and time.monotonic() > saved + SAVE_EVERY:
                so_far()
                saved = time.monotonic()
            advance(1)
    finally:
        gallery = so_far()
    return gallery


def _stamp(item: Item) -> str:
    """Changes when a file is written, moved, or has another size."""
    digest = hashlib.sha256()
    for file in item.files:
        digest.update(os.fsencode(os.path.abspath(file)))
        try:
            status = os.stat(file)
        except OSError:
            continue  # Nothing is kept of what cannot be read.
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _write(path: Path, model: str, gallery: Gallery, stamps: list[str]) -> None:
    leaves = enumerate(jax.tree.leaves(gallery.features))
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "model": np.array(model),
        "names": np.array([item.name for item in gallery.items], np.str_),
        "stamps": np.array(stamps, np.str_),
        **{f"features{i}": leaf for i, leaf in leaves},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot write the index ({error.strerror})") from None
    npz.write(path, "the index", arrays)


def _read(path: Path, extractor: Extractor) -> tuple[list[str], Features]:
    """The stamps of the items, and their features."""

    def parse(arrays: Any) -> tuple[list[str], Features]:
        if "format" not in arrays or str(arrays["format"]) != FORMAT:
            raise ValueError(f"it does not say that it is a {FORMAT!r}")
        if str(arrays["model"]) != extractor.fingerprint:
            raise UserError(
                f"{path}: an index of another network, or of another checkpoint; give another"
                " --index, or remove it"
            )
        stamps = list(map(str, arrays["stamps"]))
        shapes, tree = jax.tree.flatten(extractor.shapes)
        leaves = [arrays[f"features{i}"] for i in range(len(shapes))]
        for leaf, expected in zip(leaves, shapes):
            if (leaf.shape, leaf.dtype) != ((len(stamps), *expected.shape), expected.dtype):
                raise ValueError(f"features of {leaf.dtype} and shape {leaf.shape}")
        return stamps, jax.tree.unflatten(tree, leaves)

    expected = "not a gallery's index, or damaged ({}); remove it, or give another --index"
    return npz.read(path, parse, expected)
