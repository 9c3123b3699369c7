"""Makes `docs/fidelity.md` from the files beside this one: `python docs/fidelity/render.py`.

Each file, by its method's name, has a head with the paper and the numbers of what it counts, and a
`[[row]]` for each numbered equation, table and figure and each stated hyper-parameter:

    item       as the paper counts it, or what the parameter is
    section    where it stands
    says       the paper, in a few words
    code       "path::symbol", of this repository
    test       "path::test", of what holds it
    config     { config = { key = value } } of a hyper-parameter: a config file with its variant
    departure  what is done otherwise, or not at all, or where the paper is silent
    run        headings of benchmarks/RESULTS.md: where it was run; none: not yet

`tests/test_fidelity.py` checks that all of it is there, and that every value is the config's.
"""

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.with_suffix(".md")
PAPERS = ("duatm", "attention_driven", "jst_rnn", "siamese_attention", "cosam")
HEAD = """\
# Fidelity: the papers, line by line

What a paper prints, where it is in the code, and which test holds it. A row stands for every
numbered equation, table and figure, and for every hyper-parameter that the paper states. An empty
departure means that we know of none. The [methods' pages](methods/index.md) tell those departures
that matter most.

The last column names the part of `benchmarks/RESULTS.md` that has figures; they are of drawn
pedestrians. No row was run on the data that its paper used
([what has been run where](claims.md#what-has-been-run-where)).

The rows are data, `docs/fidelity/*.toml`. `tests/test_fidelity.py` checks that every file, symbol,
test and heading is there, that no number of a paper is missing, and that every value is its
config's.
"""
COLUMNS = ("item", "the paper", "code", "held by", "departure", "run")


def read(name: str) -> dict[str, Any]:
    """The rows of a paper, as in its file."""
    paper = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
    for row in paper["row"]:
        row.update({key: row.get(key, []) for key in ("code", "test", "run")})
        row.update({"config": row.get("config", {}), "departure": row.get("departure", "")})
    return paper


def render() -> str:
    """The page."""
    return "\n".join([HEAD, *map(_section, PAPERS)])


def _section(name: str) -> str:
    paper = read(name)
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_cells, paper["row"])]
    title = f"## {paper['method']}\n\n*{paper['title']}*, {paper['venue']}."
    return f"{title} [The method's page](methods/{name}.md).\n\n" + "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> str:
    values = [
        f"`{config}`: " + ", ".join(f"`{key}={value}`" for key, value in keys.items())
        for config, keys in row["config"].items()
    ]
    code = [f"`{place.removeprefix('jaxreid/')}`" for place in row["code"]] + values
    tests = [f"`{place.removeprefix('tests/')}`" for place in row["test"]]
    run = ", ".join(row["run"]) or ("not yet" if code else "")
    place = f"**{row['item']}**, {row['section']}"
    return _line([place, row["says"], *map("<br>".join, (code, tests)), row["departure"], run])


def _line(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"written: {PAGE}")
