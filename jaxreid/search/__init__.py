"""Who is it? The nearest of a gallery: of one's own photographs and videos, or of vectors.

    python -m jaxreid.search --workdir=runs/duatm --query=photo.jpg --gallery=folder/

and in Python, with pictures as paths, as uint8 arrays, or as Pillow's images:

    from jaxreid.search import Extractor

    reid = Extractor("runs/duatm")
    gallery = reid([cv2_image[..., ::-1], "b.jpg", PIL.Image.open("c.jpg")])
    indices, distances = reid.rank(["photo.jpg"], gallery, top=20)

The model's own distance decides. For vectors there is more: the exact nearest of a million, storage
in 8 bits, indices for approximate search, and databases that others keep.
"""

from jaxreid.neighbours import nearest
from jaxreid.search.extractor import Extractor
from jaxreid.search.galleries import from_lancedb, from_qdrant, to_lancedb, to_qdrant
from jaxreid.search.items import Item, find
from jaxreid.search.vectors import Loss, storage_loss, to_faiss
from jaxreid.storage import STORAGES, Storage, Stored, load, restore, save, store

__all__ = [
    "STORAGES",
    "Extractor",
    "Item",
    "Loss",
    "Storage",
    "Stored",
    "find",
    "from_lancedb",
    "from_qdrant",
    "load",
    "nearest",
    "restore",
    "save",
    "storage_loss",
    "store",
    "to_faiss",
    "to_lancedb",
    "to_qdrant",
]
