import numpy as np
from PIL import Image

from jaxreid.data import decode


def test_find_broken_in_chunks(tmp_path, monkeypatch, capsys):
    """The same lines whatever the chunks are, and a count now and then of a large set."""
    paths = [str(tmp_path / f"{n:02}.png") for n in range(23)]
    for path in paths:
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    for n in (22, 4, 5):
        (tmp_path / f"{n:02}.png").write_bytes(b"GIF89a")
    lines = decode.find_broken([*reversed(paths), paths[4]])
    assert [line.partition(": not an image that decodes (")[0] for line in lines] == [
        paths[4],
        paths[5],
        paths[22],
    ]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(decode, "_CHUNK", 5)
    monkeypatch.setattr(decode, "_REPORT_EVERY", 10)
    assert decode.find_broken(iter(paths)) == lines
    assert capsys.readouterr().err == "decoded 10 of 23 files\ndecoded 20 of 23 files\n"
    assert decode.find_broken([]) == []
