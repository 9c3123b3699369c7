"""What is read from the cache is what the backbone computes, whatever happened to the files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.data import maps as maps_module
from jaxreid.data.maps import MapCache, mirrored, weights_hash
from jaxreid.errors import UserError

FRAMES, SIZE, SHAPE = 11, (4, 6), (2, 3, 5)
ROW_BYTES = 2 * 3 * 5 * 2
PIXELS = np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)
KERNEL = np.random.default_rng(1).normal(size=(2, 2, 3, 5)).astype(np.float32)
KEY = {"fingerprint": "f", "weights": "w", "image_size": (4, 6), "precision": "float32"}


def convolve(pixels):
    """A layer of 2x2 filters with stride 2, in NumPy."""
    n = len(pixels)
    patches = (pixels.astype(np.float64) / 255).reshape(n, 2, 2, 3, 2, 3)
    return np.einsum("nyixjc,ijcd->nyxd", patches, KERNEL)


EXPECTED = np.concatenate([convolve(PIXELS), convolve(PIXELS[:, :, ::-1])])


class Backbone:
    """The same layer in JAX, with a note of what it was called on; and the source's `images`."""

    def __init__(self):
        self.decoded, self.shapes = [], []

    def images(self, split, plan, size):
        assert (split, size) == ("train", SIZE)
        for rows in plan:
            self.decoded += rows.tolist()
            yield PIXELS[rows]

    def __call__(self, pixels):
        self.shapes.append(pixels.shape)
        return self._convolve(pixels)

    @staticmethod
    @jax.jit
    def _convolve(pixels):
        return jax.lax.conv_general_dilated(
            pixels.astype(jnp.float32) / 255,
            jnp.asarray(KERNEL),
            (2, 2),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def filler(self, cache):
        return partial(cache.fill, self.images, "train", SIZE, self, 4)


def opened(folder, flip=True, **changes):
    return MapCache(folder, {**KEY, **changes}, SHAPE, FRAMES, flip=flip)


def filled(folder, flip=True, **changes):
    backbone = Backbone()
    with opened(folder, flip, **changes) as cache:
        backbone.filler(cache)()
        assert not cache.missing.any()
    return backbone


def forbidden():
    raise AssertionError("there is nothing to mend")


def read(folder, plan, flip=True, mend=forbidden):
    with opened(folder, flip) as cache:
        return list(cache.images(plan, mend))


def assert_right(maps, rows):
    assert maps.dtype == np.float16
    np.testing.assert_allclose(maps, EXPECTED[rows], rtol=2e-3, atol=2e-3)


def test_what_is_filled_is_read_back(tmp_path, capsys):
    backbone = filled(tmp_path / "new" / "folder")
    assert backbone.decoded == list(range(FRAMES))  # each once, for itself and its mirror image
    assert backbone.shapes == [(4, *SIZE, 3)] * 6  # one shape compiles once
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/new/folder: 22 of 22 maps to compute, 1.23e-06 GiB"
    assert lines[1].startswith(f"{tmp_path}/new/folder: 22 maps in ")
    assert len(lines) == 2
    (maps,) = read(tmp_path / "new" / "folder", [np.arange(22)])
    assert_right(maps, np.arange(22))
    direct = [backbone(PIXELS[i : i + 4]).astype(np.float16) for i in (0, 4)]
    np.testing.assert_array_equal(maps[:8], np.concatenate(direct))


def test_a_mirror_images_map_is_not_the_mirrored_map():
    assert np.abs(EXPECTED[FRAMES:] - EXPECTED[:FRAMES, :, ::-1]).max() > 0.1


def test_plans_of_any_shape(tmp_path):
    filled(tmp_path)
    plan = [
        np.array([[3, 4, 5], [20, 21, 11]]),
        np.array([7]),
        np.array([[0]]),
        np.array([[[2, 2]]]),
        np.array([1, 0]),
    ]
    got = read(tmp_path, iter(plan))
    assert [maps.shape for maps in got] == [(*rows.shape, *SHAPE) for rows in plan]
    for maps, rows in zip(got, plan):
        assert_right(maps, rows)
    assert read(tmp_path, []) == []


def test_reading_is_two_batches_ahead_and_no_more(tmp_path):
    filled(tmp_path)
    asked = []

    def plan():
        for row in range(8):
            asked.append(row)
            yield np.array([row])

    with opened(tmp_path) as cache:
        stream = cache.images(plan(), forbidden)
        for row in range(3):
            assert_right(next(stream), [row])
            assert asked == list(range(row + 3))


def test_mirror_images_come_and_go(tmp_path):
    assert filled(tmp_path, flip=False).decoded == list(range(FRAMES))
    backbone = filled(tmp_path, flip=True)
    assert len(backbone.shapes) == 3  # the mirror images alone
    assert filled(tmp_path, flip=False).decoded == []
    assert filled(tmp_path, flip=True).decoded == []
    (maps,) = read(tmp_path, [np.arange(22)])
    assert_right(maps, np.arange(22))


FILL_AND_DIE = """
import os, signal, sys
from tests.data import test_maps

class Dying(test_maps.Backbone):
    def __call__(self, pixels):
        if len(self.shapes) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(pixels)

Dying().filler(test_maps.opened(sys.argv[1]))()
"""


def test_a_killed_process_is_gone_on_from(tmp_path, capsys):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", FILL_AND_DIE, tmp_path], env=environment)
    assert done.returncode == -signal.SIGKILL
    # Killed when the fifth batch was about to start: the fourth was not written yet.
    backbone = filled(tmp_path)
    assert backbone.decoded == list(range(4, 11))
    assert "10 of 22 maps to compute" in capsys.readouterr().out
    (maps,) = read(tmp_path, [np.arange(22)])
    assert_right(maps, np.arange(22))


class Killed(BaseException):
    pass


def fill_until(folder, calls, monkeypatch):
    """Fills; dies in the middle of the call of that number that has to do with the disk."""
    pwrite, fsync, done = os.pwrite, os.fsync, []

    def call(whole, half):
        if len(done) == calls:
            half()
            raise Killed
        done.append(whole)
        return whole()

    def dying_pwrite(file, data, offset):
        half = partial(pwrite, file, data[: len(data) // 2 - 3], offset)
        return call(partial(pwrite, file, data, offset), half)

    with opened(folder) as cache, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", dying_pwrite)
        patch.setattr(os, "fsync", lambda file: call(partial(fsync, file), lambda: None))
        Backbone().filler(cache)()


def test_a_kill_at_any_instant(tmp_path, monkeypatch):
    in_all = 22 + 6 + 6  # rows, and for each batch a flush and its checksums
    fill_until(tmp_path / "whole", in_all, monkeypatch)
    for calls in range(in_all):
        with pytest.raises(Killed):
            fill_until(tmp_path / str(calls), calls, monkeypatch)
        with opened(tmp_path / str(calls)) as cache:
            (maps,) = cache.images([np.arange(22)], Backbone().filler(cache))
            assert_right(maps, np.arange(22))
            assert not cache.missing.any()


def test_a_flipped_bit_is_found_and_mended(tmp_path, capsys):
    filled(tmp_path)
    for row in (3, 17):
        with open(tmp_path / "maps", "r+b") as file:
            file.seek(row * ROW_BYTES + 7)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    capsys.readouterr()
    backbone = Backbone()
    with opened(tmp_path) as cache:
        got = list(
            cache.images([np.array([r]) for r in (2, 3, 16, 17, 18)], backbone.filler(cache))
        )
    assert_right(np.concatenate(got), [2, 3, 16, 17, 18])
    assert backbone.decoded == [3, 6]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}: 2 of 22 maps are not what was written, and are computed again"
    assert lines[1].startswith(f"{tmp_path}: 2 of 22 maps to compute")
    assert len(lines) == 3
    assert_right(read(tmp_path, [np.arange(22)])[0], np.arange(22))


def test_rows_that_changed_places_are_found(tmp_path, capsys):
    filled(tmp_path)
    whole = (tmp_path / "maps").read_bytes()
    swapped = whole[ROW_BYTES : 2 * ROW_BYTES] + whole[:ROW_BYTES] + whole[2 * ROW_BYTES :]
    (tmp_path / "maps").write_bytes(swapped)
    sums = np.fromfile(tmp_path / "checksums", np.int64)
    sums[[0, 1]] = sums[[1, 0]]
    sums.tofile(tmp_path / "checksums")
    with opened(tmp_path) as cache:
        (maps,) = cache.images([np.arange(3)], Backbone().filler(cache))
    assert_right(maps, np.arange(3))
    assert "2 of 22 maps are not what was written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "size", "damaged", "missing"),
    [
        ("maps", 5 * ROW_BYTES + 3, "17 of 22 maps are not what was written", 17),
        ("maps", 0, "22 of 22 maps are not what was written", 22),
        ("checksums", 5 * 8, "", 17),
        ("checksums", 5 * 8 + 3, "1 of 22 maps are not what was written", 17),
    ],
)
def test_a_file_that_was_cut_short(tmp_path, capsys, name, size, damaged, missing):
    filled(tmp_path)
    os.truncate(tmp_path / name, size)
    capsys.readouterr()
    with opened(tmp_path) as cache:
        (maps,) = cache.images([np.arange(22)], Backbone().filler(cache))
    assert_right(maps, np.arange(22))
    printed = capsys.readouterr().out
    assert damaged in printed
    assert f"{missing} of 22 maps to compute" in printed


def test_a_disk_that_keeps_nothing(tmp_path, monkeypatch):
    filled(tmp_path)
    os.truncate(tmp_path / "maps", 0)
    with opened(tmp_path) as cache:
        monkeypatch.setattr(maps_module, "_write", lambda *_: None)
        with pytest.raises(UserError, match="maps do not read back as they were written"):
            list(cache.images([np.arange(3)], Backbone().filler(cache)))


def test_other_weights_drop_it(tmp_path, capsys):
    filled(tmp_path)
    capsys.readouterr()
    assert filled(tmp_path, weights="others", precision="bf16").decoded == list(range(FRAMES))
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{tmp_path}: made with another precision, weights; its maps are dropped and made anew"
    )
    assert json.loads((tmp_path / "key.json").read_text())["weights"] == "others"
    assert filled(tmp_path, weights="others", precision="bf16").decoded == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checksums",
        "key.json",
        "lock",
        "maps",
    ]


