"""Errors that a user can act on: one line that names the file, the key or the flag."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. `main` prints it as one line and exits with code 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice nearest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


class Interrupted(Exception):
    """A signal asked the run to stop, and its state has been saved."""

    def __init__(self, signum: int) -> None:
        """Of the signal of that number."""
        super().__init__(f"stopped by signal {signum}; the same command goes on from here")
        self.exit_code = 128 + signum
