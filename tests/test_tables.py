"""A paper's table beside our runs: from folders, and by running its rows."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxreid import main, series
from jaxreid.command import load_config, load_variants, parse_flags
from jaxreid.errors import UserError
from jaxreid.report import __main__ as command
from jaxreid.report import tables
from jaxreid.variants import tables_of
from jaxreid.workdir import claim_workdir

REPOSITORY = Path(__file__).parent.parent
TINY = """
from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import duatm
from jaxreid.variants import Variant, choose

VARIANTS = {{
    "plain": Variant({{}}, {{"rank1": 0.5, "mAP": 0.405}}, "Drawn", "plain", ("1",)),
    "flip": Variant(
        {{"eval.flip": True}}, {{"rank1": 0.6}}, "Drawn", "with flip", ("1",), "printed twice"
    ),
    "average": Variant(
        {{"model.matching": "average"}}, {{"rank1": 0.3}}, "Drawn", "average", ("2",)
    ),
}}


def get_config(variant=None):
    config = Config(
        model=duatm.Config(
            dim=16, backbone_layers=(1, 1, 1, 1), backbone_growth=4, backbone_stem=8
        ),
        data=Data(
            name="synthetic",
            root={root!r},
            source="memory",
            image_size=(64, 32),
            num_ids=4,
            num_instances=2,
        ),
        optim=Optim(lr=0.05),
        train=Train(steps=1, log_every=1, checkpoint_every=100),
        eval=Eval(batch_size=16, query_block=4, gallery_block=16, pictures=3),
    )
    return choose(config, VARIANTS, variant)
"""


@pytest.fixture(scope="session")
def tiny_file(market, tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY.format(root=str(market)))
    return path


def leave_run(folder, config, scores=None, last=None):
    """What a run of that config leaves for a table to read."""
    claim_workdir(config, folder, "abc", 751)
    last = {"step": 19500, "epoch": float(config.train.epochs)} if last is None else last
    (folder / "metrics.jsonl").write_text(json.dumps(last) + "\n")
    if scores:
        (folder / "eval").mkdir()
        (folder / "eval" / "metrics.json").write_text(json.dumps(scores))
    return folder


def market_row(name, **changes):
    config = load_config("duatm_market", name)
    config.model.pretrained = "densenet121.pth"
    config.data.root = "/elsewhere"
    for key, value in changes.items():
        section, field = key.split("_", 1)
        setattr(getattr(config, section), field, value)
    return config


def cells(text, row):
    """Those of a row of a Markdown table."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    [found] = [[cell.strip() for cell in line] for line in lines if line[0].strip() == row]
    return found[1:]


def lay_out(*arguments):
    return command.main(["table", *map(str, arguments)])


def test_the_papers_numbers_without_runs(capsys):
    assert lay_out("--paper=duatm", "--table=1") == 0
    text = capsys.readouterr().out
    assert text.startswith("**DuATM, Table 1**\n\nThe paper's figures / ours")
    data_sets = ["Market-1501", "", "", "", "DukeMTMC-reID", "", "", "", "MARS", "", "", ""]
    head, rule, scores = (line for line in text.splitlines()[4:7])
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["", *data_sets]
    assert set(rule) == set("|-: ")
    assert [cell.strip() for cell in scores.strip("|").split("|")] == [
        "",
        *["rank-1", "rank-5", "rank-20", "mAP"] * 3,
    ]
    assert cells(text, "AvePool + l0") == [
        *("74.20 / –", "89.67 / –", "95.58 / –", "56.88 / –"),
        *("64.05 / –", "79.44 / –", "87.52 / –", "43.79 / –"),
        *("65.45 / –", "81.92 / –", "90.10 / –", "47.26 / –"),
    ]
    assert cells(text, r"DuATM\*\*")[-1] == "62.26 / –"
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_runs_are_known_by_their_configs(tmp_path, capsys):
    scores = {"rank1": 0.7301, "rank5": 0.9, "rank20": 0.96, "mAP": 0.55}
    faster = {"eval_batch_size": 8, "train_log_every": 7, "train_seed": 3}
    leave_run(tmp_path / "whatever", market_row("avepool", **faster), scores)
    assert lay_out("--paper=duatm", "--table=1", tmp_path / "whatever") == 0
    text = capsys.readouterr().out
    assert cells(text, "AvePool + l0")[:4] == [
        *("74.20 / 73.01", "89.67 / 90.00", "95.58 / 96.00", "56.88 / 55.00")
    ]
    assert cells(text, "DuATM + l0")[0] == "79.66 / –"
    assert str(tmp_path) not in text  # There is nothing to say of it.


