"""What commands over a network have in common: the flags that name it, and a bar."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxreid.errors import UserError
from jaxreid.paths import local_path
from jaxreid.search.extractor import Extractor


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds those that `open_network` reads."""
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=local_path, help="folder of the run that trained it")
    network.add_argument("--weights", help="or the file of a network that others have trained")
    parser.add_argument("--arch", help="which network --weights is (its names and shapes say it)")
    parser.add_argument("--step", type=int, help="of the checkpoint (the newest)")
    parser.add_argument("--batch_size", type=int, help="pictures or clips at a time (the run's)")


def open_network(args: argparse.Namespace) -> Extractor:
    """The network that the flags name; says what to know of it.

    Raises:
        UserError: flags that do not fit each other, or there is no such network.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size={args.batch_size}: expected 1 or more")
    if args.weights is None:
        if args.arch is not None:
            raise UserError(f"--arch={args.arch}: of --weights alone; a run knows its network")
        extractor = Extractor(args.workdir, step=args.step, batch_size=args.batch_size)
    else:
        if args.step is not None:
            raise UserError(f"--step={args.step}: of --workdir alone; weights have no steps")
        extractor = Extractor.from_weights(args.weights, args.arch, batch_size=args.batch_size)
        height, width = extractor.config.data.image_size
        arch = extractor.config.model.arch
        print(f"weights: {args.weights}: {arch}, {height} x {width}", flush=True)
    for note in extractor.notes:
        print(f"note: {note}", flush=True)
    return extractor


@contextmanager
def bar(name: str, total: int) -> Iterator[Any]:
    """A bar, on a terminal only; it goes when all is done. Gives a function to advance it."""
    console = Console()
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.advance(task, done)
