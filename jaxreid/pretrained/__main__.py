"""Converts weights made elsewhere into a file that `model.pretrained` takes.

    python -m jaxreid.pretrained densenet121-a639ec97.pth --arch=densenet121 \\
        --out=densenet121.safetensors
    python -m jaxreid.pretrained hf://timm/resnet50.a1_in1k --arch=resnet50 --out=r50.safetensors

Nothing in the file is run: only arrays are read from it.
"""

import argparse
import sys
from collections.abc import Sequence

from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError
from jaxreid.paths import local_path
from jaxreid.pretrained import convert, rules, save


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the flags; by default those of the process.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a file, a run's folder, or hf://owner/name[/file]")
    parser.add_argument("--arch", help=", ".join(rules.ARCHITECTURES))
    parser.add_argument(
        "--out", required=True, type=local_path, help="the .safetensors file to write"
    )
    args = parser.parse_args(argv)
    return run(args.source, args.arch, args.out)


def run(source: str, arch: str | None, out: str) -> int:
    """Converts, saves, and prints what was done. The arguments are the flags of `main`."""
    if not out.endswith(".safetensors"):
        raise UserError(f"--out={out}: expected a name that ends with .safetensors")
    weights = convert(source, arch)
    save(weights, out)
    numbers = sum(leaf.size for leaf in weights.leaves.values())
    kind = weights.arch or "a whole network"
    print(f"{weights.source}: {kind}, {len(weights.leaves)} arrays, {numbers:,} numbers")
    if weights.dropped:
        print(f"left out by rule: {len(weights.dropped)} (such as {weights.dropped[0]})")
    for name in sorted(weights.leaves):
        if name.startswith("preprocessing/"):
            values = " ".join(f"{value:g}" for value in weights.leaves[name])
            print(f"{name}: {values} (R G B, grey levels)")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
