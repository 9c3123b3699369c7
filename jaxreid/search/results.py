"""What a search leaves: a table on screen, `ranked.csv`, `ranked.png` and `ranked.html`."""

import csv
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxreid import pages
from jaxreid.data import decode
from jaxreid.errors import UserError
from jaxreid.report.pictures import Cell, decimals_of, plot_rows
from jaxreid.search.answers import Calibration
from jaxreid.search.items import Item, is_video

# What is shown of a large search; `ranked.csv` has all of it.
TABLES, DRAWN, ACROSS, ON_PAGE = 10, 20, 10, 2000
_HEIGHT = 256  # of a picture, in pixels


class Ranked(NamedTuple):
    """What was found for a query, nearest first.

    Attributes:
        query: that was searched for.
        found: the gallery items.
        distances: to them.
    """

    query: Item
    found: list[Item]
    distances: list[float]

    def kind(self, item: Item) -> Literal["hit", "miss", ""]:
        """Whether an item shows the query's person, where both have the label `pid`."""
        pids = [each.labels.get("pid") for each in (self.query, item)]
        if not all(pids):
            return ""
        return "hit" if pids[0] == pids[1] else "miss"


def print_tables(results: Sequence[Ranked], calibration: Calibration | None = None) -> None:
    """Prints a table for each of the first queries, with answers where there is a calibration."""
    columns = _columns([item for each in results for item in each.found])
    console = Console()
    if not console.is_terminal:  # Nothing is to be broken in a file.
        console = Console(width=100_000)
    for result in results[:TABLES]:
        title = Text(f"{result.query.name}  {_words(result.query)}".rstrip())
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("rank", justify="right")
        table.add_column("distance", justify="right")
        if calibration is not None:
            table.add_column("answer")
        for name in ("file", *columns):
            table.add_column(Text(name), overflow="fold")
        decimals = decimals_of(result.distances)
        for rank, (item, distance) in enumerate(zip(result.found, result.distances), start=1):
            labels = [Text(item.labels.get(name, "")) for name in columns]
            style = "bold green" if result.kind(item) == "hit" else ""
            far = _far(distance, decimals, calibration)
            table.add_row(str(rank), *far, Text(item.name), *labels, style=style)
        console.print(table)


def write(
    folder: Path,
    results: Sequence[Ranked],
    facts: dict[str, str],
    calibration: Calibration | None = None,
) -> list[Path]:
    """Writes the files.

    Args:
        folder: where.
        results: of every query.
        facts: what the page says of the search, by name.
        calibration: gives an answer to each distance.

    Returns:
        Their paths.

    Raises:
        UserError: nothing can be written there.
    """
    paths = [folder / f"ranked.{kind}" for kind in ("html", "png", "csv")]
    shown = [
        each._replace(found=each.found[:ON_PAGE], distances=each.distances[:ON_PAGE])
        for each in results[: max(1, ON_PAGE // (1 + max(len(each.found) for each in results)))]
    ]
    pictures: dict[tuple[str, ...], UInt8[np.ndarray, "h w 3"]] = {}
    for result in shown:
        for item in (result.query, *result.found):
            if item.files not in pictures:
                pictures[item.files] = _thumbnail(item)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(paths[2], results, calibration)
        with warnings.catch_warnings():  # A letter that the picture's font lacks is on the page.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            rows = [_cells(each, pictures, calibration) for each in shown[:DRAWN]]
            plot_rows(paths[1], rows)
        page = _page(results, shown, pictures, facts, calibration)
        # Names of files may be no UTF-8.
        paths[0].write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror})") from None
    return paths


def _thumbnail(item: Item) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of an item; of a tracklet, the frame in its middle."""
    if is_video(item):
        # Read twice: all frames of a long one, in full size, may be more than there is memory for.
        middle = sum(1 for _ in decode.read_video(item.files[0])) // 2
        pixels = next(islice(decode.read_video(item.files[0]), middle, None))
    else:
        pixels = decode.decode(item.files[len(item.files) // 2])
    image = Image.fromarray(pixels)
    image.thumbnail((2 * _HEIGHT, _HEIGHT))
    return np.asarray(image)


def _far(distance: float, decimals: int, calibration: Calibration | None) -> list[str]:
    """A distance, and the answer to it where there is a calibration."""
    answer = [] if calibration is None else [calibration.answer(distance)]
    return [f"{distance:.{decimals}f}", *answer]


def _cells(
    result: Ranked,
    pictures: dict[tuple[str, ...], np.ndarray],
    calibration: Calibration | None,
) -> list[Cell]:
    decimals = decimals_of(result.distances)
    pairs = list(zip(result.found, result.distances))[:ACROSS]
    query = Cell(pictures[result.query.files], "query", _short(result.query), _words(result.query))
    words = [_far(distance, decimals, calibration) for _, distance in pairs]
    return [query] + [
        Cell(pictures[item.files], result.kind(item), _short(item), " · ".join(far))
        for (item, _), far in zip(pairs, words)
    ]


def _page(
    results: Sequence[Ranked],
    shown: Sequence[Ranked],
    pictures: dict[tuple[str, ...], np.ndarray],
    facts: dict[str, str],
    calibration: Calibration | None,
) -> str:
    uris = {files: pages.picture(pixels, _HEIGHT) for files, pixels in pictures.items()}
    rows = []
    for result, whole in zip(shown, results):
        decimals = decimals_of(result.distances)
        found = [
            {
                "kind": result.kind(item),
                "picture": uris[item.files],
                "name": item.name,
                "head": " · ".join([str(rank), *_far(distance, decimals, calibration)]),
                "words": _words(item),
            }
            for rank, (item, distance) in enumerate(zip(result.found, result.distances), start=1)
        ]
        query = result.query
        words = {"name": query.name, "words": _words(query), "picture": uris[query.files]}
        more = len(whole.found) - len(found)
        rows.append({"query": words, "found": found, "more": more})
    title = "Search" if len(results) > 1 else f"Search for {Path(results[0].query.name).name}"
    return pages.render(
        "search.html", title=title, rows=rows, hidden=len(results) - len(shown), facts=facts
    )


def _write_csv(path: Path, results: Sequence[Ranked], calibration: Calibration | None) -> None:
    columns = _columns([item for each in results for item in each.found])
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        answer = [] if calibration is None else ["answer"]
        writer.writerow(["query", "rank", "distance", *answer, "path", *columns])
        for result in results:
            for rank, (item, distance) in enumerate(zip(result.found, result.distances), start=1):
                labels = [item.labels.get(name, "") for name in columns]
                far = [f"{distance:.6g}", *_far(distance, 3, calibration)[1:]]
                writer.writerow([result.query.name, rank, *far, item.name, *labels])


def _columns(found: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(name for item in found for name in item.labels))


def _words(item: Item) -> str:
    return " · ".join(f"{name} {value}" for name, value in item.labels.items() if value)


def _short(item: Item) -> str:
    """The end of its name, which is what differs, as far as it fits below a picture."""
    name = Path(item.name).name.encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= 18 else "…" + name[-17:]
