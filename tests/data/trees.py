"""Small fake data sets in the layouts of the real ones: real JPEGs, a few pixels wide."""

import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat


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


# MARS's tracklets as (pid, camera, tracklet, frames). Names are listed in this order.
MARS_TRAIN = [
    ("0003", 1, 1, [3, 1, 2]),  # not in the order of time
    ("0003", 2, 2, [7, 8]),
    ("0007", 1, 1, [1]),
    ("0007", 5, 2, [11, 12, 10, 14]),
]
MARS_TEST = [
    ("00-1", 1, 1, [1, 2]),
    ("00-1", 3, 2, []),
    ("0000", 2, 1, [1, 2, 3]),
    ("0004", 1, 1, [2, 1]),
    ("0004", 1, 2, [5]),
    ("0004", 3, 3, [1, 2]),
    ("0009", 2, 1, [1, 2]),
    ("0009", 6, 2, [4, 5, 6]),
]
MARS_QUERIES = [7, 4, 6]  # rows of the test half, from 1


def mars_tree(root: Path) -> Path:
    """MARS's layout: 4 tracklets of 2 people to train on, 8 to test on, of which 3 are queries.

    Of the test half, 2 are junk (one of them without frames), 1 is a distractor, and 5 are of 2
    people. Without junk it has 13 frames, the training half 10.
    """
    (root / "info").mkdir(parents=True)
    for half, tracklets in (("train", MARS_TRAIN), ("test", MARS_TEST)):
        names, info = [], []
        for pid, camid, tracklet, frames in tracklets:
            first = len(names) + 1
            names += [f"{pid}C{camid}T{tracklet:04d}F{frame:03d}.jpg" for frame in frames]
            info.append([first, len(names), -1 if pid == "00-1" else int(pid), camid])
        for seed, name in enumerate(names):
            write_image(root / f"bbox_{half}" / name[:4] / name, seed=seed)
        (root / f"info/{half}_name.txt").write_text("\n".join(names) + "\n")
        write_mat(root / f"info/tracks_{half}_info.mat", f"track_{half}_info", info)
    write_mat(root / "info/query_IDX.mat", "query_IDX", [MARS_QUERIES])
    return root


def write_mat(file: Path, key: str, rows: list[list[float]]) -> None:
    """A MATLAB file of one matrix, of doubles as MATLAB has them."""
    savemat(file, {key: np.array(rows, np.float64)})


def duke_video_tree(root: Path) -> Path:
    """DukeMTMC-VideoReID's layout: 3 tracklets of 2 people to train on, 1 query, a gallery of 3.

    Frame numbers have gaps, one tracklet has a single frame, and both forms of a name occur.
    Person 9 is a distractor: an ordinary pid that no query has.
    """
    names = {
        "train/0001/0001": ["0001C6F0099X30823.jpg", "0001C6F0001X30725.jpg"],
        "train/0001/0002": ["0001_C2_F0005_X41005.jpg", "0001_C2_F0103_X41103.jpg"],
        "train/0012/0003": ["0012C1F0001X00001.jpg"],
        "query/0005/0004": ["0005C1F0001X00100.jpg", "0005C1F0002X00101.jpg"],
        "gallery/0005/0005": ["0005C2F0001X00200.jpg", "0005C2F0003X00202.jpg"],
        "gallery/0005/0006": ["0005C7F0010X00300.jpg"],
        "gallery/0009/0007": ["0009C8F0001X00400.jpg", "0009C8F0002X00401.jpg"],
    }
    return _write(root, names, (16, 8))


def ilids_tree(root: Path) -> Path:
    """iLIDS-VID's layout: 6 people with gaps in their numbers, and 10 splits of them.

    Split `k` tests the people at the sorted places `k`, `k + 1` and `k + 2`, from 0 and in a
    circle. Person `p` has `1 + p % 3` frames in camera 1 and 2 in camera 2.
    """
    for pid in (1, 2, 5, 9, 10, 319):
        for camid, frames in ((1, 1 + pid % 3), (2, 2)):
            for frame in range(100, 100 + frames):
                name = f"cam{camid}_person{pid:03d}_{frame:05d}.png"
                write_image(
                    root / f"i-LIDS-VID/sequences/cam{camid}/person{pid:03d}" / name, size=(8, 4)
                )
    splits = root / "train-test people splits"
    splits.mkdir()
    rows = [[1 + (k + place) % 6 for place in (2, 0, 1, 5, 4, 3)] for k in range(10)]
    write_mat(splits / "train_test_splits_ilidsvid.mat", "ls_set", rows)
    return root


def prid_tree(root: Path, *, published: bool = True) -> Path:
    """PRID2011's layout: people 1 to 5 in both cameras, 201 too but not the same person.

    Person 3 has 21 frames in camera b, person 5 has 1 in camera a, all others have 22. Split `k`
    of the published ones tests people 1 and 2 for an even `k`, 2 and 4 for an odd one.
    """
    for camera, people in (("a", (1, 2, 3, 4, 5, 6, 201)), ("b", (1, 2, 3, 4, 5, 7, 201))):
        for pid in people:
            folder = root / f"prid_2011/multi_shot/cam_{camera}/person_{pid:04d}"
            frames = {(3, "b"): 21, (5, "a"): 1}.get((pid, camera), 22)
            write_image(folder / "0001.png", size=(8, 4), seed=pid)
            for frame in range(2, frames + 1):
                (folder / f"{frame:04d}.png").write_bytes((folder / "0001.png").read_bytes())
    if published:
        tests = [["person_0002", "person_0001"], ["person_0002", "person_0004"]]
        trains = [["person_0004"], ["person_0001"]]
        splits = [{"train": trains[k % 2], "test": tests[k % 2]} for k in range(10)]
        (root / "splits_prid2011.json").write_text(json.dumps(splits))
    return root


