"""From folders of one's own to a CSV that `--config.data.name=csv` reads.

    python docs/examples/by_person.py photos --test=0.5 --seed=0

The folders are `photos/<person>/<camera>/*.jpg`: a folder for each person, and in it one for each
camera that saw him or her. Half of the persons become the training set. Of each other person one
image of every camera is a query, and the rest is the gallery. The CSV is written into the folder.
"""

import argparse
import csv
import random
import sys
from pathlib import Path


def rows(root: Path, test: float, seed: int) -> list[dict[str, object]]:
    """The lines of the CSV.

    Args:
        root: the folder of persons.
        test: share of the persons who are not in training.
        seed: of the draw of these persons.
    """
    persons = sorted(path for path in root.iterdir() if path.is_dir())
    cameras = sorted({path.name for person in persons for path in person.iterdir()})
    held_out = random.Random(seed).sample(persons, round(test * len(persons)))
    found: list[dict[str, object]] = []
    for pid, person in enumerate(persons, 1):
        for camera in sorted(path for path in person.iterdir() if path.is_dir()):
            for i, image in enumerate(sorted(camera.glob("*.jpg"))):
                split = "train" if person not in held_out else "gallery" if i else "query"
                path = image.relative_to(root).as_posix()
                camid = cameras.index(camera.name) + 1
                found.append({"path": path, "pid": pid, "camid": camid, "split": split})
    return found


def main() -> int:
    """Runs the command. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--test", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with open(args.root / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "pid", "camid", "split"])
        writer.writeheader()
        writer.writerows(rows(args.root, args.test, args.seed))
    print(f"written: {args.root / 'index.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
