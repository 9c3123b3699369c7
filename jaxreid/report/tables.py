"""A paper's table with its numbers and ours side by side.

    python -m jaxreid.report table --paper=duatm --table=1 runs/*
    python -m jaxreid.report table --paper=jst_rnn --table=2 --cmc=curves.png runs/*

The rows are the variants of the paper's config files. A run belongs to the row whose config is its
own, as its `config.json` says, whatever its folder is called: where the data lies, how it is read,
what is shown, the seed, the precision and the first weights may differ.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxreid.command import load_config, load_variants
from jaxreid.config import Config
from jaxreid.errors import UserError, nearest
from jaxreid.pretrained.sources import names_a_run
from jaxreid.report.words import SCORES, method_name
from jaxreid.variants import CONFIGS, data_sets, tables_of
from jaxreid.workdir import Run, differences, is_run, read_run

_DASH = "–"


class Cell(NamedTuple):
    """A row of the paper on one data set.

    Attributes:
        config: how to run it.
        paper: its figures, as fractions.
        note: on them.
    """

    config: Config
    paper: Mapping[str, float]
    note: str


class Table(NamedTuple):
    """A table in words, ready to be laid out.

    Attributes:
        title: of the paper and the table.
        columns: the scores of each data set.
        rows: by name, and by data set where the paper has it: the cells, and the numbers of their
            notes.
        notes: counted from 1.
        others: runs of the method that are none of the rows.
        curves: matches of our runs within ranks 1, 2, ..., by the row and, where several have any,
            the data set.
    """

    title: str
    columns: dict[str, list[str]]
    rows: dict[str, dict[str, tuple[list[str], list[int]]]]
    notes: list[str]
    others: list[str]
    curves: dict[str, Float[np.ndarray, " _"]]


# ---------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------


def find_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs in some folders, and in the folders right below them, as those of a table's rows.

    Returns:
        The runs, and a line on each folder that was left out, since it holds none.

    Raises:
        UserError: a folder is not there.
    """
    runs, left_out = [], []
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder}: no such folder")
        below = sorted(folder.iterdir()) if folder.is_dir() else []
        found = [folder] if is_run(folder) else [child for child in below if is_run(child)]
        if not found:
            left_out.append(f"{folder}: no config.json in it, so it is not the folder of a run")
        for each in found:
            try:
                runs.append(read_run(each))
            except UserError as error:
                left_out.append(str(error))
    return runs, left_out


# ---------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------