def test_what_has_to_be_said_of_a_run(tmp_path, capsys):
    old = leave_run(tmp_path / "old", market_row("l0"), {"rank1": 0.7, "mAP": 0.5})
    os.utime(old / "eval" / "metrics.json", (1e9, 1e9))
    random = market_row("l0", model_pretrained=None, train_precision="bfloat16")
    new = leave_run(tmp_path / "new", random, {"rank1": 0.6, "mAP": 0.4})
    half = {"step": 9750, "epoch": 150.0}
    half = leave_run(tmp_path / "half", market_row("tuned"), {"rank1": 0.1}, last=half)
    late = leave_run(tmp_path / "late", market_row("l0_l1"), {"rank1": 0.2, "step": 500})
    done = leave_run(tmp_path / "done", market_row("l0_l2"))
    fast = leave_run(tmp_path / "fast", market_row("l0", optim_lr=0.02), {"rank1": 0.3})
    assert lay_out("--paper=duatm", "--table=1", tmp_path) == 0
    text = capsys.readouterr().out
    assert cells(text, "DuATM + l0")[0] == "79.66 / 60.00¹"
    assert cells(text, "DuATM + l0")[1] == "91.15 / –"
    assert cells(text, "l0 + l1")[0] == "81.83 / 20.00²"
    assert cells(text, "l0 + l2")[0] == "87.50 / –³"
    assert cells(text, r"DuATM\*")[0] == "89.96 / 10.00⁴"
    text = text.replace("\\", "")
    assert f"1. {new}: the newest of 2 runs, from random weights, bfloat16\n" in text
    assert f"2. {late}: not finished (scored at step 500 of 19500)\n" in text
    assert f"3. {done}: not scored\n" in text
    assert f"4. {half}: not finished (epoch 150 of 300)\n" in text
    assert (
        f"- {fast}: rank-1 30.00, mAP –; nearest is DuATM + l0 on Market-1501, but for optim.lr"
        " 0.02, not 0.01\n" in text
    )


def test_a_run_on_drawn_data_is_no_row_of_the_paper(tmp_path, capsys):
    config = market_row("l0", data_name="synthetic")
    leave_run(tmp_path / "drawn", config, {"rank1": 0.99, "mAP": 0.99})
    assert lay_out("--paper=duatm", "--table=2", tmp_path / "drawn") == 0
    text = capsys.readouterr().out
    assert cells(text, "DuATM + l0")[0] == "79.66 / –"
    assert "rank-1 99.00, mAP 99.00; nearest is DuATM + l0" in text
    assert "data.name synthetic, not market1501" in text


def test_a_run_over_all_splits(tmp_path, capsys):
    config = load_config("cosam_ilids", "resnet50_ta")
    config.model.pretrained = "resnet50.pth"
    end = {"step": 14400, "epoch": 800.0}
    for n in range(10):
        data = dataclasses.replace(config.data, split=n)
        one = dataclasses.replace(config.without_figures(), data=data)  # as `run_splits` does
        leave_run(tmp_path / f"split{n}", one, last=end)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.json").write_text('{"rank1": 0.701, "rank5": 0.9}')
    assert lay_out("--paper=cosam", "--table=4", tmp_path) == 0
    text = capsys.readouterr().out
    assert cells(text, "ResNet-50 + TA")[-2:] == ["72.3 / 70.1¹", "92.4 / 90.0"]
    assert "1. printed: Gao and Nevatia's" in text
    assert "not finished" not in text
    (tmp_path / "split3" / "metrics.jsonl").unlink()
    lay_out("--paper=cosam", "--table=4", tmp_path)
    assert "not finished (9 of 10 splits)" in capsys.readouterr().out


