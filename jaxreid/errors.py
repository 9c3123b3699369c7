"""Errors that a user can act on: one line that names the file, the key or the flag."""

import difflib
import operator
import signal
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """Bad input. `main` prints it as one line and exits with code 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice nearest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def require(
    prefix: str,
    holder: object,
    rules: Mapping[str, tuple[bool, str]],
    text: str = "{key}={value!r}: expected {expected}",
) -> None:
    """Raises `UserError` for the first field whose rule does not hold.

    Args:
        prefix: what stands before the field's name, as in `config.model.`.
        holder: has the fields; those of a section of it are named as in `optim.lr`.
        rules: for each field whether its value will do, and what was expected.
        text: the error, of `key`, `value` and `expected`.
    """
    for name, (holds, expected) in rules.items():
        if not holds:
            value = operator.attrgetter(name)(holder)
            raise UserError(text.format(key=prefix + name, value=value, expected=expected))


class Interrupted(Exception):
    """A signal asked the run to stop, and its state has been saved."""

    def __init__(self, signum: int) -> None:
        """Of the signal of that number."""
        super().__init__(f"stopped by signal {signum}; the same command goes on from here")
        # SLURM's warning asks for the same as the SIGTERM that follows it.
        self.exit_code = 128 + (signal.SIGTERM if signum == signal.SIGUSR1 else signum)


class Lost(Exception):
    """Another process died, or did not come: nothing that the input could put right."""

    exit_code = 75
    """EX_TEMPFAIL, the same command may be tried again."""
