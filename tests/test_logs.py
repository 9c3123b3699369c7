import json
import resource

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


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunLog(tmp_path, step=0, total=3) as log:
        log.write(1, {"loss": 1.0})
        whole = path.read_bytes()
        try:
            # A part of the line is written, and then no more.
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
            with pytest.raises(UserError) as error:
                log.write(2, {"loss": 2.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(error.value).startswith(f"{path}: cannot write there (File too large; ")
        assert str(error.value).endswith("; the same command goes on from the last checkpoint")
        assert path.read_bytes() == whole
        log.write(2, {"loss": 2.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_tensorboard_reads_the_same(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    for first in (0, 2):
        (tmp_path / str(first)).mkdir()
        with RunLog(tmp_path / str(first), step=first, total=4) as log:
            log.write(first + 1, {"loss": 0.5, "lr": 0.25})
        (file,) = (tmp_path / str(first) / "tensorboard").iterdir()
        events, content = [], file.read_bytes()
        while content:  # A record: its length, a checksum, the event, a checksum.
            length = int.from_bytes(content[:8], "little")
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
        _, start, *steps = events
        assert (start.step, start.session_log.status) == (first + 1, 1)
        assert [
            (event.step, value.tag, value.simple_value)
            for event in steps
            for value in event.summary.value
        ] == [(first + 1, "loss", 0.5), (first + 1, "lr", 0.25)]
