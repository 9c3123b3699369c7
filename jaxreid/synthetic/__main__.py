"""Draws a data set.

python -m jaxreid.synthetic --root=runs/synthetic
python -m jaxreid.synthetic --video --root=runs/synthetic_video
"""

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence

from jaxreid.entry import ends_in_one_line
from jaxreid.paths import local_path
from jaxreid.synthetic.images import Spec, write_market
from jaxreid.synthetic.scene import Difficulty
from jaxreid.synthetic.tracklets import VideoSpec, write_mars


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a flag for each number of the spec and of its difficulty.

    Args:
        arguments: the flags; by default those of the process.

    Returns:
        The exit code: 0, or 2 for a spec that cannot be drawn.
    """
    which = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    which.add_argument("--video", action="store_true", help="tracklets, in MARS's layout")
    video = which.parse_known_args(arguments)[0].video
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.synthetic",
        description="Draws the synthetic data set: images in Market-1501's layout. Equal flags"
        " give byte-identical files.",
        parents=[which],
    )
    parser.add_argument("--root", required=True, type=local_path, help="the folder to make")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="how many draw (default: every core)"
    )
    spec: Spec | VideoSpec = VideoSpec() if video else Spec()
    for of in (spec, spec.difficulty):
        meaning = dict(re.findall(r"^    (\w+): (.+?)\.?$", inspect.getdoc(of) or "", re.MULTILINE))
        for name, value in vars(of).items():
            if isinstance(value, int | float):
                parser.add_argument(
                    f"--{name.replace('_', '-')}",
                    type=type(value),
                    default=value,
                    metavar="N" if isinstance(value, int) else "X",
                    help=f"{meaning[name]} (default: {value})",
                )
    flags = vars(parser.parse_args(arguments))
    root, processes = flags.pop("root"), flags.pop("processes")
    hard = {name: flags[name] for name in vars(spec.difficulty)}
    counts = {name: flags[name] for name in vars(spec) if name in flags}
    spec = dataclasses.replace(spec, **counts, difficulty=Difficulty(**hard))
    if isinstance(spec, VideoSpec):
        print(write_mars(root, spec, processes=processes))
    else:
        print(write_market(root, spec, processes=processes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