def test_the_curves_of_a_tables_rows_in_one_picture(tmp_path, capsys, monkeypatch):
    curves = {}
    monkeypatch.setattr(command, "plot_cmc", lambda path, *drawn: curves.update({path: drawn}))

    def leave(name, curve, last=None):
        config = load_config("jst_rnn_mars", name)
        config.model.pretrained = "bvlc_reference_caffenet.caffemodel"
        last = {"step": 60_000, "epoch": 769.0} if last is None else last
        folder = leave_run(tmp_path / name, config, {"rank1": curve[0]}, last)
        (folder / "eval" / "cmc.json").write_text(json.dumps(curve))

    leave("cnn", [0.5, 0.6, 0.7])
    leave("cnn_rnn", [0.6, 0.7], {"step": 30_000, "epoch": 385.0})
    ilids = load_config("jst_rnn_ilids", "all")
    for n in range(10):
        one = dataclasses.replace(ilids, data=dataclasses.replace(ilids.data, split=n))
        folder = leave_run(tmp_path / f"ilids/split{n}", one, {"rank1": 0.1})
        (folder / "eval" / "cmc.json").write_text(json.dumps([n / 10, 1.0]))
    (tmp_path / "ilids" / "eval").mkdir()
    (tmp_path / "ilids" / "eval" / "metrics.json").write_text('{"rank1": 0.45}')

    arguments = ("--paper=jst_rnn", f"--cmc={tmp_path}/c.png", tmp_path)
    assert lay_out("--table=2", *arguments) == 0
    found, title = curves.pop(f"{tmp_path}/c.png")
    assert title == "JST-RNN, Table 2"
    assert {name: curve.tolist() for name, curve in found.items()} == {
        "CNN": [0.5, 0.6, 0.7],
        "CNN+RNN (not finished)": [0.6, 0.7],
    }
    said = capsys.readouterr()
    assert said.out.startswith("**JST-RNN, Table 2**")
    assert said.err.endswith(f"drawn: {tmp_path}/c.png\n")
    assert lay_out("--table=3", *arguments) == 0
    [(name, curve)] = curves.pop(f"{tmp_path}/c.png")[0].items()
    assert name.startswith("ALL")
    assert curve.tolist() == pytest.approx([0.45, 1.0])  # the mean of the splits

    leave("all", [0.7, 0.8])
    assert lay_out("--table=3", *arguments) == 0
    assert [name.partition(" (")[0] for name in curves.pop(f"{tmp_path}/c.png")[0]] == [
        "ALL, iLIDS-VID",
        "ALL, MARS",
    ]
    capsys.readouterr()
    (tmp_path / "all" / "eval" / "cmc.json").write_text('["x"]')
    assert lay_out("--table=3", *arguments) == 0
    assert "all/eval/cmc.json: not the matches of a run" in capsys.readouterr().err
    assert lay_out("--paper=jst_rnn", "--table=2", "--cmc=c.png", tmp_path / "ilids") == 2
    assert "--cmc=c.png: no row has a run with eval/cmc.json" in capsys.readouterr().err


def test_a_run_that_started_from_another_run_says_so(tmp_path, capsys):
    config = market_row("l0", model_pretrained="runs/other")
    leave_run(tmp_path / "run", config, {"rank1": 0.5})
    assert lay_out("--paper=duatm", "--table=2", tmp_path / "run") == 0
    assert "/run: from another run, runs/other\n" in capsys.readouterr().out


