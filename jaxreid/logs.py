"""What a run says while it goes: `metrics.jsonl`, TensorBoard, and lines or a bar on the screen."""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from jaxreid import distributed
from jaxreid.errors import UserError


class RunLog:
    """Writes the metrics of steps, once each, also over interruptions.

    On a terminal there is a bar with the throughput and the time left; elsewhere plain lines. Of
    several processes the first writes, and the others' logs do nothing.

    What `write` was given is on disk when it returns. A line that cannot be written whole is taken
    back: a run that saves its state after its lines has a line for each step.
    """

    def __init__(self, workdir: Path, step: int, total: int) -> None:
        """Opens the log of a run that has taken `step` of `total` steps.

        Lines of later steps, from before a kill, are dropped: those steps are taken again.

        Raises:
            UserError: it cannot be written.
        """
        self._path, self._total, self._bar = workdir / "metrics.jsonl", total, None
        if not distributed.is_first():
            return
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        with self._writing():
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.replace(self._path)
            self._file = self._path.open("ab", buffering=0)
            (workdir / "tensorboard").mkdir(exist_ok=True)
            # Not its `SummaryWriter`: on a full disk that one's thread dies, and all wait for it.
            self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
            again = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=step + 1, session_log=again))
        if sys.stdout.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console())
            self._task = self._bar.add_task("", total=total, completed=step)

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
        if distributed.is_first():
            self._file.close()
            with suppress(OSError):  # A full disk has been said.
                self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line for a step.

        Args:
            step: steps taken.
            values: by name.

        Raises:
            UserError: it cannot be written, as when the disk is full.
        """
        if not distributed.is_first():
            return
        with self._writing():
            self._append((json.dumps({"step": step, **values}) + "\n").encode())
            for name, value in values.items():
                event = Event(step=step, wall_time=time.time(), summary=scalar(name, value))
                self._board.write_event(event)
            self._board.flush()
        words = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar:
            self._bar.update(self._task, completed=step, description=words)
        else:
            print(f"step {step}/{self._total}  {words}", flush=True)

    def say(self, line: str) -> None:
        """A line on the screen, above the bar."""
        if distributed.is_first():
            self._bar.console.print(line) if self._bar else print(line, flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # The last write before the disk is full may be a part only.
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self._path.parent).free / 1e6
            raise UserError(
                f"{self._path}: cannot write there ({error.strerror}; {free:.3g} MB free); the same"
                " command goes on from the last checkpoint"
            ) from error


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


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keeps a library's warnings, such as each retry, from standing before our own words."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
