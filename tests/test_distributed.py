"""Pairs of processes that meet, differ, die and are late. They all run at once, early."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxreid import distributed
from jaxreid.errors import UserError

REPOSITORY = Path(__file__).parent.parent
DEADLINE = 3.0

PEER = """
import json, os, signal, sys, time

import jax
import numpy as np

from jaxreid import distributed, sharding
from jaxreid.errors import UserError

scene, spec, deadline, shared = sys.argv[1:]
me = int(spec[-1])


def add_up():
    mesh = sharding.make_mesh()
    split, everywhere = sharding.split(mesh), sharding.replicated(mesh)
    total = jax.jit(lambda x: x.sum(), in_shardings=split, out_shardings=everywhere)
    return float(total(sharding.put(np.full(1, me + 1, np.float32), split)))


def meet():
    no_one = distributed.any_host(False)
    one = distributed.any_host(me == 1)
    said = distributed.gather(f"I am {me}" if me else None, "the test")
    distributed.agree({"the same": [1, "two"]}, "the test")
    turns = []
    for _ in distributed.in_turn("the test"):
        path = shared + "/turns"
        turns = open(path).read() if os.path.exists(path) else ""
        open(path, "w").write(turns + str(me))
    start = time.perf_counter()
    for _ in range(100):
        distributed.any_host(False)
    seconds = (time.perf_counter() - start) / 100
    print(json.dumps([no_one, one, said, turns, add_up(), sharding.own_rows(6, sharding.split(
        sharding.make_mesh())).indices(6)[:2], seconds]), file=sys.stderr, flush=True)
    print("on stdout")


def differ():
    distributed.agree({"jax": "1.0", "seed": me, "same": 5}, "the test")


def die():
    if me == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    add_up()
    distributed.barrier("the test")


def coordinator_dies():
    if me == 0:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    add_up()


def crash():
    if me == 1:
        raise ZeroDivisionError("of the test")
    time.sleep(60)


def be_wrong():
    if me == 0:
        raise UserError("the data is wrong")
    add_up()


def be_late():
    distributed.barrier("the start of the test")
    if me == 1:
        time.sleep(60)
    distributed.barrier("the test", 2.0)


def get_stuck():
    distributed._PATIENCE = 1
    with distributed.limited("the save"):
        if me == 1:
            time.sleep(60)


def not_share():
    distributed.require_shared(__import__("pathlib").Path(f"{shared}/only-{me}"))


code = 0
try:
    distributed.start(spec, float(deadline))
    globals()[scene]()
except (UserError, distributed.Lost) as error:  # What `jaxreid.main` does, which imports more.
    print(f"jaxreid: error: {distributed.name()}{error}", file=sys.stderr, flush=True)
    code = 2 if isinstance(error, UserError) else distributed.LOST
except Exception as error:
    distributed.give_up(error)
    raise
