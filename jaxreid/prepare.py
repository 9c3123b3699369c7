"""Looks at a data set before a training run does, and writes it as TFDS records if asked to.

    python -m jaxreid.prepare --name=market1501 --root=/data/Market-1501
    python -m jaxreid.prepare --name=market1501 --root=/data/Market-1501 --check --out=/data/tfds

The first command only reads file names: it prints what was found beside what the data set should
hold, and what to know before trusting a score. `--check` decodes every image; `--out` writes one
sharded copy for clusters, to be read with `data.source=tfds` and `data.root` set to that folder.
Of a data set that comes with several splits of its people, `--split` says which one.
"""

import argparse
import sys
from collections.abc import Sequence

from jaxreid.data import index
from jaxreid.data.decode import find_broken
from jaxreid.entry import ends_in_one_line
from jaxreid.paths import local_path


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the flags; by default those of the process.

    Returns:
        The exit code: 0, 1 where `--check` found images that do not decode (nothing is written
        then), 2 for bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    index.add_flags(parser)
    parser.add_argument(
        "--out", type=local_path, help="where to write TFDS records; without it, nothing is written"
    )
    parser.add_argument("--check", action="store_true", help="decode every image")
    args = parser.parse_args(argv)
    return run(args.name, args.root, args.out, split=args.split, check=args.check)


def run(
    name: str, root: str, out: str | None, *, split: int | None = None, check: bool = False
) -> int:
    """Indexes, checks and writes; prints what it finds. The arguments are the flags of `main`."""
    if out:
        from jaxreid.data import builders  # needs the `data` extra, and takes a while to import
    data = index.load(name, root, split)
    print(data.summary())
    for line in index.warnings(data):
        print(f"warning: {line}")
    if check:
        tables = data.splits.values()
        broken = find_broken(table.path(row) for table in tables for row in range(table.size))
        for line in broken:
            print(line)
        if broken:
            print(f"{len(broken)} images do not decode" + ("; nothing written" if out else ""))
            return 1
        print("every image decodes")
    if out:
        print(f"written: {builders.prepare(data, out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