def papers() -> dict[str, list[Path]]:
    """The config files of each paper that comes with the package, by its method's name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(CONFIGS.glob("*.py")):
        if tables_of(load_variants(path)):
            found.setdefault(_method(load_config(path)), []).append(path)
    return found


def make_table(paper: str | None, number: str | None, runs: Sequence[Run]) -> Table:
    """A table of a paper, over all its data sets.

    Args:
        paper: as in `duatm`.
        number: as the paper prints it, in its own numerals.
        runs: ours.

    Raises:
        UserError: there is no such paper, or none of its rows is in such a table.
    """
    known = papers()
    if paper not in known:
        raise UserError(
            f"--paper={paper}: no such paper{nearest(paper or '', known)}; expected one of"
            f" {', '.join(known)}"
        )
    files = known[paper]
    numbers = {n: None for path in files for n in tables_of(load_variants(path))}
    if number not in numbers:
        there = sorted(numbers, key=lambda n: int(n) if n.isdigit() else 0)
        raise UserError(
            f"--table={number}: {paper} has no such table of its own rows"
            f"{nearest(number or '', numbers)}; expected one of {', '.join(there)}"
        )
    return fill(files, number, runs)


def fill(files: Sequence[Path], number: str, runs: Sequence[Run]) -> Table:
    """The rows of a table, by the config files of its data sets, and the runs that are theirs.

    Args:
        files: at least one of them has the table.
        number: of the table.
        runs: ours. Those of another method are left aside.
    """
    rows: dict[str, dict[str, Cell]] = {}
    for path in files:
        for name, row in tables_of(load_variants(path)).get(number, {}).items():
            cell = Cell(load_config(path, name), row.paper, row.note)
            rows.setdefault(row.row, {})[row.data_set] = cell
    cells = [(name, data_set, cell) for name, of in rows.items() for data_set, cell in of.items()]
    method = type(cells[0][2].config.model)
    known = data_sets(_method(cells[0][2].config))
    found = dict.fromkeys(data_set for _, data_set, _ in cells)
    names = sorted(found, key=lambda name: known.index(name) if name in known else len(known))
    columns = {
        name: [key for key in SCORES if any(name == of and key in c.paper for _, of, c in cells)]
        for name in names
    }
    printed = [f"{100 * figure:.2f}" for *_, cell in cells for figure in cell.paper.values()]
    decimals = 1 if all(figure.endswith("0") for figure in printed) else 2

    def percent(figures: Mapping[str, float], key: str) -> str:
        return f"{100 * figures[key]:.{decimals}f}" if key in figures else _DASH

    table = Table(_title(method, number), columns, {name: {} for name in rows}, [], [], {})
    ours = [run for run in runs if type(run.config.model) is method]
    curves: dict[tuple[str, str], tuple[str, Float[np.ndarray, " _"]]] = {}
    for name, data_set, cell in cells:
        matching = [run for run in ours if not differences(run.config, cell.config)]
        run = max(matching, key=lambda run: (bool(run.scores), run.when), default=None)
        if run is not None and run.cmc is not None:
            curves[name, data_set] = (" (not finished)" if run.unfinished else "", run.cmc)
        notes = [cell.note, "" if run is None else _words(run, len(matching))]
        table.notes.extend(n for n in dict.fromkeys(notes) if n and n not in table.notes)
        table.rows[name][data_set] = (
            [
                f"{percent(cell.paper, key)} / {percent(run.scores if run else {}, key)}"
                for key in columns[data_set]
            ],
            [table.notes.index(note) + 1 for note in notes if note],
        )
    one_set = len({data_set for _, data_set in curves}) == 1
    for (name, data_set), (note, curve) in curves.items():
        table.curves[(name if one_set else f"{name}, {data_set}") + note] = curve
    for run in ours:
        apart = {(name, of): differences(run.config, cell.config) for name, of, cell in cells}
        at = min(apart, key=lambda key: len(apart[key]))
        if apart[at]:
            table.others.append(_stranger(run, *at, apart[at], percent))
    return table


def _words(run: Run, matching: int) -> str:
    words = [
        f"the newest of {matching} runs" if matching > 1 else "",
        f"not finished ({run.unfinished})" if run.unfinished else "",
        "not scored" if not run.scores and not run.unfinished else "",
        _start(run.config),
        run.config.train.precision if run.config.train.precision != "float32" else "",
    ]
    said = [word for word in words if word]
    return f"{run.folder}: {', '.join(said)}" if said else ""


def _start(config: Config) -> str:
    """What a run started from, where that is not weights as the recipe expects them."""
    path = config.model.pretrained
    if path is None:
        return "from random weights"
    if names_a_run(path) and config.train.from_scratch is not False:
        return f"from another run, {path}"
    return ""


def _stranger(
    run: Run,
    row: str,
    data_set: str,
    apart: list[str],
    percent: Callable[[Mapping[str, float], str], str],
) -> str:
    figures = ", ".join(f"{SCORES[k]} {percent(run.scores, k)}" for k in ("rank1", "mAP"))
    more = f" and {len(apart) - 3} more" if len(apart) > 3 else ""
    words = f"nearest is {row} on {data_set}, but for {'; '.join(apart[:3])}{more}"
    unfinished = run.unfinished and f", not finished ({run.unfinished})"
    return f"{run.folder}: {figures}{unfinished}; {words}"


def _method(config: Config) -> str:
    return type(config.model).__module__.rpartition(".")[2]


def _title(method: type, number: str) -> str:
    return f"{method_name(method)}, Table {number}"


# ---------------------------------------------------------------------------------------------
# Layouts
# ---------------------------------------------------------------------------------------------

_LEGEND = "The paper's figures / ours, in percent; a dash where it prints none, or nothing was run."
_OTHERS = "Runs of this method that are none of these rows:"


def to_markdown(table: Table) -> str:
    """The table in Markdown, its columns aligned for those who read it as it is."""

    def plain(words: str) -> str:
        return re.sub(r"([\\*_|`<])", r"\\\1", words)

    def marked(cells: list[str], notes: list[int]) -> list[str]:
        marks = " ".join(map(str, notes)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return [cells[0] + marks, *cells[1:]]

    scores = [(name, SCORES[key]) for name, keys in table.columns.items() for key in keys]
    first = [""] + [
        plain(name) if i == 0 else ""
        for name, keys in table.columns.items()
        for i in range(len(keys))
    ]
    lines = [first, [""] + [score for _, score in scores]]
    for name, of in table.rows.items():
        line = [plain(name)]
        for data_set, keys in table.columns.items():
            line += marked(*of[data_set]) if data_set in of else [""] * len(keys)
        lines.append(line)
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(first))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    body = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in lines
    ]
    notes = [f"{i}. {plain(note)}" for i, note in enumerate(table.notes, start=1)]
    others = [_OTHERS, "", *(f"- {plain(other)}" for other in table.others)] if table.others else []
    parts = [[f"**{table.title}**", "", _LEGEND], body, notes, others]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def to_latex(table: Table) -> str:
    """The table in LaTeX, for the package booktabs."""
    escapes: dict[str, str | int | None] = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        _DASH: "--",
    }

    def plain(words: str) -> str:
        return words.translate(str.maketrans(escapes))

    def marked(cells: list[str], notes: list[int]) -> list[str]:
        mark = rf"\textsuperscript{{{','.join(map(str, notes))}}}" if notes else ""
        return [plain(cells[0]) + mark, *map(plain, cells[1:])]

    heads, rules, scores, at = [], [], [], 2
    for data_set, keys in table.columns.items():
        heads.append(rf"\multicolumn{{{len(keys)}}}{{c}}{{{plain(data_set)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + len(keys) - 1}}}")
        scores += [SCORES[key] for key in keys]
        at += len(keys)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{plain(table.title)}. {_LEGEND}}}",
        rf"\begin{{tabular}}{{l{'r' * len(scores)}}}",
        r"\toprule",
        " & ".join(["", *heads]) + r" \\",
        " ".join(rules),
        " & ".join(["", *scores]) + r" \\",
        r"\midrule",
    ]
    for name, of in table.rows.items():
        cells = [plain(name)]
        for data_set, keys in table.columns.items():
            cells += marked(*of[data_set]) if data_set in of else [""] * len(keys)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [
        *(rf"\textsuperscript{{{i}}} {plain(note)}" for i, note in enumerate(table.notes, start=1)),
        *([_OTHERS] if table.others else []),
        *map(plain, table.others),
    ]
    lines += [rf"\par\footnotesize {note}" for note in notes]
    return "\n".join([*lines, r"\end{table}", ""])
