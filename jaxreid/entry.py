"""How every command ends: with one line where a user can put something right, and an exit code."""

import functools
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TextIO

from jaxreid.errors import Interrupted, Lost, UserError

_P = ParamSpec("_P")


def ends_in_one_line(main: Callable[_P, int]) -> Callable[_P, int]:
    """Makes a command's `main` end as `report_errors` has it, from its flags on."""

    @functools.wraps(main)
    def command(*args: _P.args, **kwargs: _P.kwargs) -> int:
        return report_errors(lambda: main(*args, **kwargs))

    return command


def report_errors(command: Callable[[], Any]) -> int:
    """Runs a command. What a user can put right, or asked for, is one line.

    Returns:
        The exit code: what the command returns, 0 for None; 2 for bad input and for whatever the
        system refuses; 75 for a process that was lost; 141 where nobody reads on; or that of a
        signal.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # Names of files may be no UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return command() or 0
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _say(f"error: {_process()}{error}", 2)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _silence(stream)
        return 128 + signal.SIGPIPE
    except OSError as error:
        names = (os.fsdecode(name) for name in (error.filename, error.filename2) if name)
        where = "".join(f"{name}: " for name in names)
        return _say(f"error: {_process()}{where}{error.strerror or error}", 2)
    except Lost as lost:
        return _say(f"error: {_process()}{lost}", lost.exit_code)
    except Interrupted as stopped:
        return _say(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:  # Outside the training loop there is nothing to save.
        return _say("stopped; the same command goes on from here", 128 + signal.SIGINT)


def outlive_the_reader() -> None:
    """From here on, nothing ends because nobody reads stdout or stderr any more, as after `head`.

    For what works on for hours and leaves its results in a folder.
    """
    sys.stdout, sys.stderr = _Unread(sys.stdout), _Unread(sys.stderr)


class _Unread:
    """A stream that is silent once its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            _silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            _silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silence(stream: TextIO) -> None:
    """What is still in the stream's buffer, and all that follows, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _say(line: str, code: int) -> int:
    try:
        print(f"jaxreid: {line}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _silence(sys.stderr)
    return code


def _process() -> str:
    """Which of several processes this is. A command that runs alone has not loaded the module."""
    distributed = sys.modules.get("jaxreid.distributed")
    return distributed.name() if distributed else ""