distributed.end(code)
sys.exit(code)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def begin(scene, shared, index, port, count=2):
    spec = f"localhost:{port},{count},{index}"
    return subprocess.Popen(
        [sys.executable, "-c", PEER, scene, spec, str(DEADLINE), str(shared)],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """`scene -> [(exit code, stdout, stderr), ...]` of its processes."""
    shared, running = tmp_path_factory.mktemp("shared"), {}
    (shared / "only-0").touch()
    scenes = ("meet", "differ", "die", "coordinator_dies", "crash", "be_wrong", "be_late")
    for scene in (*scenes, "get_stuck", "not_share"):
        port = free_port()
        running[scene] = [begin(scene, shared, i, port) for i in (0, 1)]
    running["alone"] = [begin("meet", shared, 1, free_port())]
    running["first_alone"] = [begin("meet", shared, 0, free_port())]

    def ended(scene):
        found = []
        for process in running[scene]:
            out, err = process.communicate(timeout=90)
            found.append((process.returncode, out, err))
        return found

    yield ended
    for process in itertools.chain(*running.values()):
        with process:  # Waits, and closes what nobody has read.
            process.kill()


def lines(err):
    return [line for line in err.splitlines() if line.startswith("jaxreid: ")]


@pytest.mark.slow
def test_processes_meet_and_agree(play):
    (code, out, err), (other_code, other_out, other_err) = play("meet")
    assert (code, other_code) == (0, 0)
    assert out.endswith("on stdout\n")
    assert "on stdout" not in other_out  # Only the first one prints.
    for me, said in enumerate((err, other_err)):
        no_one, one, values, turns, total, rows, seconds = json.loads(said.splitlines()[-1])
        assert (no_one, one) == (False, True)
        assert values == {"1": "I am 1"}
        assert turns == ["", "0"][me]
        assert total == 3
        assert rows == [3 * me, 3 * me + 3]
        assert seconds < 0.1  # Half a millisecond, on a machine with nothing else to do.


def test_a_process_that_differs_says_in_what(play):
    (code, _, err), (other_code, _, other_err) = play("differ")
    assert (code, other_code) == (2, 2)
    host = socket.gethostname()
    first, second = f"process 0 ({host})", f"process 1 ({host})"
    assert lines(other_err) == [
        f"jaxreid: error: {second}: differs from {first}, so all stop (seed: here 1, there 0)"
    ]
    assert lines(err) == [f"jaxreid: error: {first}: {second} differs from {first}, so all stop"]


def test_a_killed_process_is_missed_within_the_deadline(play):
    (code, _, err), (killed, _, _) = play("die")
    assert (code, killed) == (distributed.LOST, -signal.SIGKILL)
    assert "has been silent for 3 s, so all stop" in lines(err)[-1]


def test_without_the_coordinator_the_others_end(play):
    (killed, _, _), (code, _, err) = play("coordinator_dies")
    assert killed == -signal.SIGKILL
    # JAX aborts the process in this very moment, and may be the faster one.
    assert code in (distributed.LOST, -signal.SIGABRT)
    assert "is gone, so all stop" in err or "another task died" in err


def test_a_process_that_crashes_ends_the_others(play):
    (code, _, err), (crashed, _, its_err) = play("crash")
    assert (code, crashed) == (1, 1)
    assert "ZeroDivisionError: of the test" in its_err
    assert "stopped with exit code 1, so all stop" in lines(err)[-1]
    assert len(lines(err)) == 1


def test_bad_input_of_one_ends_all_with_its_exit_code(play):
    (code, _, err), (other_code, _, other_err) = play("be_wrong")
    assert (code, other_code) == (2, 2)
    assert lines(err)[-1].endswith(": the data is wrong")
    assert "stopped with exit code 2, so all stop" in other_err or "is gone" in other_err


def test_a_process_that_is_late_is_named(play):
    (code, _, err), (other_code, _, _) = play("be_late")
    assert (code, other_code) == (distributed.LOST, distributed.LOST)
    assert f"process 1 ({socket.gethostname()}) did not come to the test in 2 s" in lines(err)[-1]


def test_a_wait_within_a_library_has_a_limit_too(play):
    (code, _, _), (other_code, _, other_err) = play("get_stuck")
    assert (code, other_code) == (distributed.LOST, distributed.LOST)
    assert lines(other_err)[-1].endswith("so all stop")


def test_a_folder_that_is_not_shared(play):
    (code, _, _), (other_code, _, other_err) = play("not_share")
    assert (code, other_code) == (2, 2)
    assert "process 0 has written it and it is not here" in lines(other_err)[0]


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer(play):
    [(code, _, err)] = play("alone")
    assert code == distributed.LOST
    [line] = lines(err)
    assert "no answer from localhost:" in line
    assert line.endswith("in 15 s (Connection refused)")
    [(code, _, err)] = play("first_alone")
    assert code == distributed.LOST
    assert lines(err)[-1].endswith("not all 2 processes came in 15 s")


def test_one_process_agrees_with_itself():
    assert distributed.any_host(True)
    assert not distributed.any_host(False)
    assert distributed.gather("x", "the test") == {0: "x"}
    assert distributed.gather(None, "the test") == {}
    assert list(distributed.in_turn("the test")) == [None]
    assert distributed.is_first()
    assert distributed.name() == ""
    distributed.agree({"a": 1}, "the test")
    distributed.barrier("the test")
    distributed.require_shared(Path("nowhere"))
    distributed.end(3)
    distributed.give_up(ValueError())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("of", "expected auto, off, or the .* did you mean 'off'"),
        ("node1:8476,2", r"as in 10\.0\.0\.1:8476,2,0"),
        ("node1,2,0", "expected auto, off"),
        ("node1:99999,2,0", "expected auto, off"),
        ("node1:8476,2,2", "there is no process 2 of 2; they count from 0"),
    ],
)
def test_a_wrong_flag(spec, message):
    with pytest.raises(UserError, match=message):
        distributed.start(spec)


CLUSTERS = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX")


@pytest.fixture
def no_cluster(monkeypatch):
    for name in CLUSTERS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_cluster")
def test_a_single_process_starts_nothing(monkeypatch):
    def initialize(**_):
        raise AssertionError

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    start = time.perf_counter()
    for spec in ("auto", "off", "localhost:1,1,0"):
        distributed.start(spec)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.start("auto")
    assert time.perf_counter() - start < 0.1
    assert distributed.is_first()


@pytest.mark.usefixtures("no_cluster")
def test_clusters_are_found_by_what_they_set(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert distributed._parse("auto") == {"cluster_detection_method": "slurm"}
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    assert distributed._parse("auto") == {"cluster_detection_method": "ompi"}
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    with pytest.raises(UserError, match="this version of Open MPI does not say"):
        distributed.start("auto")
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert distributed._parse("auto") is None  # Any pod.
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match="the package 'kubernetes', which is missing"):
        distributed.start("auto")
