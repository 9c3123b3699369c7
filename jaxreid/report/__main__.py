"""The command: `parts` draws the parts of bodies, `table` lays a paper's table beside our runs."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxreid.config import Data
from jaxreid.data.decode import decode, resize
from jaxreid.data.index import SPLITS
from jaxreid.data.sources import open_source
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError
from jaxreid.ops.boxes import body_part_boxes, strip_boxes
from jaxreid.paths import local_path
from jaxreid.report.curves import plot_cmc
from jaxreid.report.pictures import plot_parts
from jaxreid.report.tables import find_runs, make_table, to_latex, to_markdown


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxreid.report")
    commands = parser.add_subparsers(required=True)
    parts = commands.add_parser("parts", help="draw images with joints and body parts")
    parts.add_argument("--name", required=True, help="of the data set, as config.data.name")
    parts.add_argument("--root", required=True, type=local_path, help="its folder")
    parts.add_argument("--joints", default="joints.npz", help="as config.data.joints")
    parts.add_argument("--split", default="query", choices=SPLITS)
    parts.add_argument("--count", type=int, default=16, help="images, evenly spaced")
    parts.add_argument("--size", default="256,128", help="height,width that they are resized to")
    parts.add_argument("--overlap", type=float, default=0.1, help="of neighbours, in heights")
    parts.add_argument("--out", required=True, type=local_path, help="the PNG to write")
    parts.set_defaults(run=_draw_parts)
    table = commands.add_parser("table", help="a paper's table, its numbers and ours side by side")
    table.add_argument("--paper", help="whose table, by the method: duatm, cosam, ...")
    table.add_argument("--table", help="its number, as the paper prints it: 1 or III")
    table.add_argument("--format", choices=("markdown", "latex"), default="markdown")
    table.add_argument("--out", type=local_path, help="the file to write, instead of printing it")
    table.add_argument("--cmc", type=local_path, help="the PNG to draw our curves into")
    table.add_argument(
        "runs", nargs="*", type=local_path, help="folders of runs, or that hold such folders"
    )
    table.set_defaults(run=_lay_out)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


def _lay_out(args: argparse.Namespace) -> None:
    runs, left_out = find_runs(map(Path, args.runs))
    table = make_table(args.paper, args.table, runs)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if args.cmc is not None and not table.curves:
        raise UserError(
            f"--cmc={args.cmc}: no row has a run with eval/cmc.json, which its scoring writes"
        )
    text = to_latex(table) if args.format == "latex" else to_markdown(table)
    if args.cmc is not None:
        with _writing("cmc", args.cmc):
            plot_cmc(args.cmc, table.curves, table.title)
        print(f"drawn: {args.cmc}", file=sys.stderr)  # The table may be on the other stream.
    if args.out is None:
        print(text, end="")
        return
    with _writing("out", args.out):
        Path(args.out).write_text(text, encoding="utf-8")
    print(f"written: {args.out}")


@contextmanager
def _writing(flag: str, path: str) -> Iterator[None]:
    """What cannot be written is one line, with the flag that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--{flag}={path}: cannot write there ({error.strerror})") from None


def _draw_parts(args: argparse.Namespace) -> None:
    match = re.fullmatch(r"([1-9]\d*),([1-9]\d*)", args.size)
    if match is None or args.count < 1:
        raise UserError(
            f"--size={args.size} --count={args.count}: expected height,width and 1 image or more"
        )
    height, width = int(match[1]), int(match[2])
    data = Data(name=args.name, root=args.root, joints=args.joints, source="memory")
    source = open_source(data)
    assert source.bodies is not None
    print(source.bodies.summary)
    total = source.data.splits[args.split].size
    rows = np.unique(np.linspace(0, total - 1, args.count, dtype=int))
    pixels = [decode(source.data.splits[args.split].path(row)) for row in rows.tolist()]
    images = np.stack([resize(image, (height, width)) for image in pixels])
    joints = source.bodies.at(args.split, rows, (height, width))
    boxes = np.where(
        joints[..., 2:].any(axis=1, keepdims=True),
        body_part_boxes(jnp.asarray(joints), args.overlap),
        strip_boxes(height, width)[None],
    )
    with _writing("out", args.out):
        plot_parts(args.out, images, joints, boxes)
    print(f"drawn: {args.out}")


if __name__ == "__main__":
    sys.exit(main())
