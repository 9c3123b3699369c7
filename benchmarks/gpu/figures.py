"""What a phase says, as it says it: one line of JSON for each figure, and tables made of them."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


class Figures:
    """Takes the figures of one phase. Each is in the file when `add` returns.

    Attributes:
        path: of the file.
        tiny: whether the phase is only to show that it runs, at small sizes.
        seconds: that the phase may take, all in all.
    """

    def __init__(self, path: Path, *, tiny: bool, seconds: float) -> None:
        """Appends to the file at `path`."""
        self.path, self._begun = path, time.monotonic()
        self.tiny, self.seconds = tiny, seconds

    @property
    def left(self) -> float:
        """Seconds of the phase's limit that are left."""
        return self.seconds - (time.monotonic() - self._begun)

    def add(
        self,
        name: str,
        value: float | str | bool,
        unit: str = "",
        spread: Sequence[float] = (),
        note: str = "",
    ) -> None:
        """A figure; `spread` is its smallest and largest value over the repeats."""
        line = {"name": name, "value": value, "unit": unit, "spread": list(spread), "note": note}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(*row(line), sep="  ", flush=True)

    def add_seconds(
        self, name: str, seconds: Sequence[float], unit: str = "ms", note: str = ""
    ) -> float:
        """The median of repeats, in ms or s.

        Returns:
            The median in seconds.
        """
        scale = {"ms": 1e3, "s": 1.0}[unit]
        median = statistics.median(seconds)
        spread = (scale * min(seconds), scale * max(seconds))
        self.add(name, scale * median, unit, spread, note)
        return median


def time_calls(run: Callable[[], Any], repeats: int, warm: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls after `warm` others; `run` waits for its own result."""
    seconds = []
    for turn in range(warm + repeats):
        start = time.perf_counter()
        run()
        if turn >= warm:
            seconds.append(time.perf_counter() - start)
    return seconds


def read(path: Path) -> list[dict[str, Any]]:
    """The figures of a file that may still be written to; a line that is not whole is left out."""
    if not path.is_file():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def row(figure: dict[str, Any]) -> list[str]:
    """The cells of a figure: name, value, spread and note."""
    low_high = [_number(x) for x in figure["spread"]]
    value = f"{_number(figure['value'])} {figure['unit']}".strip()
    return [figure["name"], value, " to ".join(low_high), figure["note"]]


def _number(x: Any) -> str:
    if isinstance(x, bool) or not isinstance(x, int | float):
        return str(x)
    return f"{x:,}" if isinstance(x, int) else f"{x:.4g}" if abs(x) < 1e4 else f"{x:,.0f}"


_SHOWN = ("state", "command", "figures")


def to_markdown(tree: dict[str, Any]) -> str:
    """Everything that `gpu.json` holds, as tables."""
    lines = ["# One examination on a GPU", ""]
    for name, phase in tree["phases"].items():
        lines += [f"## {name}: {phase['state']}", "", f"`{phase['command']}`", ""]
        lines += [", ".join(f"{what} {phase[what]}" for what in phase if what not in _SHOWN), ""]
        lines += ["| figure | value | spread | note |", "|---|---|---|---|"]
        lines += _rows(map(row, phase["figures"]))
        lines.append("")
    return "\n".join(lines)


def _rows(rows: Iterable[list[str]]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
