"""One rule for the paths that a user gives: `~` is the home, and other machines are not read."""

import os
import re

from jaxreid.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(text: str) -> str:
    """A path with `~` and `~name` expanded, for flags as their `type`.

    Raises:
        UserError: it is an address such as `gs://bucket/folder`, or of a home that nobody knows.
    """
    if found := _SCHEME.match(text):
        raise UserError(
            f"{text}: expected a file or folder of this machine, mounted if need be;"
            f" {found.group()} is not read"
        )
    path = os.path.expanduser(text)
    if text.startswith("~") and path == text:
        raise UserError(f"{text}: {text.split('/')[0]} is no home that is known here")
    return path