def test_latex(tmp_path, capsys):
    folder = leave_run(tmp_path / "a_b", market_row("intra", model_pretrained=None), {"mAP": 0.5})
    out = tmp_path / "table.tex"
    assert lay_out("--paper=duatm", "--table=2", "--format=latex", f"--out={out}", folder) == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    lines = out.read_text().splitlines()
    assert r" & \multicolumn{4}{c}{Market-1501} \\" in lines
    mark = r"\textsuperscript{1}"
    assert rf"Intra + l0 & 78.78 / --{mark} & 90.69 / -- & 96.73 / -- & 61.76 / 50.00 \\" in lines
    note = [line for line in lines if line.startswith(rf"\par\footnotesize {mark}")]
    assert note == [
        rf"\par\footnotesize {mark} {str(folder).replace('_', chr(92) + '_')}: from random weights"
    ]
    text = "\n".join(lines)
    assert text.count("{") == text.count("}")
    assert "–" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--paper=duatn", "--table=1"), "--paper=duatn: no such paper; did you mean 'duatm'?"),
        ((), "expected one of attention_driven, bot, cosam, duatm, jst_rnn, siamese_attention"),
        (("--paper=siamese_attention", "--table=IX"), "expected one of III, IV, V, VI, VII"),
        (("--paper=duatm",), "--table=None: duatm has no such table of its own rows; expected"),
        (("--paper=duatm", "--table=1", "nowhere"), "nowhere: no such folder"),
        (("--paper=duatm", "--table=1", "--out=/nowhere/t.md"), "--out=/nowhere/t.md: cannot"),
        (("--paper=duatm", "--table=1", "--cmc=c.png"), "--cmc=c.png: no row has a run with"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, words, capsys):
    assert lay_out(*arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_folders_that_hold_no_run_are_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    other = leave_run(tmp_path / "other", market_row("l0"), {"rank1": 0.5})
    (other / "eval" / "metrics.json").write_text("3")
    leave_run(tmp_path / "of_splits" / "split0", market_row("l0"))
    folders = [tmp_path / name for name in ("empty", "broken", "other", "of_splits")]
    assert lay_out("--paper=duatm", "--table=2", *folders) == 0
    said = capsys.readouterr().err
    assert f"left out: {other / 'eval' / 'metrics.json'}: not the scores of a run" in said
    assert "config.json: a split of market1501, which does not come in splits" in said
    assert f"left out: {tmp_path / 'empty'}: no config.json in it" in said
    assert f"left out: {tmp_path / 'broken' / 'config.json'}: not the config of a run" in said


def test_every_table_of_every_paper():
    numbers = {
        paper: {number for path in files for number in tables_of(load_variants(path))}
        for paper, files in tables.papers().items()
    }
    assert numbers == {
        "attention_driven": {"3", "4", "5", "6", "7", "8", "9", "10", "11"},
        "bot": {"1"},
        "cosam": {"2", "3", "4", "5", "6"},
        "duatm": {"1", "2", "3", "4", "5", "6", "7"},
        "jst_rnn": {"2", "3"},
        "siamese_attention": {"III", "IV", "V", "VI", "VII", "VIII"},
    }
    for paper, of in numbers.items():
        for number in of:
            table = tables.make_table(paper, number, [])
            for cells in table.rows.values():
                for data_set, (figures, _) in cells.items():
                    assert len(figures) == len(table.columns[data_set]) > 0
            assert tables.to_latex(table).count("{") == tables.to_latex(table).count("}")


def test_help_lists_the_tables(tiny_file, capsys):
    with pytest.raises(SystemExit):
        parse_flags(["main", f"--config={tiny_file}:help"])
    assert ":table1         plain, flip\n:table2         average\n" in capsys.readouterr().out
    assert load_config(tiny_file, "table1") == load_config(tiny_file)
    with pytest.raises(UserError, match="did you mean 'table1'"):
        load_config(tiny_file, "tabel1")


def test_a_change_of_what_a_table_compares_is_refused(tiny_file, tmp_path):
    said = subprocess.run(
        [
            *(sys.executable, "-m", "jaxreid.main", f"--config={tiny_file}:table1"),
            *(f"--workdir={tmp_path / 'run'}", "--config.eval.flip=True"),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr.endswith(
        "jaxreid: error: --config.eval.flip=True: Table 1 is of its effect, and its row flip has"
        " True\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_rows_of_a_table_are_run_and_gone_on_with(tiny_file, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "t1"

    def run_table():
        series.run_table(main.run, str(tiny_file), "1", {"train.seed": 1}, workdir, trains=True)
        return capsys.readouterr().out

    said = run_table()
    assert f"row 1 of 2, plain: in {workdir / 'plain'}\n" in said
    # The second differs in the scoring alone.
    assert f"{workdir / 'flip'}: trained as {workdir / 'plain'} was" in said
    assert said.count("step 1/1 ") == 1
    text = (workdir / "table1.md").read_text()
    assert said.endswith(f"\n{text}\nwritten: {workdir / 'table1.md'}\n")
    ours = {
        name: json.loads((workdir / name / "eval" / "metrics.json").read_text())
        for name in ("plain", "flip")
    }
    assert (ours["plain"]["flip"], ours["flip"]["flip"]) == (False, True)
    for name, row, paper in (("plain", "plain", "50.0"), ("flip", "with flip", "60.0")):
        assert cells(text, row)[0].startswith(f"{paper} / {100 * ours[name]['rank1']:.1f}")
    assert json.loads((workdir / "flip" / "config.json").read_text())["train"]["seed"] == 1

    assert run_table() == (
        f"row 1 of 2, plain: done before, in {workdir / 'plain'}\n"
        f"row 2 of 2, flip: done before, in {workdir / 'flip'}\n"
        f"\n{text}\nwritten: {workdir / 'table1.md'}\n"
    )
    # Killed while it was scored.
    shutil.rmtree(workdir / "flip" / "eval")
    called = []
    monkeypatch.setattr(main, "run", lambda *arguments: called.append(arguments[1]))
    assert "with flip" in run_table()
    assert called == [workdir / "flip"]
