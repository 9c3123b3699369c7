"""What a tracker's own code makes of an ONNX file, without this package.

    python foreign.py boxmot|ultralytics FILE.onnx IN.npz OUT.npy

IN has `frame` (RGB, uint8 `[h w 3]`) and `boxes` (`[n 4]`: left, top, right and bottom). OUT has
the features of these boxes, `[n d]`.
"""

import sys

import numpy as np


def boxmot(path: str, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    import torch
    from boxmot.reid import create_reid_encoder
    from boxmot.reid.config import resolve_reid_spec
    from boxmot.structures import Boxes, Detections, Frame

    encoder = create_reid_encoder(resolve_reid_spec(path)[0])
    number = len(boxes)
    detections = Detections(
        Boxes(torch.tensor(boxes, dtype=torch.float32)),
        torch.ones(number),
        torch.zeros(number, dtype=torch.int64),
        "frame",
    )
    pixels = torch.from_numpy(frame).permute(2, 0, 1).contiguous()
    (found,) = encoder.encode([Frame(pixels, "frame")], [detections])
    return found.numpy()


def ultralytics(path: str, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    from ultralytics.trackers.utils.reid import ReID

    corners = boxes[:, :2], boxes[:, 2:]
    centred = np.concatenate([sum(corners) / 2, corners[1] - corners[0]], axis=1)
    found = ReID(path, device="cpu")(np.ascontiguousarray(frame[..., ::-1]), centred)
    return np.stack(found)


if __name__ == "__main__":
    package, file, given, out = sys.argv[1:]
    with np.load(given) as arrays:
        features = globals()[package](file, arrays["frame"], arrays["boxes"])
    np.save(out, features)
