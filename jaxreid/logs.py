"""What a run says while it goes: `metrics.jsonl`, TensorBoard, and lines or a bar on the screen."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from jaxreid.errors import UserError


class RunLog:
    """Writes the metrics of steps, once each, also over interruptions.

    On a terminal there is a bar with the throughput and the time left; elsewhere plain lines.
    """

    def __init__(self, workdir: Path, step: int, total: int) -> None:
        """Opens the log of a run that has taken `step` of `total` steps.

        Lines of later steps, from before a kill, are dropped: those steps are taken again.
        """
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self._path)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        self._bar = None
        if sys.stdout.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console())
            self._task = self._bar.add_task("", total=total, completed=step)
        self._total = total

    def __enter__(self) -> "RunLog":
        """Shows the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes everything."""
        if self._bar:
            self._bar.stop()
        self._file.close()
        self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line for a step.

        Args:
            step: steps taken.
            values: by name.
        """
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        words = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar:
            self._bar.update(self._task, completed=step, description=words)
        else:
            print(f"step {step}/{self._total}  {words}", flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`: one JSON object a line. Where there is no file there are none.

    A run that is killed while it writes leaves a line without its end. Such lines are skipped.

    Raises:
        UserError: a line is broken in another way.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1)]
    lines = [(i, line) for i, line in lines if line]
    records = []
    for i, line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if line.endswith("}") and i != lines[-1][0]:
                raise UserError(f"{path}, line {i}: expected a JSON object ({error})") from error
            continue
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {i}: expected a JSON object, got {line[:40]}")
        records.append(record)
    return records
