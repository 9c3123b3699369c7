"""BlazePose at work, in an environment of its own: `jaxreid.joints` starts it and says why.

It imports nothing of jaxreid. It reads images and writes landmarks until nothing comes any more:

    in      height and width, two int32; then as many RGB pixels, uint8
    out     33 times x, y (as shares of the width and the height) and visibility, float32;
            all zeros where nobody was found

Source: Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020.
"""

import struct
import sys
from typing import Any

import numpy as np

_SURE = 0.3  # From this confidence on, the detector has found somebody.


def find(pose: Any, pixels: np.ndarray) -> np.ndarray:
    """The landmarks of the person in an image, `[33 3]`."""
    found = pose.process(pixels).pose_landmarks
    if found is None:
        return np.zeros((33, 3), np.float32)
    return np.array([(mark.x, mark.y, mark.visibility) for mark in found.landmark], np.float32)


def main() -> None:
    """Answers until its input ends."""
    import mediapipe

    ask, answer = sys.stdin.buffer, sys.stdout.buffer
    with mediapipe.solutions.pose.Pose(
        static_image_mode=True, min_detection_confidence=_SURE
    ) as pose:
        while head := ask.read(8):
            height, width = struct.unpack("<ii", head)
            pixels = np.frombuffer(ask.read(3 * height * width), np.uint8)
            answer.write(find(pose, pixels.reshape(height, width, 3)).tobytes())
            answer.flush()


if __name__ == "__main__":
    main()
