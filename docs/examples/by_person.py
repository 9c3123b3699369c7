"""From folders of one's own to a CSV that `--config.data.name=csv` reads.

    python docs/examples/by_person.py photos --test=0.5 --seed=0

The folders are `photos/<person>/<camera>/*.jpg`: a folder for each person, and in it one for each
camera that saw him or her. Half of the persons become the training set. Of each other person one
image of every camera is a query, and the rest is the gallery. The CSV is written into the folder.
Images are files of every kind that the package reads; what else lies there is counted.
"""

import argparse
import csv
import random
import sys
from collections import Counter
from pathlib import Path

from jaxreid.data.files import list_images, natural, say_skipped, subfolders
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError


def rows(root: Path, test: float, seed: int, skipped: Counter[str]) -> list[dict[str, object]]:
    """The lines of the CSV.

    Args:
        root: the folder of persons.
        test: share of the persons who are not in training.
        seed: of the draw of these persons.
        skipped: counts the files that are no images, by suffix.
    """
    persons = [Path(entry) for entry in subfolders(root)]
    cameras = sorted({camera.name for p in persons for camera in subfolders(p)}, key=natural)
    held_out = random.Random(seed).sample(persons, round(test * len(persons)))
    found: list[dict[str, object]] = []
    for pid, person in enumerate(persons, 1):
        for camera in subfolders(person):
            for i, image in enumerate(list_images(camera, skipped)):
                split = "train" if person not in held_out else "gallery" if i else "query"
                path = f"{person.name}/{camera.name}/{image}"
                if path != path.encode(errors="replace").decode():
                    raise UserError(f"{root / path}: not a name in UTF-8, as a CSV has them")
                camid = cameras.index(camera.name) + 1
                found.append({"path": path, "pid": pid, "camid": camid, "split": split})
    return found


@ends_in_one_line
def main() -> int:
    """Runs the command. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--test", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    skipped: Counter[str] = Counter()
    found = rows(args.root, args.test, args.seed, skipped)
    with open(args.root / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "pid", "camid", "split"])
        writer.writeheader()
        writer.writerows(found)
    for line in say_skipped(skipped):
        print(line)
    print(f"written: {args.root / 'index.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
