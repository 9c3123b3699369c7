"""The rows of the papers' tables, as changes to a config: data, which `configs/tables/` holds.

There is a file for each paper, by its method's name. After `data_sets`, the paper's columns from
left to right, it has an entry for each row, by the name of the variant:

    [l0]
    row = "DuATM + l0"
    changes = { "model.lambda1" = 0.0, "model.lambda2" = 0.0 }
    MARS = { tables = ["1"], rank1 = 66.36, rank5 = 83.13, rank20 = 90.40, mAP = 48.44 }

A data set has the numbers of the tables that print the row, and the figures in percent as they are
printed. It may have `changes` of its own, which are added to the row's, and a `row` and a `note` in
the place of the row's. The text "None" in `changes` is None, as in flags.
"""

import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from jaxreid.data.index import split_place
from jaxreid.errors import UserError, nearest

# Within the package where it was installed, beside it in the repository.
_PACKAGE = Path(__file__).parent
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"

FIGURES = ("rank1", "rank5", "rank10", "rank20", "mAP")
_OF_A_ROW = ("row", "note", "changes")
_OF_A_DATA_SET = (*_OF_A_ROW, "tables", *FIGURES)
_C = TypeVar("_C")


class Variant(NamedTuple):
    """A row of a paper's tables, as changes to the config.

    Attributes:
        changes: `{"model.lambda1": 0.3, ...}`.
        paper: the published figures, as `{"rank1": 0.8875, "mAP": 0.7046}`; empty where the
            paper gives none in print.
        data_set: as the paper names it.
        row: in a few words, the same ones for every data set.
        tables: the numbers of those that have it, as printed; none for a figure of the text or of
            a curve, and for rows of our own.
        note: what a reader of the figures should know.
    """

    changes: Mapping[str, Any]
    paper: Mapping[str, float]
    data_set: str
    row: str
    tables: tuple[str, ...] = ()
    note: str = ""

    @property
    def source(self) -> str:
        """Where in the paper, as in "Market-1501, Tables 1 and 2, AvePool + l0"."""
        *most, last = self.tables or ("",)
        where = f"Tables {', '.join(most)} and {last}" if most else f"Table {last}"
        words = [self.data_set, where, self.row] if last else [self.data_set, self.row]
        return ", ".join(words) + (self.note and f"; {self.note}")


def rows(paper: str, data_set: str) -> dict[str, Variant]:
    """The rows of a paper's tables on one data set, by the names of the variants.

    Args:
        paper: a file of `configs/tables/`, by the method's name.
        data_set: as the paper names it.

    Raises:
        UserError: there is no such file or data set, or an entry has a key that means nothing.
    """
    path = CONFIGS / "tables" / f"{paper}.toml"
    known, entries = _read(path)
    if data_set not in known:
        raise UserError(f"{path}: no data set {data_set!r}{nearest(data_set, known)}")
    found = {}
    for name, entry in entries.items():
        _check(path, name, entry, (*_OF_A_ROW, *known))
        if "row" not in entry:
            raise UserError(f"{path}: {name} has no 'row', which is its name in the paper")
        if data_set in entry:
            of = entry[data_set]
            _check(path, f"{name}.{data_set}", of, _OF_A_DATA_SET)
            changes = {**entry.get("changes", {}), **of.get("changes", {})}
            found[name] = Variant(
                {key: _value(value) for key, value in changes.items()},
                {key: round(of[key] / 100, 4) for key in FIGURES if key in of},
                data_set,
                of.get("row", entry["row"]),
                tuple(of.get("tables", ())),
                of.get("note", entry.get("note", "")),
            )
    return found


def data_sets(paper: str) -> list[str]:
    """A paper's data sets from left to right; none for a method that has no file of tables."""
    path = CONFIGS / "tables" / f"{paper}.toml"
    return _read(path)[0] if path.is_file() else []


def tables_of(variants: Mapping[str, Variant]) -> dict[str, dict[str, Variant]]:
    """The rows of each of the paper's tables: by its number, by the names of the variants."""
    found: dict[str, dict[str, Variant]] = {}
    for name, variant in variants.items():
        for number in variant.tables:
            found.setdefault(number, {})[name] = variant
    return found


def choose(config: _C, variants: Mapping[str, Variant], name: str | None) -> _C:
    """The config with a variant's changes and figures.

    `table1` is all rows of Table 1, for `jaxreid.main` to run one after another: the config without
    any of their changes.

    Args:
        config: a `jaxreid.config.Config`, which is changed in place.
        variants: of the config file.
        name: of one of them; None leaves the config as it is.

    Raises:
        UserError: no such variant.
    """
    tables = [f"table{number}" for number in tables_of(variants)]
    if not name or name in tables:
        return config
    if name not in variants:
        raise UserError(
            f"config variant {name!r}: there is none of that name"
            f"{nearest(name, [*variants, *tables])} (:help lists them)"
        )
    variant, changed = variants[name], cast(Any, config)
    for key, value in variant.changes.items():
        section, field = key.split(".")
        setattr(getattr(changed, section), field, value)
    changed.paper, changed.paper_source = dict(variant.paper), variant.source
    if (place := variant.changes.get("eval.data")) is not None:
        changed.paper_data, _ = split_place(place)
    return config


def describe(variants: Mapping[str, Variant]) -> str:
    """What `:help` prints of a config file's variants, and of the tables that they are rows of."""
    lines = []
    for name, variant in variants.items():
        figures = ", ".join(f"{k} {v:.2%}" for k, v in variant.paper.items())
        figures = f"the paper's {figures}" if figures else "no figure in print"
        changes = " ".join(f"{k}={v}" for k, v in variant.changes.items()) or "(the default)"
        lines.append(f":{name:<14} {variant.source}; {figures}\n{'':16}{changes}")
    tables = tables_of(variants)
    if tables:
        lines.append("\nThe rows of a table, one after another:")
    for number, of in tables.items():
        words = textwrap.wrap(", ".join(of), 84, break_on_hyphens=False)
        lines.append(f":{f'table{number}':<14} " + f"\n{'':16}".join(words))
    return "\n".join(lines)


def _read(path: Path) -> tuple[list[str], dict[str, Any]]:
    """The data sets and the entries of a file of tables."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        return entries.pop("data_sets"), entries
    except FileNotFoundError:
        there = [other.stem for other in path.parent.glob("*.toml")]
        raise UserError(f"{path}: no such file of tables{nearest(path.stem, there)}") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not a file of tables ({error})") from None


def _check(path: Path, entry: str, keys: Iterable[str], known: Iterable[str]) -> None:
    for key in keys:
        if key not in known:
            raise UserError(f"{path}: {entry} has no key {key!r}{nearest(key, known)}")


def _value(value: Any) -> Any:
    """TOML has neither tuples nor None."""
    if isinstance(value, list):
        return tuple(map(_value, value))
    return None if value == "None" else value
