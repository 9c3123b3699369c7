"""Every kind of image file gives the same pixels, or the same refusal, wherever it is read."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from jaxreid import prepare
from jaxreid.config import Data
from jaxreid.data import decode, index, pipeline
from jaxreid.data.sources import open_source
from jaxreid.errors import UserError
from jaxreid.search import items

H, W = 48, 24
SIZE = (32, 20)
ROWS, COLUMNS = np.mgrid[:H, :W]
RGB = np.stack([ROWS * 5, COLUMNS * 10, 255 - ROWS * 3], axis=-1).astype(np.uint8)
GREY = RGB[..., 0]
DEEP = (GREY.astype(np.uint16) << 8) + 77


def colours(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(pixels):
    """16 bits of three channels, which Pillow does not write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def turned(orientation, kind, **options):
    """What a camera stores that says so of an image that is `RGB` when upright (EXIF, 4.6.4 A)."""
    pixels = RGB.swapaxes(0, 1) if orientation >= 5 else RGB
    pixels = pixels[::-1] if orientation in (3, 4, 6, 7) else pixels
    pixels = pixels[:, ::-1] if orientation in (2, 3, 7, 8) else pixels
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(pixels)), kind, exif=exif, **options)


IMAGE = Image.fromarray(RGB)
ALPHA = Image.fromarray(np.concatenate([RGB, (COLUMNS * 10)[..., None].astype(np.uint8)], axis=-1))
GREY_ALPHA = Image.merge("LA", [Image.fromarray(GREY), ALPHA.getchannel("A")])
PALETTE = IMAGE.quantize(256)
JPEG, PNG = encoded(IMAGE, "JPEG", quality=95), encoded(IMAGE, "PNG")

# Content, upright pixels, and by how much they may differ on average.
GOOD = {
    "colour.JPG": (JPEG, RGB, 3),
    "colour.jfif": (JPEG, RGB, 3),
    "padded.jpeg": (JPEG + bytes(100), RGB, 3),
    "progressive.jpg": (encoded(IMAGE, "JPEG", quality=95, progressive=True), RGB, 3),
    "grey.jpg": (encoded(Image.fromarray(GREY), "JPEG", quality=95), colours(GREY), 3),
    "cmyk.jpg": (encoded(IMAGE.convert("CMYK"), "JPEG", quality=95), RGB, 3),
    "colour.png": (PNG, RGB, 0),
    "grey.png": (encoded(Image.fromarray(GREY), "PNG"), colours(GREY), 0),
    "deep.png": (encoded(Image.fromarray(DEEP), "PNG"), colours(GREY), 0),
    "deep_colour.png": (deep_png((RGB.astype(np.uint16) << 8) + 77), RGB, 0),
    "alpha.png": (encoded(ALPHA, "PNG"), RGB, 0),
    "grey_alpha.png": (encoded(GREY_ALPHA, "PNG"), colours(GREY), 0),
    "palette.png": (encoded(PALETTE, "PNG"), RGB, 8),
    "palette_alpha.png": (encoded(PALETTE, "PNG", transparency=bytes(range(256))), RGB, 8),
    "bits.png": (encoded(Image.fromarray(GREY > 99), "PNG"), colours(255 * (GREY > 99)), 0),
    "colour.webp": (encoded(IMAGE, "WEBP", lossless=True), RGB, 0),
    "alpha.webp": (encoded(ALPHA, "WEBP", lossless=True, exact=True), RGB, 0),
    "colour.bmp": (encoded(IMAGE, "BMP"), RGB, 0),
    "colour.tif": (encoded(IMAGE, "TIFF"), RGB, 0),
    "cmyk.tiff": (encoded(IMAGE.convert("CMYK"), "TIFF"), RGB, 0),
    "deep.TIF": (encoded(Image.fromarray(DEEP), "TIFF"), colours(GREY), 0),
    "palette.gif": (encoded(PALETTE, "GIF"), RGB, 8),
    "moves.gif": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[IMAGE.rotate(180).quantize(256)]),
        RGB,
        8,
    ),
    "damaged_exif.jpg": (JPEG[:2] + b"\xff\xe1\0\x10Exif\0\0" + bytes(8) + JPEG[2:], RGB, 3),
    **{f"turned{n}.jpg": (turned(n, "JPEG", quality=95), RGB, 3) for n in range(1, 9)},
    **{f"turned{n}.png": (turned(n, "PNG"), RGB, 0) for n in range(1, 9)},
    **{f"turned{n}.webp": (turned(n, "WEBP", lossless=True), RGB, 0) for n in range(1, 9)},
    **{f"turned{n}.tif": (turned(n, "TIFF"), RGB, 0) for n in range(1, 9)},
}
if ".avif" in decode.SUFFIXES:
    GOOD["colour.avif"] = (encoded(IMAGE, "AVIF", quality=95), RGB, 6)