@pytest.mark.parametrize("text", [b"", b'{"format": 1, "fra', b"[3, 4]", b"\xff\xfe\x00"])
def test_a_damaged_key_drops_it(tmp_path, capsys, text):
    filled(tmp_path)
    (tmp_path / "key.json").write_bytes(text)
    capsys.readouterr()
    assert filled(tmp_path).decoded == list(range(FRAMES))
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{tmp_path}: key.json is damaged; its maps are dropped and made anew"
    )


def test_files_without_a_key_count_for_nothing(tmp_path):
    filled(tmp_path)
    (tmp_path / "key.json").unlink()
    assert filled(tmp_path).decoded == list(range(FRAMES))


def test_a_reader_keeps_what_another_process_drops(tmp_path):
    filled(tmp_path)
    with opened(tmp_path) as reader:
        Backbone().filler(reader)()
        filled(tmp_path, weights="others")
        assert_right(next(reader.images([np.arange(22)], forbidden)), np.arange(22))
        os.pwrite(reader._maps, b"damage", 0)
        backbone = Backbone()
        assert_right(next(reader.images([np.arange(22)], backbone.filler(reader))), np.arange(22))
        assert backbone.decoded == [0]


def test_one_process_fills_and_many_read(tmp_path):
    with opened(tmp_path) as first:
        with pytest.raises(UserError, match=f"{tmp_path}: another process fills this cache; wait"):
            opened(tmp_path)
        Backbone().filler(first)()
        with opened(tmp_path) as second:
            # Opened, it may have to be filled: nobody else may, until it is known to be whole.
            with pytest.raises(UserError, match="another process fills this cache"):
                Backbone().filler(first)()
            Backbone().filler(second)()
            for cache in (first, second):
                assert_right(next(cache.images([np.arange(9)], forbidden)), np.arange(9))


