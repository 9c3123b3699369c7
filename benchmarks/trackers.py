"""A tracker with and without our features, on a drawn street that two cameras film.

    python -m benchmarks.trackers --workdir=RUN [--people=10 --length=150 --seeds=3]
    python -m benchmarks.trackers --weights=FILE

DeepSORT (the package deep-sort-realtime) is given the true boxes of those who are at least 40 %
visible, a little displaced. `motion` takes them by their place alone; `features` tells people apart
by `Extractor.crops`, too. IDF1, the switches of identity and the fragments are motmetrics's, over
both cameras and all seeds. Besides: how many frames and boxes a second `crops` takes.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from deep_sort_realtime.deepsort_tracker import DeepSort
from jaxtyping import Float, UInt8

from jaxreid.search import Extractor
from jaxreid.synthetic import scene, street
from jaxreid.synthetic.pedestrian import people
from jaxreid.synthetic.scene import Difficulty, stream

Boxes = Float[np.ndarray, "n 4"]


def track(
    reid: Extractor,
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    boxes: Sequence[Boxes],
    tracker: DeepSort,
) -> Iterator[list[tuple[int, Boxes]]]:
    """Follows people through the frames of a video, by DeepSORT with our features.

    Args:
        reid: of a run, or of a file of weights.
        frames: RGB.
        boxes: of each frame: left, top, right and bottom, by a detector.
        tracker: made with `embedder=None`.

    Yields:
        Of each frame, the number and the box of everybody who is followed and seen there.
    """
    for frame, found in zip(frames, boxes):
        vectors = reid.vectors(reid.crops(frame, found))
        detections = [((l, t, r - l, b - t), 1.0, "person") for l, t, r, b in found.tolist()]
        tracks = tracker.update_tracks(detections, embeds=list(vectors))
        yield [
            (int(each.track_id), np.array(each.to_ltrb(orig=True)))
            for each in tracks
            if each.is_confirmed() and each.time_since_update == 0
        ]


def main() -> None:
    """Prints the table."""
    import motmetrics

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", help="of a run on images")
    which.add_argument("--weights", help="a file that others made")
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--length", type=int, default=150, help="of a film, in frames")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    reid = Extractor(args.workdir) if args.workdir else Extractor.from_weights(args.weights)

    # Below 0 no two are alike, and what is left is the place.
    ways = {"motion": -1.0, "features": 0.2}
    counted: dict[str, list[Any]] = {way: [] for way in ways}
    boxes_in_all, frames_in_all, seconds = 0, 0, 0.0
    for seed in range(args.seeds):
        walkers = people(stream(seed, "people", 9), args.people)
        for camera in scene.cameras(seed, 2, Difficulty()):
            film = street.film(walkers, camera, length=args.length, seed=seed)
            boxes = detected(film, seed)
            for way, distance in ways.items():
                tracker = DeepSort(max_age=30, max_cosine_distance=distance, embedder=None)
                found = list(track(reid, list(film.frames), boxes, tracker))
                counted[way].append(accumulate(film, found))
            start = time.perf_counter()
            for frame, of in zip(film.frames, boxes):
                reid.crops(frame, of)
                boxes_in_all += len(of)
            seconds += time.perf_counter() - start
            frames_in_all += len(film.frames)
    metrics = motmetrics.metrics.create()
    print("| DeepSORT by | IDF1 | switches | fragments |\n|---|---:|---:|---:|")
    for way, several in counted.items():
        names = [str(k) for k in range(len(several))]
        wanted = ["idf1", "num_switches", "num_fragmentations"]
        table = metrics.compute_many(
            several, metrics=wanted, names=names, generate_overall=True
        ).loc["OVERALL"]
        idf1, switches, fragments = (float(table[name]) for name in wanted)
        print(f"| {way} | {idf1:.1%} | {switches:.0f} | {fragments:.0f} |")
    print(
        f"crops: {frames_in_all / seconds:.1f} frames/s of"
        f" {boxes_in_all / frames_in_all:.1f} boxes, {boxes_in_all / seconds:.0f} boxes/s"
    )


def detected(film: street.Street, seed: int) -> list[Boxes]:
    """What a detector would see in each frame: those who are not hidden, a little displaced."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.02, film.boxes.shape)
    sides = film.boxes[:, 2:] - film.boxes[:, :2]
    boxes = film.boxes + noise * np.tile(sides, 2)
    seen = (film.visible >= 0.4) & (sides.min(axis=1) > 8)
    return [boxes[seen & (film.number == t)] for t in range(len(film.frames))]


def accumulate(film: street.Street, found: list[list[tuple[int, Boxes]]]) -> Any:
    """motmetrics's record of what a tracker found, beside the truth."""
    import motmetrics

    record = motmetrics.MOTAccumulator(auto_id=True)
    for t, tracks in enumerate(found):
        rows = (film.number == t) & (film.visible >= 0.4)
        far = apart(film.boxes[rows], np.array([box for _, box in tracks]).reshape(-1, 4))
        record.update(film.pids[rows].tolist(), [number for number, _ in tracks], far)
    return record


def apart(a: Boxes, b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """One less the boxes' intersection over union; NaN where that is below a half.

    (motmetrics's own function wants an older NumPy.)
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (a, b)]
    share = common / (areas[0][:, None] + areas[1][None] - common)
    return np.where(share >= 0.5, 1 - share, np.nan)


if __name__ == "__main__":
    main()
