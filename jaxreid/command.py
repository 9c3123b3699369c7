"""The command line: finds and loads config files, reads flags, and ends with one line of an error.

    --config=duatm_market:tuned --config.optim.lr=0.02 --config.data.image_size=128,64

`--config=duatm_market` is the file of that name among those that come with the package, and
`--config=mine/duatm_market.py` any other. `help` in the place of a name lists the names, and in the
place of a variant the variants.
"""

import ast
import dataclasses
import importlib.util
import os
import re
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
from absl import app, flags
from ml_collections import config_flags

from jaxreid.config import Config, flat_keys, name_type
from jaxreid.errors import UserError, nearest
from jaxreid.variants import CONFIGS, Variant, describe


def find_config(name: str) -> Path:
    """The config file at a path or, where none is there, the package's own of that name.

    Args:
        name: as in `configs/duatm_market.py`, `duatm_market.py` or `duatm_market`.

    Raises:
        UserError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    own = _own_configs()
    if name.removesuffix(".py") in own:
        return own[name.removesuffix(".py")]
    there = [p.as_posix() for p in path.parent.glob("*.py")]
    raise UserError(f"{name}: no such config{nearest(path.as_posix(), [*there, *own])}")


def list_configs() -> str:
    """The package's own configs, each with a line on it, as `--config=help` shows them."""
    lines = []
    for stem, file in _own_configs().items():
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or stem
        lines.append(f"{stem:<28}{re.split(r'[.:,] ', ' '.join(about.split()))[0].rstrip('.')}")
    lines += ["", f"Rows of a paper's tables: --config=NAME:help. The files: {CONFIGS}"]
    return "\n".join(lines)


def _own_configs() -> dict[str, Path]:
    return {path.stem: path for path in sorted(CONFIGS.glob("*.py"))}


def load_config(name: Path | str, *variant: str) -> Config:
    """What a config file's `get_config` returns.

    Args:
        name: of the file, see `find_config`.
        variant: a row of the paper's tables, if any.

    Raises:
        UserError: there is no such file, or it cannot be run.
    """
    path = find_config(str(name))
    with _naming(path):
        config = _module(path).get_config(*variant)
    if not isinstance(config, Config):
        raise UserError(
            f"{path}: get_config returned {type(config).__name__}; expected jaxreid.config.Config"
        )
    return config


def load_variants(name: Path | str) -> dict[str, Variant]:
    """The `VARIANTS` of a config file, if it has any; see `load_config`."""
    path = find_config(str(name))
    with _naming(path):
        return getattr(_module(path), "VARIANTS", {})


_CONFIG_MODULE = "_jaxreid_config_"


def _module(path: Path) -> ModuleType:
    name = f"{_CONFIG_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: expected a config, which is a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses look their annotations up there.
    spec.loader.exec_module(module)
    return module


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What goes wrong in a config file is an error of the file's, with its line."""
    try:
        yield
    except (UserError, SystemExit):
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{line.filename}, line {line.lineno}"
        raise UserError(f"{path}: {type(error).__name__}: {error} ({where})") from error


def parse_flags(argv: Sequence[str]) -> list[str]:
    """`absl.flags.FLAGS(argv)`, with one line for a mistake: for `app.run(flags_parser=...)`.

    `--help` prints the flags; with `--config`, its keys and their values as well.
    """
    argv, config = list(argv), None
    names = [found.group(1) for a in argv if (found := _OVERRIDE.match(a))]
    try:
        for i, argument in enumerate(argv):
            flag, equals, value = argument.partition("=")
            if flag in ("--config", "-config") and (equals or argv[i + 1 :]):
                name, *variant = (value if equals else argv[i + 1]).split(":", 1)
                if name == "help" and not Path(name).is_file():
                    print(list_configs())
                    sys.exit(0)
                if variant == ["help"]:
                    print(describe(load_variants(name)))
                    sys.exit(0)
                config = load_config(name, *variant)
                given = ":".join([str(find_config(name)), *variant])
                argv[i if equals else i + 1] = f"{flag}={given}" if equals else given
                if names:
                    _register_parsers(config)
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--config.{twice[0]} is given more than once")
        if any(a == "-h" or a.startswith(("-help", "--help")) for a in argv):
            app.usage(shorthelp=True, writeto_stdout=True)
            for key, value in flat_keys(config.to_dict() if config else {}, "--config.").items():
                print(f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}")
            sys.exit(0)
        return flags.FLAGS(argv)
    except UserError as error:
        message = str(error)
    except (KeyError, AttributeError, flags.Error, ValueError, TypeError) as error:
        lines = filter(None, map(str.strip, str(error).splitlines()))
        message = _unknown_key(argv, config) or "; ".join(lines)
    print(f"jaxreid: error: {message}", file=sys.stderr)
    sys.exit(2)


