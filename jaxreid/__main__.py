"""The command `jaxreid`: all commands of the package under one name.

`jaxreid train --config=...` is `python -m jaxreid.main --config=...`, and so on.
"""

import runpy
import sys
from collections.abc import Sequence

import jaxreid
from jaxreid.errors import nearest

# What each is called here, the module that runs, and what it does.
COMMANDS = {
    "demo": ("jaxreid.demo", "draws pedestrians, trains on them, scores, makes pictures"),
    "synthetic": ("jaxreid.synthetic", "draws a data set; every difficulty is a flag"),
    "prepare": ("jaxreid.prepare", "looks at a data set, checks its files, packs it for clusters"),
    "joints": ("jaxreid.joints", "finds the joints of the bodies in a data set"),
    "cuhk03": ("jaxreid.data.cuhk03", "unpacks the release of CUHK03"),
    "pretrained": ("jaxreid.pretrained", "converts weights that were made elsewhere"),
    "train": ("jaxreid.main", "trains a config and scores it, or scores a run again"),
    "report": ("jaxreid.report", "lays papers' tables beside your runs, draws body parts"),
    "search": ("jaxreid.search", "ranks your own photographs and videos for a query"),
    "calibrate": ("jaxreid.calibrate", "finds the distance up to which it is the same person"),
    "export": ("jaxreid.export", "writes a run's network to be run without jaxreid"),
}
_LIST = "\n".join(f"  {name:<13}{text}" for name, (_, text) in COMMANDS.items())
HELP = f"""\
usage: jaxreid COMMAND [FLAGS]

{(jaxreid.__doc__ or "").partition(".")[0]}.

{_LIST}

  jaxreid COMMAND --help       the flags of a command
  jaxreid train --config=help  the configs that come with this package
  jaxreid --version            {jaxreid.__version__}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: a command and its flags; by default those of the process.

    Returns:
        The exit code: 0, or 2 where no command is named. Those that run exit with their own.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print(HELP, file=sys.stderr)
        return 2
    name, *flags = argv
    if name in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if name == "--version":
        print(f"jaxreid {jaxreid.__version__}")
        return 0
    if name not in COMMANDS:
        message = f"{name!r}: no such command{nearest(name, COMMANDS)} (jaxreid --help lists them)"
        print(f"jaxreid: error: {message}", file=sys.stderr)
        return 2
    sys.argv[1:] = flags
    # All that `python -m` does, so that the processes that a command starts afresh find it.
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
