"""The files of the papers' tables, and what their loader says of a mistake."""

import pytest

from jaxreid import variants
from jaxreid.errors import UserError
from jaxreid.variants import CONFIGS, Variant, data_sets, describe, rows

PAPERS = sorted(path.stem for path in (CONFIGS / "tables").glob("*.toml"))
TABLE = """
data_sets = ["MARS", "PRID2011"]

[plain]
row = "plain"
changes = { "model.kernels" = [3, 5], "data.joints" = "None" }
MARS = { tables = ["2", "IV"], rank1 = 74.20, mAP = 5.5, changes = { "optim.lr" = 0.1 } }
PRID2011 = { row = "plain: ours", note = "a note" }

[other]
row = "other"
note = "of all"
MARS = {}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "CONFIGS", tmp_path)
    (tmp_path / "tables").mkdir()
    return tmp_path / "tables"


def test_there_is_a_file_for_each_paper():
    papers = ["attention_driven", "bot", "cosam", "duatm", "jst_rnn", "osnet", "siamese_attention"]
    assert [*papers, "vit"] == PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_every_entry_is_read(paper):
    found = {data_set: rows(paper, data_set) for data_set in data_sets(paper)}
    assert all(found.values())
    _, entries = variants._read(CONFIGS / "tables" / f"{paper}.toml")
    assert {name for of in found.values() for name in of} == set(entries)
    for of in found.values():
        for row in of.values():
            # Ranks rise, as does a cumulative curve.
            ranks = [row.paper[key] for key in variants.FIGURES[:4] if key in row.paper]
            assert ranks == sorted(ranks)
            assert all(0 < figure < 1 for figure in row.paper.values())
            assert bool(row.tables) <= bool(row.paper)


def test_an_entry_becomes_a_variant(folder):
    (folder / "mine.toml").write_text(TABLE)
    assert data_sets("mine") == ["MARS", "PRID2011"]
    changes = {"model.kernels": (3, 5), "data.joints": None}
    assert rows("mine", "MARS") == {
        "plain": Variant(
            changes | {"optim.lr": 0.1},
            {"rank1": 0.742, "mAP": 0.055},
            "MARS",
            "plain",
            ("2", "IV"),
        ),
        "other": Variant({}, {}, "MARS", "other", (), "of all"),
    }
    assert rows("mine", "PRID2011") == {
        "plain": Variant(changes, {}, "PRID2011", "plain: ours", (), "a note")
    }
    assert data_sets("no_paper") == []


def test_a_description_of_variants(folder):
    (folder / "mine.toml").write_text(TABLE)
    assert describe(rows("mine", "MARS")) == "\n".join(
        [
            ":plain          MARS, Tables 2 and IV, plain; the paper's rank1 74.20%, mAP 5.50%",
            "                model.kernels=(3, 5) data.joints=None optim.lr=0.1",
            ":other          MARS, other; of all; no figure in print",
            "                (the default)",
            "",
            "The rows of a table, one after another:",
            ":table2         plain",
            ":tableIV        plain",
        ]
    )
    assert describe({}) == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rank1 =", "rang1 =", r"mine\.toml: plain\.MARS has no key 'rang1'; did you mean 'rank1'"),
        ("PRID2011 =", "PRID =", r"mine\.toml: plain has no key 'PRID'; did you mean 'PRID2011'"),
        ('"MARS",', "", r"mine\.toml: no data set 'MARS'"),
        ("data_sets", "sets", r"mine\.toml: not a file of tables \('data_sets'\)"),
        ("[plain]", "[plain", r"mine\.toml: not a file of tables \(.*line 4"),
        ('row = "other"\n', "", r"mine\.toml: other has no 'row'"),
    ],
)
def test_a_mistake_in_a_file_is_named(folder, old, new, message):
    (folder / "mine.toml").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        rows("mine", "MARS")


def test_a_paper_that_is_not_there():
    with pytest.raises(UserError, match=r"no such file of tables; did you mean 'duatm'\?"):
        rows("duatn", "MARS")