THUMBNAIL = b"\xff\xe1\0\x10Exif\0\0" + b"\xff\xd8\xff\xd9" * 2
BAD = {
    "cut.jpg": JPEG[:-2],
    "half.jpg": JPEG[: len(JPEG) // 2],
    "thumbnail_is_whole.jpg": JPEG[:2] + THUMBNAIL + JPEG[2:-2],
    "filled_up.jpg": JPEG[: len(JPEG) // 2] + bytes(len(JPEG)),
    "cut.png": PNG[:-12],
    "half.png": PNG[: len(PNG) // 2],
    **{
        f"half.{kind}": content[: len(content) // 2]
        for kind in ("webp", "bmp", "tif", "gif")
        for content in [next(c for name, (c, _, _) in GOOD.items() if name.endswith(kind))]
    },
    "float.tif": encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "long.tif": encoded(Image.fromarray(GREY.astype(np.int32) * 1000), "TIFF"),
    "empty.jpg": b"",
    "text.png": b"no image",
    "drawing.bmp": b"%!PS-Adobe-3.0",
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(pipeline, "WAITS", (0.0,))


def write(folder, contents):
    """A CSV of files that are in every split, as images of two persons."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    lines = [
        f"{name},{place % 2 + 1},{camid},{split}"
        for camid, split in enumerate(index.SPLITS, 1)
        for place, name in enumerate(contents)
    ]
    file = folder / "data.csv"
    file.write_text("\n".join(["path,pid,camid,split", *lines]))
    return file


def by_files(file, size):
    return pixels_of(open_source(Data(name="csv", root=str(file), source="files")), size)


def by_memory(file, size):
    return pixels_of(open_source(Data(name="csv", root=str(file), source="memory")), size)


def by_tfds(file, size):
    out = file.parent / "tfds"
    assert prepare.run("csv", str(file), str(out)) == 0
    return pixels_of(open_source(Data(name="csv", root=str(out), source="tfds")), size)


def pixels_of(source, size):
    names = source.data.gallery.paths.tolist()
    (images,) = source.images("gallery", [np.arange(len(names))], size)
    return dict(zip(names, images))


def by_search(file, size):
    found = items.find([file.parent], tracklets=True)
    [item] = [item for item in found if item.name == str(file.parent)]
    return {f.rpartition("/")[2]: x for f, x in zip(item.files, items.read(item, size))}


READERS = [by_files, by_memory, by_tfds, by_search]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return write(folder, {name: content for name, (content, _, _) in GOOD.items()})


def close(found, drawn, tolerance):
    difference = np.abs(found.astype(int) - drawn.astype(int))
    return difference.mean() <= tolerance and difference.max() <= 12 * tolerance


@pytest.mark.parametrize("name", GOOD)
def test_pixels_are_upright_and_as_drawn(good, name):
    _, drawn, tolerance = GOOD[name]
    found = decode.decode(good.parent / name)
    assert found.dtype == np.uint8
    assert found.shape == (H, W, 3)
    assert close(found, drawn, tolerance)
    np.testing.assert_array_equal(decode.decode((good.parent / name).read_bytes()), found)
    assert decode.read_size(good.parent / name) == (H, W)
    with Image.open(good.parent / name) as image:
        np.testing.assert_array_equal(decode.decode(image), found)


def test_every_reader_gives_the_same_pixels(good):
    expected = {
        name: decode.resize(decode.decode(good.parent / name), SIZE).astype(int) for name in GOOD
    }
    for reader in READERS:
        found = reader(good, SIZE)
        assert found.keys() == expected.keys(), reader
        for name, pixels in found.items():
            assert np.abs(pixels - expected[name]).max() <= 1, (reader, name)


def test_every_checker_passes_them(good, capsys):
    assert decode.find_broken(str(good.parent / name) for name in GOOD) == []
    assert prepare.run("csv", str(good), None, check=True) == 0
    assert capsys.readouterr().out.endswith("every image decodes\n")


@pytest.mark.parametrize("name", BAD)
def test_every_reader_and_checker_refuses(tmp_path, name, capsys):
    file = write(tmp_path, {name: BAD[name], "good.png": PNG})
    said = f"{tmp_path / name}: not an image that decodes ("
    for reader in READERS:
        with pytest.raises(UserError) as caught:
            reader(file, SIZE)
        assert str(caught.value).startswith(said), reader
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)
    capsys.readouterr()
    assert prepare.run("csv", str(file), None, check=True) == 1
    assert sum(line.startswith(said) for line in capsys.readouterr().out.splitlines()) == 1
    [line] = decode.find_broken([str(tmp_path / name), str(tmp_path / "good.png")])
    assert line.startswith(said)


def test_names_that_are_no_utf8(tmp_path, monkeypatch):
    """They are read, checked, prepared and searched as all others are."""
    names = [b"0001_c1_caf\xe9.jpg", b"0002_c2_\xff\xfe.png"]
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / split).mkdir()
        for name, content in zip(names, (JPEG, PNG)):
            with open(bytes(tmp_path / split) + b"/" + name, "wb") as file:
                file.write(content)
    data = index.load("folder", tmp_path)
    assert len(data.fingerprint()) == 16
    args = ["--name=folder", f"--root={tmp_path}", "--check", f"--out={tmp_path / 'tfds'}"]
    assert prepare.main(args) == 0
    expected = [decode.resize(decode.decode(data.query.path(row)), SIZE) for row in (0, 1)]
    for kind, root in (("files", tmp_path), ("memory", tmp_path), ("tfds", tmp_path / "tfds")):
        source = open_source(Data(name="folder", root=str(root), source=kind))
        assert source.data.fingerprint() == data.fingerprint()
        (images,) = source.images("query", [np.array([0, 1])], SIZE)
        np.testing.assert_array_equal(images, expected)
    found = items.find([tmp_path / "query"], tracklets=False)
    assert [items.read(item, SIZE)[0].tolist() for item in found] == [x.tolist() for x in expected]
    monkeypatch.setattr(pipeline, "WAITS", ())  # What is said goes to a stderr that escapes them.
    Path(data.query.path(0)).write_bytes(JPEG[:-2])
    for kind in ("files", "memory"):
        source = open_source(Data(name="folder", root=str(tmp_path), source=kind))
        with pytest.raises(UserError, match=re.escape("caf\udce9.jpg: not an image")):
            list(source.images("query", [np.array([0, 1])], SIZE))