_OVERRIDE = re.compile(r"--?(?:no)?config\.([\w.]+)")


def _unknown_key(argv: Sequence[str], config: Config | None) -> str | None:
    """The override that the config has no key for, and the nearest that it has."""
    for argument in argv:
        override = _OVERRIDE.match(argument)
        holder: Any = config
        for part in override.group(1).split(".") if override and config else ():
            if not dataclasses.is_dataclass(holder):
                return f"{argument}: there are no keys below {holder!r}"
            if not hasattr(holder, part):
                known = [field.name for field in dataclasses.fields(holder)]
                name = type(holder).__name__.lower()
                return f"{argument}: {name} has no key {part!r}{nearest(part, known)}"
            holder = getattr(holder, part)
    return None


class _OrNone(flags.ArgumentParser):
    """Reads `None` as None, for `check_types` to judge, and all else as another parser does."""

    def __init__(self, parser: flags.ArgumentParser, kind: type | None = None) -> None:
        """Wraps a parser, and says itself what is expected of a kind, as absl's says it badly."""
        self._parser, self._kind = parser, kind

    def parse(self, argument: Any) -> Any:
        """The value of a flag's text."""
        if argument == "None":
            return None
        try:
            return self._parser.parse(argument)
        except ValueError as error:
            if self._kind is None:
                raise
            raise ValueError(f"expected {name_type(self._kind)}") from error

    def flag_type(self) -> str:
        """The type in absl's words."""
        return self._parser.flag_type()


def _register_parsers(config: Any) -> None:
    """Lets flags unset optional fields, and override those that are a choice among a few words."""
    for kind, parser in (
        (int, flags.IntegerParser()),
        (float, flags.FloatParser()),
        (str, flags.ArgumentParser()),
        (bool, flags.BooleanParser()),
    ):
        config_flags.register_flag_parser_for_type(kind, _OrNone(parser, kind))
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if isinstance(field.type, str):  # `annotations` come from __future__.
            if type(config).__module__.startswith(_CONFIG_MODULE):  # ml_collections makes its own.
                raise UserError(
                    f"flags cannot override a config file's own {type(config).__name__} whose"
                    " annotations are text; expected the file without `from __future__ import"
                    " annotations`"
                )
            field.type = hints[field.name]
    for name, kind in hints.items():
        for member in (kind, *typing.get_args(kind)):
            if typing.get_origin(member) is Literal:
                words = list(typing.get_args(member))
                parser = _OrNone(flags.EnumParser(words))
                config_flags.register_flag_parser_for_type(member, parser)
        if dataclasses.is_dataclass(getattr(config, name)):
            _register_parsers(getattr(config, name))


def profiled_steps(text: str | None, *, trains: bool) -> range:
    """The steps that `--profile` names; none without it.

    Raises:
        UserError: it is not written FIRST:COUNT, or there is no training to trace.
    """
    if text is None:
        return range(0)
    found = re.fullmatch(r"(\d+):([1-9]\d*)", text)
    if not found:
        raise UserError(f"--profile={text}: expected FIRST:COUNT, as in 10:5")
    if not trains:
        raise UserError(f"--profile={text}: --mode=evaluate does not train")
    first, count = map(int, found.groups())
    return range(first, first + count)


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told another place."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not home.startswith("~"):  # Else nobody knows where the user's home is.
        jax.config.update("jax_compilation_cache_dir", f"{home}/jaxreid/xla")
