import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from jaxreid.errors import UserError
from jaxreid.pretrained import read
from jaxreid.pretrained.torchfile import WRAPPERS
from tests.pretrained import writers
from tests.pretrained.writers import integer, several, tensor, text

ARRAYS = {
    "conv1.weight": np.arange(24, dtype="<f4").reshape(2, 3, 2, 2),
    "bn1.running_var": np.array([1, 2.5], "<f4"),
    "bn1.num_batches_tracked": np.array(7, "<i8"),
    "half": np.array([0.5, -2], "<f2"),
}
WRITERS = {"zip": writers.write_zip, "legacy": writers.write_legacy}


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
@pytest.mark.parametrize("form", WRITERS)
def test_reads_what_was_written(tmp_path, form, wrapper):
    path = WRITERS[form](tmp_path / "x.pth", ARRAYS, wrapper)
    raw = read(path)
    assert raw.family == "torch"
    assert list(raw.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(raw.arrays[name], array)
    assert raw.arrays["half"].dtype == np.float32


def write_view(path, numbers=(0, 1, 2, 3, 4, 5), **view):
    view = {"key": "0", "numel": len(numbers), "offset": 0, "shape": [1], "strides": [1]} | view
    content = np.float32(numbers).tobytes()
    return writers.write_records(path, writers.program({"x": tensor(**view)}), [("0", content)])


def test_strides_and_offsets_are_honoured(tmp_path):
    path = write_view(tmp_path / "x.pth", offset=1, shape=[2, 2], strides=[1, 2])
    np.testing.assert_array_equal(read(path).arrays["x"], [[1, 3], [2, 4]])


def test_bfloat16(tmp_path):
    steps = writers.program({"x": tensor("0", 2, 0, [2], [1], kind="BFloat16Storage")})
    content = struct.pack("<HH", 0x3F80, 0xC040)
    path = writers.write_records(tmp_path / "x.pth", steps, [("0", content)])
    np.testing.assert_array_equal(read(path).arrays["x"], np.float32([1, -3]))


def test_python_2_and_old_pytorch(tmp_path):
    """Byte strings as names, an OrderedDict of pairs, a parameter, `_rebuild_tensor`, a view."""

    def old(value):
        return b"U" + bytes([len(value)]) + value

    view = several(text("9"), integer(1), integer(2))
    storage = several(
        old(b"storage"), b"ctorch\nFloatStorage\n", old(b"0"), old(b"cpu"), integer(4), view
    )
    made = b"ctorch._utils\n_rebuild_tensor\n" + several(
        storage + b"Q", integer(0), several(integer(2)), several(integer(1))
    )
    parameter = b"ctorch.nn.parameter\nParameter\n"
    pair = b"](" + old(b"x") + parameter + b"(" + made + b"R" + b"tR" + several(b"\x88") + b"be"
    content = writers.legacy_head() + b"\x80\x02ccollections\nOrderedDict\n(](" + pair + b"etR."
    content += pickle.dumps(["0"], 2) + struct.pack("<q", 4) + np.float32([5, 6, 7, 8]).tobytes()
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path).arrays["x"], [6, 7])


def test_scalars_of_numpy_beside_the_weights_are_passed_over(tmp_path):
    best = pickle.dumps(np.float32(0.5), 2)[2:-1]
    steps = writers.state_program(ARRAYS)[2:-1]
    pickled = b"\x80\x02}(" + text("rank1") + best + text("state_dict") + steps + b"u."
    storages = [(i, a.tobytes()) for i, a in enumerate(ARRAYS.values())]
    path = writers.write_records(tmp_path / "x.pth.tar", pickled, storages)
    assert list(read(path).arrays) == list(ARRAYS)


class Command:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def attacks(marker):
    """Pickles that make the file `marker` when Python unpickles them, and what they ask for."""
    shell = Command(os.system, f"touch {marker}")
    name = f"{os.system.__module__}.system"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps({"state_dict": {"x": shell}}, protocol), name
    code = f"open({str(marker)!r}, 'w')"
    yield pickle.dumps(Command(eval, code), 2), "__builtin__.eval"
    yield pickle.dumps(Command(eval, code), 4), "builtins.eval"
    # Reached through getattr, and as an instance.
    inner = b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n" + text("eval") + b"tR."
    yield inner, "builtins.getattr"
    yield b"(" + text(f"touch {marker}") + b"iposix\nsystem\n.", "posix.system"
    # Behind tensors that are in order.
    good = writers.state_program(ARRAYS)[:-1]
    yield good + text("x") + b"cos\nsystem\n(" + text(f"touch {marker}") + b"tRs.", "os.system"
    # A longer name of an innocent module.
    yield (
        b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93.",
        "torch._utils.os.system",
    )
    yield b"\x80\x04" + text("a\nb") + text("c") + b"\x93.", r"a\nb.c"