def test_the_claim_of_a_process_that_dies_is_free(tmp_path):
    program = "import sys; from tests.data import test_maps as t; c = t.opened(sys.argv[1]); "
    program += "print('open', flush=True); sys.stdin.read()"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match="another process fills this cache"):
            opened(tmp_path)
        other.kill()
    assert filled(tmp_path).decoded == list(range(FRAMES))


def test_no_room_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    backbone = Backbone()
    with opened(tmp_path) as cache, monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(2**31, 2**31 - 1000, 1000))
        with pytest.raises(UserError) as error:
            backbone.filler(cache)()
    assert str(error.value) == (
        f"{tmp_path}: cannot write the maps (no room): 1.23e-06 GiB needed, 9.31e-07 GiB free"
    )
    assert backbone.decoded == []
    assert filled(tmp_path).decoded == list(range(FRAMES))


def test_a_disk_that_fills_up_meanwhile(tmp_path, monkeypatch):
    pwrite, sizes = os.pwrite, []

    def until_full(file, data, offset):
        sizes.append(len(data))
        if len(sizes) == 16:  # the last bytes that there is room for
            return pwrite(file, data[:10], offset)
        if len(sizes) > 16:
            raise OSError(28, os.strerror(28))
        return pwrite(file, data, offset)

    with opened(tmp_path) as cache, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", until_full)
        with pytest.raises(UserError) as error:
            Backbone().filler(cache)()
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: cannot write the maps (No space left on device): ")
    assert "GiB needed, " in message
    assert message.endswith("GiB free")
    assert sizes[-2:] == [ROW_BYTES, ROW_BYTES - 10]
    backbone = filled(tmp_path)
    assert backbone.decoded == list(range(4, FRAMES))
    assert_right(read(tmp_path, [np.arange(22)])[0], np.arange(22))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/maps: cannot write the maps \(Not a directory\): "):
        opened(tmp_path / "file" / "maps")


