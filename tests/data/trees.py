"""Small fake data sets in the layouts of the real ones: real JPEGs, a few pixels wide."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, *, size: tuple[int, int] = (16, 8), seed: int = 0) -> Path:
    """Writes a picture of random colour patches, of a `size` in (height, width)."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(patches).resize(size[::-1], Image.Resampling.BILINEAR).save(path)
    return path


def market_tree(
    root: Path, *, num_ids: int = 3, num_cameras: int = 2, num_images: int = 2, size=(16, 8)
) -> Path:
    """Market-1501's layout, with a Thumbs.db in each folder.

    Training people are 2, 5, 8, ...; test people 3, 6, 9, ... Each is seen `num_images` times by
    each camera. There is one query for each test person and camera, and the gallery holds two
    distractors and one piece of junk besides. By default: 12 training images, 6 queries, and a
    gallery of 12 + 2 (+ 1 junk).
    """
    names = {"bounding_box_train": [], "query": [], "bounding_box_test": []}
    for i in range(num_ids):
        for camid in range(1, num_cameras + 1):
            train, test = f"{2 + 3 * i:04d}_c{camid}s1", f"{3 + 3 * i:04d}_c{camid}s1"
            frames = [f"{100 * (k + 1):06d}_01.jpg" for k in range(num_images)]
            names["bounding_box_train"] += [f"{train}_{frame}" for frame in frames]
            names["bounding_box_test"] += [f"{test}_{frame}" for frame in frames]
            names["query"].append(f"{test}_000050_00.jpg")
    names["bounding_box_test"] += [
        "0000_c1s1_000007_01.jpg",
        "0000_c2s3_000008_02.jpg",
        "-1_c1s1_000009_03.jpg",
    ]
    return _write(root, names, size)


def duke_tree(root: Path, *, size=(16, 8)) -> Path:
    """DukeMTMC-reID's layout: 4 training images of 2 people, 2 queries of 1, a gallery of 4.

    Person 9 is a distractor by Duke's rule: an ordinary pid that no query has.
    """
    names = {
        "bounding_box_train": [
            "0001_c2_f0046182.jpg",
            "0001_c3_f0046302.jpg",
            "0007_c2_f0046422.jpg",
            "0007_c8_f0100042.jpg",
        ],
        "query": ["0005_c1_f0044158.jpg", "0005_c2_f0057823.jpg"],
        "bounding_box_test": [
            "0005_c1_f0044278.jpg",
            "0005_c2_f0057943.jpg",
            "0009_c5_f0056800.jpg",
            "0009_c6_f0060000.jpg",
        ],
    }
    return _write(root, names, size)


def csv_tree(root: Path, *, size=(16, 8)) -> Path:
    """A CSV beside its images: two clips to train on, a query, a gallery of two, one junk.

    Returns:
        The CSV's path.
    """
    lines = [
        "path,pid,camid,split,tracklet,frame",
        "clips/b.jpg,7,1,train,4,2",
        "clips/a.jpg,7,1,train,4,1",
        "clips/c.PNG,3,2,train,5,1",
        "q.jpeg,0,1,query,0,0",
        "g1.jpg,0,2,gallery,0,0",
        "g2.jpg,3,1,gallery,1,0",
        "g3.jpg,-1,1,gallery,2,0",
    ]
    for seed, line in enumerate(lines[1:]):
        write_image(root / line.split(",")[0], size=size, seed=seed)
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root / "index.csv"


def _write(root: Path, names: dict[str, list[str]], size: tuple[int, int]) -> Path:
    seed = 0
    for folder, files in names.items():
        for file in files:
            write_image(root / folder / file, size=size, seed=(seed := seed + 1))
        (root / folder / "Thumbs.db").write_bytes(b"not an image")
    return root