@pytest.mark.parametrize("form", WRITERS)
def test_commands_are_refused_by_name(tmp_path, form):
    marker = tmp_path / "made"
    count = 0
    for pickled, name in attacks(marker):
        path = tmp_path / "x.pth"
        if form == "zip":
            writers.write_records(path, pickled)
        else:
            path.write_bytes(writers.legacy_head() + pickled)
        with pytest.raises(UserError) as caught:
            read(path)
        want = f"{path}: refused: it asks for {name}, which no weights file needs"
        assert str(caught.value) == want
        assert not marker.exists()
        count += 1
    assert count == pickle.HIGHEST_PROTOCOL + 1 + 7


def test_the_older_format_may_start_with_a_command(tmp_path):
    marker = tmp_path / "made"
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Command(os.system, f"touch {marker}")))
    with pytest.raises(UserError, match=r"refused: it asks for \w+\.system"):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "view",
    [
        {"offset": 6},
        {"shape": [2, 4], "strides": [3, 1]},
        {"shape": [7], "strides": [0]},
        {"shape": [2**31 - 1] * 4, "strides": [0] * 4},
        {"strides": [-1], "shape": [2]},
        {"offset": -1},
        {"shape": [-1]},
        {"shape": [1] * 9, "strides": [1] * 9},
        {"numel": 2**31 - 1},
        {"key": "1"},
        {"key": "../data.pkl"},
    ],
    ids=str,
)
def test_views_must_lie_inside_their_storage(tmp_path, view):
    path = write_view(tmp_path / "x.pth", **view)
    with pytest.raises(UserError, match=r"x\.pth: damaged, or not weights: \w") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_many_views_of_one_storage_are_not_all_copied(tmp_path):
    items = {str(i): tensor("0", 500, 0, [500], [1]) for i in range(200)}
    content = np.zeros(500, "<f4").tobytes()
    path = writers.write_records(tmp_path / "x.pth", writers.program(items), [("0", content)])
    with pytest.raises(UserError, match="far more numbers than the file"):
        read(path)


def test_compressed_records_are_refused(tmp_path):
    content = bytes(10**7)
    steps = writers.program({"x": tensor("0", 10, 0, [10], [1])})
    path = tmp_path / "x.pth"
    writers.write_records(path, steps, [("0", content)], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed records"):
        read(path)


@pytest.mark.parametrize(
    "steps",
    [
        # Hashing, or showing, a tuple that holds itself twice, sixty times over.
        b"}" + b")" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
        b")" + b"q\x00h\x00\x86" * 60 + b"q\x01h\x01\x93.",
        b"}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
        # A memo entry, and a text, of gigabytes.
        b"Nr\xff\xff\xff\xff.",
        b"X\xff\xff\xff\xffabc.",
        b"\x8e" + b"\xff" * 7 + b"\x7fabc.",
        b"\x96" + b"\xff\xff\xff\x7f\x00\x00\x00\x00abc.",
        # Too long, without an end, of nothing, with too little on the stack.
        b"N0" * 100,
        b"N",
        b"",
        b".",
        b"\x86.",
        b"t.",
        b"NR.",
        b"]NK\x01s.",
        b"\x82\x01.",
    ],
)
def test_programs_that_would_crash_or_hang(tmp_path, steps):
    path = writers.write_records(tmp_path / "x.pth", b"\x80\x04" + steps)
    with pytest.raises(UserError, match=r"x\.pth: damaged, or not weights: \w") as caught:
        read(path)
    assert len(str(caught.value)) < 500


def test_other_files(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match=r"x\.pth: No such file"):
        read(path)
    for content in (b"", b"<html>not found</html>", b"PK\x03\x04", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.pth: damaged, or not weights: "):
            read(path)
    with pytest.raises(UserError, match=r"x\.h5: expected a run's folder or a file \.pth"):
        read(tmp_path / "x.h5")
    writers.write_records(path, b"\x80\x02]Na.")
    with pytest.raises(UserError, match="no state dict"):
        read(path)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    path = writers.write_zip(tmp_path / "x.pth", ARRAYS, "my_network")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: holds no weights: no tensors by their names; its keys are 'epoch', 'my_network'"
    )


@pytest.mark.parametrize("name", ["x.PTH", "x.ckpt", "x.Pt", "x.pth.tar"])
def test_endings_of_pytorchs_files(tmp_path, name):
    path = writers.write_zip(tmp_path / name, {"weight": np.ones(2, np.float32)})
    np.testing.assert_array_equal(read(path).arrays["weight"], np.ones(2))