def test_a_map_beyond_float16(tmp_path):
    with (
        opened(tmp_path) as cache,
        pytest.raises(UserError, match="frames 0 to 3 is not finite in float16"),
    ):
        cache.fill(Backbone().images, "train", SIZE, lambda x: Backbone()(x) * 1e6, 4)
    assert filled(tmp_path).decoded == list(range(FRAMES))


def test_mirrored_rows():
    rows = np.arange(600).reshape(200, 3)
    got = mirrored(rows, step=5, seed=1, frames=1000)
    added = (got - rows) // 1000
    assert set(added.ravel().tolist()) == {0, 1}
    assert (added == added[:, :1]).all()  # a clip as a whole
    assert 80 <= added[:, 0].sum() <= 120
    np.testing.assert_array_equal(got, mirrored(rows, step=5, seed=1, frames=1000))
    for step, seed in ((6, 1), (5, 2)):
        assert (got != mirrored(rows, step, seed, 1000)).any()
    images = mirrored(np.arange(200), step=5, seed=1, frames=1000)
    np.testing.assert_array_equal(images // 1000, added[:, 0])


def test_a_hash_of_the_backbone_alone():
    def tree(**changes):
        leaf = {"kernel": jnp.arange(6, dtype=jnp.float32), "bias": jnp.zeros(2), **changes}
        return {
            "params": {"backbone": {"conv": leaf}, "head": jnp.ones(3)},
            "batch_stats": {"backbone": {"mean": jnp.ones(4)}, "bn": jnp.ones(2)},
            "preprocessing": {"backbone": {"mean": jnp.ones(3)}},
        }

    first = weights_hash(tree())
    assert len(first) == 64
    assert first == weights_hash(tree())
    same = tree()
    same["params"]["head"] = jnp.zeros(3)
    same["batch_stats"]["bn"] = jnp.zeros(1)
    assert weights_hash(same) == first
    statistics = tree()
    statistics["batch_stats"]["backbone"]["mean"] = jnp.zeros(4)
    others = [
        statistics,
        tree(kernel=jnp.arange(6, dtype=jnp.float32).at[5].add(1e-6)),
        tree(kernel=jnp.arange(6, dtype=jnp.int32)),
        tree(kernel=jnp.arange(6, dtype=jnp.float32).reshape(2, 3)),
        tree(more=jnp.zeros(2)),
    ]
    assert len({first, *map(weights_hash, others)}) == 6
