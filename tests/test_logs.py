import pytest

from jaxreid.errors import UserError
from jaxreid.logs import RunLog, read_metrics


def test_a_log_keeps_each_step_once(tmp_path):
    with RunLog(tmp_path, step=0, total=4) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed here
    # The newest checkpoint is of step 2: step 3 is taken again.
    with RunLog(tmp_path, step=2, total=4) as log:
        log.write(3, {"loss": 30.0})
        log.write(4, {"loss": 40.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 30.0},
        {"step": 4, "loss": 40.0},
    ]


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    with RunLog(tmp_path, step=0, total=2) as log:
        log.write(1, {"loss": 0.123456})
    assert capsys.readouterr().out == "step 1/2  loss 0.1235\n"


def test_read_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo\n\n{"step": 2}\n{"step": 3, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.5}, {"step": 2}]
    path.write_text('{"step": 1}\n{"step": 2, "optim": {"lr": 1}')
    assert read_metrics(path) == [{"step": 1}]
    path.write_text("")
    assert read_metrics(path) == []


def test_read_metrics_names_what_is_broken(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\nstep 2}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: expected a JSON object"):
        read_metrics(path)
    path.write_text("[1, 2]\n")
    with pytest.raises(UserError, match=r"line 1: expected a JSON object, got \[1, 2\]"):
        read_metrics(path)
