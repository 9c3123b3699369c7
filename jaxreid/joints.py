"""Finds the joints of the bodies in a data set, for methods that cut bodies into parts.

    python3.12 -m venv pose && pose/bin/pip install mediapipe==0.10.21
    python -m jaxreid.joints --name=folder --root=/data/mine --python=pose/bin/python \
        --out=/data/mine/joints.npz

The first command makes an environment for Google's BlazePose, whose package holds its networks; it
wants an older NumPy than JAX does, and Python 3.12 at the most. The second one runs it there over
all images, and writes what `config.data.joints=joints.npz` reads: 18 joints in OpenPose's order. Of
an image in which it finds nobody, the joints are missing, and its body is cut into strips.
"""

import argparse
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from jaxreid import blazepose, npz
from jaxreid.data import index
from jaxreid.data.decode import decode, resize
from jaxreid.data.joints import CONFIDENT
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError
from jaxreid.paths import local_path

Pixels = UInt8[np.ndarray, "h w 3"]

# For each of OpenPose's 18 joints, BlazePose's landmarks that it lies amid.
_LANDMARKS = (
    *((0,), (11, 12), (12,), (14,), (16,), (11,), (13,), (15,)),  # nose, neck, right and left arm
    *((24,), (26,), (28,), (23,), (25,), (27,)),  # legs
    *((5,), (2,), (8,), (7,)),  # eyes, ears
)
_HEIGHT = 512  # in pixels, that a body is enlarged to


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the flags; by default those of the process.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.joints",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    index.add_flags(parser)
    parser.add_argument(
        "--python", required=True, type=local_path, help="the Python that has mediapipe"
    )
    parser.add_argument("--out", required=True, type=local_path, help="the .npz to write")
    args = parser.parse_args(argv)
    data = index.load(args.name, args.root, args.split)
    print(data.summary())
    files = {
        str(table.paths[row]): table.path(row)
        for table in data.splits.values()
        for row in range(table.size)
    }
    found = find_joints(list(files.values()), args.python)
    npz.write(Path(args.out), "the joints", {"names": np.array(list(files)), "joints": found})
    some = int((found[..., 2] >= CONFIDENT).any(axis=1).sum())
    print(f"somebody was found in {some:,} of {len(found):,} images ({some / len(found):.1%})")
    print(f"written: {args.out}")
    return 0


def find_joints(
    files: Sequence[str], python: str, processes: int | None = None
) -> Float32[np.ndarray, "n 18 3"]:
    """The joints in every image: x and y in its pixels, and how surely each is seen.

    Args:
        files: the images.
        python: the interpreter of an environment with mediapipe.
        processes: that work side by side; by default as many as there are cores.

    Raises:
        UserError: an image does not decode, or that interpreter cannot run mediapipe.
    """
    processes = min(processes or os.cpu_count() or 1, len(files))

    def work(some: Sequence[str]) -> list[Float[np.ndarray, "18 3"]]:
        with _blazepose(python) as joints:
            return [joints(decode(file)) for file in some]

    found = np.zeros((len(files), 18, 3), np.float32)
    with ThreadPoolExecutor(processes) as pool:
        for start, joints in enumerate(
            pool.map(work, [files[start::processes] for start in range(processes)])
        ):
            found[start::processes] = joints
    return found


def to_openpose(
    landmarks: Float[np.ndarray, "33 3"], square: int, corner: tuple[int, int], scale: float
) -> Float[np.ndarray, "18 3"]:
    """OpenPose's joints, in the pixels of an image that was enlarged and laid into a square.

    Args:
        landmarks: BlazePose's, as shares of the square, and how surely each is seen. A joint amid
            two is seen as surely as the one that is seen less.
        square: the side of the square, in pixels.
        corner: (x, y) of the enlarged image in it.
        scale: how much it was enlarged.
    """
    joints = np.zeros((18, 3))
    for joint, of in zip(joints, _LANDMARKS):
        joint[:2] = (landmarks[list(of), :2].mean(axis=0) * square - corner) / scale
        joint[2] = landmarks[list(of), 2].min()
    return joints


def into_square(pixels: Pixels) -> tuple[UInt8[np.ndarray, "s s 3"], tuple[int, int], float]:
    """An image, enlarged and in the middle of a square whose border repeats its own.

    The detector was made for scenes, and misses bodies that fill the picture: half of the image's
    longer side is added on each of its sides.

    Returns:
        The square, the (x, y) of the image's corner in it, and how much the image was enlarged.
    """
    scale = _HEIGHT / max(pixels.shape[:2])
    height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
    pixels = resize(pixels, (height, width))
    side = 2 * _HEIGHT
    top, left = (side - height) // 2, (side - width) // 2
    border = (top, side - height - top), (left, side - width - left), (0, 0)
    return np.pad(pixels, border, mode="edge"), (left, top), scale


@contextmanager
def _blazepose(python: str) -> Iterator[Callable[[Pixels], Float[np.ndarray, "18 3"]]]:
    """A process that runs `jaxreid.blazepose`. Gives a function of an image."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as log:
        try:
            # Isolated, or the modules beside that file would stand in for Python's own.
            process = subprocess.Popen(
                [python, "-I", blazepose.__file__], stdin=pipe, stdout=pipe, stderr=log
            )
        except OSError as error:
            raise UserError(
                f"--python={python}: cannot be run ({error.strerror}); expected the Python of an"
                " environment with mediapipe"
            ) from None
        ask, answer = process.stdin, process.stdout
        assert ask is not None
        assert answer is not None

        def joints(pixels: Pixels) -> Float[np.ndarray, "18 3"]:
            square, corner, scale = into_square(pixels)
            try:
                ask.write(struct.pack("<ii", *square.shape[:2]) + square.tobytes())
                ask.flush()
                said = answer.read(33 * 3 * 4)
            except BrokenPipeError:
                said = b""
            if len(said) < 33 * 3 * 4:
                process.wait()
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines() or ["no word"]
                raise UserError(
                    f"--python={python}: cannot run mediapipe ({lines[-1]}); expected an"
                    " environment with mediapipe==0.10.21 (python -m jaxreid.joints --help)"
                )
            landmarks = np.frombuffer(said, np.float32).reshape(33, 3)
            if not landmarks.any():
                return np.zeros((18, 3))
            return to_openpose(landmarks, len(square), corner, scale)

        try:
            yield joints
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # What it was not told any more.
                process.communicate()


if __name__ == "__main__":
    sys.exit(main())