# CUHK03's people by pair of cameras, each as the numbers of the images there are of them.
CUHK03_PEOPLE = [
    [[1, 2, 6], [1, 6, 7], [3, 4, 5, 8, 9, 10]],
    [[1, 6], [2, 10]],
]


def cuhk03_mat(root: Path) -> Path:
    """`cuhk03_release/cuhk-03.mat`, as MATLAB 7.3 writes it: 16 pictures of 5 people in 2 pairs.

    The picture of pair `c`, person `p`, image `i` is 4 wide and 6 high, and has the colour
    (c, p, i) but in its upper right corner, which is white. `detected` lacks the first of all.
    Test set `k` is persons 1 and 2 of pair 1 for an even `k`, person 3 of it and 2 of pair 2 else.
    """
    file = root / "cuhk03_release/cuhk-03.mat"
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w", userblock_size=512) as mat:
        below = mat.create_group("#refs#")

        def put(content, **attributes):
            found = below.create_dataset(str(len(below)), data=content)
            found.attrs.update(attributes)
            return found.ref

        def cells(references):
            return np.array(references, h5py.ref_dtype)

        for kind in ("labeled", "detected"):
            pairs = []
            for pair, people in enumerate(CUHK03_PEOPLE, 1):
                shots = [[None] * len(people) for _ in range(10)]
                for person, there in enumerate(people, 1):
                    for image in range(1, 11):
                        if image in there and (kind, pair, person, image) != ("detected", 1, 1, 1):
                            pixels = np.empty((6, 4, 3), np.uint8)
                            pixels[:] = pair, person, image
                            pixels[0, 3] = 255
                            shots[image - 1][person - 1] = put(pixels.T)
                        else:
                            shots[image - 1][person - 1] = put(np.zeros(2, "u8"), MATLAB_empty=1)
                pairs.append(put(cells(shots)))
            mat[kind] = cells([pairs])
        sets = [[[1, 1], [1, 2]], [[1, 3], [2, 2]]]
        mat["testsets"] = cells([[put(np.array(sets[k % 2], np.float64).T) for k in range(20)]])
    with open(file, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return file


def cuhk03_tree(root: Path) -> Path:
    """CUHK03 unpacked: `images_labeled/` and `images_detected/`, and both protocols' lists.

    In the new protocol labels count the people of `CUHK03_PEOPLE` from 0. It trains on 0 and 3;
    queries are the first images of person 1 and the first and last of person 4 (in pair 2);
    the rest is gallery.
    """
    for kind in ("labeled", "detected"):
        names, labels = [], []
        for pair, people in enumerate(CUHK03_PEOPLE, 1):
            for person, images in enumerate(people, 1):
                for image in images:
                    if (kind, pair, person, image) != ("detected", 1, 1, 1):
                        names.append(f"{pair}_{person:03d}_{1 + (image > 5)}_{image:02d}.png")
                        labels.append(3 * (pair - 1) + person - 1)
                        write_image(root / f"images_{kind}" / names[-1], size=(8, 4))
        train = [i for i, label in enumerate(labels, 1) if label in (0, 3)]
        query = [labels.index(1) + 1, len(labels) - 1, len(labels)]
        rest = sorted({*range(1, len(labels) + 1)} - {*train, *query})
        write_cuhk03_config(root, kind, names, labels, train, query, rest)
    sets = [[[1, 1], [1, 2]], [[1, 3], [2, 2]]]
    (root / "splits_classic.json").write_text(json.dumps([sets[k % 2] for k in range(20)]))
    return root


def write_cuhk03_config(root, kind, names, labels, train, query, gallery, **options) -> Path:
    """The new protocol's config of one kind: columns, as the authors have them."""

    def column(values, dtype=np.float64):
        return np.array(values, dtype)[:, None]

    file = root / f"cuhk03_new_protocol_config_{kind}.mat"
    content = {
        "filelist": column(names, object),
        "labels": column(labels),
        "camId": column([2 if "_2_" in str(name) else 1 for name in names]),
        "train_idx": column(train),
        "query_idx": column(query),
        "gallery_idx": column(gallery),
    }
    savemat(file, content, **options)
    return file


def cuhk03_np_tree(root: Path) -> Path:
    """CUHK03 in Market-1501's layout; 3 training images of person 1, person 0 to test on."""
    for kind in ("labeled", "detected"):
        names = {
            "bounding_box_train": ["0001_c1_1.png", "0001_c1_2.png", "0001_c2_6.png"],
            "query": ["0000_c1_1.png", "0000_c2_6.png"],
            "bounding_box_test": ["0000_c1_2.png", "0000_c2_7.png", "0003_c2_8.png"],
        }
        _write(root / "cuhk03-np" / kind, names, (8, 4))
    return root / "cuhk03-np"


def _write(root: Path, names: dict[str, list[str]], size: tuple[int, int]) -> Path:
    seed = 0
    for folder, files in names.items():
        for file in files:
            write_image(root / folder / file, size=size, seed=(seed := seed + 1))
        (root / folder / "Thumbs.db").write_bytes(b"not an image")
    return root
