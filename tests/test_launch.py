"""Launchers: two processes with two devices each are one process with one, also over a resume."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from jaxreid import main, sharding
from jaxreid.checkpoint import load_variables

REPOSITORY = Path(__file__).parent.parent
STEPS = 4
CONFIG = """
from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import duatm


def get_config():
    return Config(
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
        # Training enlarges what rounding leaves: at a large rate by a thousand in these steps.
        optim=Optim(lr=1e-3),
        train=Train(steps={steps}, log_every=1, checkpoint_every=2),
        eval=Eval(batch_size=8, query_block=4, gallery_block=8, pictures=3, shortlist=4),
    )
"""


def environment(**more):
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **more,
    }


def in_this_process(config_file, workdir):
    """The run on one device."""
    spec = importlib.util.spec_from_file_location("tiny_config", config_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    one = sharding.make_mesh(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda devices=None: one)
        return main.run(module.get_config(), workdir)


def assert_same_run(a, b):
    """Parameters, statistics and scores; and every step once."""
    one, other = load_variables(a), load_variables(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one, other)
    ours, theirs = (json.loads((at / "eval" / "metrics.json").read_text()) for at in (a, b))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name] == (pytest.approx(value, abs=1e-5) if type(value) is float else value)
    for workdir in (a, b):
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


def cut(workdir, copy):
    """The folder as a run leaves it that was killed after step 2."""
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    shutil.rmtree(copy / "eval")
    (copy / "report.md").unlink()
    return copy


@pytest.fixture(scope="module")
def config_file(market, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG.format(root=str(market), steps=STEPS))
    return path


@pytest.fixture(scope="module")
def one(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    in_this_process(config_file, workdir)
    return workdir


@pytest.fixture(scope="module")
def two(config_file, tmp_path_factory):
    """By launch/local.py: the folder, and what was said."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    launch = ["launch/local.py", "--processes=2", "--devices-per-process=2", "--"]
    done = subprocess.run(
        [sys.executable, *launch, f"--config={config_file}", f"--workdir={workdir}"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.mark.slow
def test_two_processes_are_one(one, two):
    workdir, done = two
    assert_same_run(one, workdir)
    # The first process alone prints, and nobody complains.
    assert done.stdout.count("starts from scratch") == 1
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if "loss" in line] == [
        f"step {step}/{STEPS}" for step in range(1, STEPS + 1)
    ]
    assert "report: " in done.stdout
    assert (workdir / "report.md").is_file()
    assert done.stderr == ""


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(config_file, one, two, tmp_path, capsys):
    workdir = cut(two[0], tmp_path / "run")
    in_this_process(config_file, workdir)
    assert f"resumed from step 2 of {STEPS}" in capsys.readouterr().out
    assert_same_run(one, workdir)


SRUN = """#!/bin/bash
# Two tasks on this host; flags of srun come first.
while [[ "$1" == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & tasks[i]=$!; done
trap 'again=yes; kill -USR1 "${tasks[@]}"' USR1
highest=0
for i in 0 1; do
    while again=; wait "${tasks[i]}"; code=$?; [ -n "$again" ]; do :; done
    [ $code -le $highest ] || highest=$code
done
exit $highest
"""


def slurm(tmp_path, python, **more):
    """What runs the body of launch/slurm.sbatch, and the file that takes what it asks of SLURM."""
    tools, asked = tmp_path / "bin", tmp_path / "asked"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", f'#!/bin/bash\necho "$@" >> {asked}\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    while True:
        job = int(np.random.default_rng().integers(4096))
        with socket.socket() as probe:  # JAX takes the port from the job's number.
            if probe.connect_ex(("localhost", job % 4096 + 65535 - 4095)):
                break
    variables = environment(
        PATH=f"{tools}:{os.environ['PATH']}",
        PYTHON=str(python),
        SLURM_JOB_ID=str(job),
        SLURM_SUBMIT_DIR=str(REPOSITORY),
        **more,
    )
    return variables, asked, job


@pytest.mark.slow
def test_slurm_takes_up_a_run_of_one_process(config_file, one, tmp_path):
    workdir = cut(one, tmp_path / "run")
    variables, asked, _ = slurm(tmp_path, sys.executable, JAX_NUM_CPU_DEVICES="2")
    done = subprocess.run(
        ["bash", "launch/slurm.sbatch", f"--config={config_file}", f"--workdir={workdir}"],
        env=variables,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"resumed from step 2 of {STEPS}" in done.stdout
    assert_same_run(one, workdir)
    assert not asked.exists()


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (2, False), (75, True), (134, True), (143, False)]
)
def test_what_slurm_puts_back_into_the_queue(tmp_path, code, requeued):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\nexit {code}\n")
    python.chmod(0o755)
    variables, asked, job = slurm(tmp_path, python)
    done = subprocess.run(["bash", "launch/slurm.sbatch"], env=variables, cwd=REPOSITORY)
    assert done.returncode == code
    assert asked.exists() == requeued
    if requeued:
        assert asked.read_text() == f"requeue {job}\n"


def wait_for(path):
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


def waiting_python(tmp_path, number, code):
    """A stand-in for Python: leaves its arguments, and a signal ends it with a code."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\n"
        f"trap 'kill $pid; exit {code}' {number}\n"
        "sleep 60 >/dev/null 2>&1 & pid=$!\n"
        f'echo "$@" > {tmp_path}/started.$$.new; mv {tmp_path}/started.$$.new '
        f"{tmp_path}/started-${{SLURM_PROCID:-${{@: -1}}}}\n"
        "wait $pid\n"
    )
    python.chmod(0o755)
    return python


def test_slurm_warns_before_the_time_is_up(tmp_path):
    variables, asked, job = slurm(tmp_path, waiting_python(tmp_path, "USR1", 143))
    body = subprocess.Popen(["bash", "launch/slurm.sbatch", "--x"], env=variables, cwd=REPOSITORY)
    for i in (0, 1):
        wait_for(tmp_path / f"started-{i}")
    body.send_signal(signal.SIGUSR1)
    assert body.wait(30) == 143
    assert asked.read_text() == f"requeue {job}\n"
    assert (tmp_path / "started-1").read_text() == "-m jaxreid.main --distributed=auto --x\n"


def test_ssh_starts_one_process_on_each_host_and_passes_signals_on(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ssh").write_text('#!/bin/bash\nexec bash -c "${@: -1}"\n')
    (tools / "ssh").chmod(0o755)
    python = waiting_python(tmp_path, "TERM", 143)
    python.write_text(python.read_text().replace("${@: -1}", "${3##*,}"))
    variables = environment(
        PATH=f"{tools}:{os.environ['PATH']}",
        PYTHON=str(python),
        USER="tester",
        PORT=str(os.getpid() % 50000 + 1024),  # It is in the names of the files for the signals.
    )
    arguments = ["user@node1", "node2", "--", "--config=my file.py", "--workdir=x"]
    script = subprocess.Popen(
        ["launch/ssh.sh", *arguments],
        env=variables,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    for i in (0, 1):
        wait_for(tmp_path / f"started-{i}")
        assert (tmp_path / f"started-{i}").read_text() == (
            f"-m jaxreid.main --distributed=node1:{variables['PORT']},2,{i}"
            " --config=my file.py --workdir=x\n"
        )
    script.send_signal(signal.SIGTERM)
    _, err = script.communicate(timeout=30)
    assert script.returncode == 143
    assert err == "".join(
        f"launch/ssh.sh: {host} ended with code 143\n" for host in ("user@node1", "node2")
    )
    done = subprocess.run(["launch/ssh.sh", "node1"], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 2


@pytest.fixture
def local():
    spec = importlib.util.spec_from_file_location("local", REPOSITORY / "launch" / "local.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_local_processes_do_not_outlive_a_failure(local, capfd):
    running = {
        i: subprocess.Popen(["sh", "-c", line]) for i, line in enumerate(["sleep 60", "exit 3"])
    }
    processes, start = list(running.values()), time.monotonic()
    assert local.wait(running, grace=0.2) == 3
    assert time.monotonic() - start < 20
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 3]
    assert capfd.readouterr().err.splitlines()[:2] == [
        "launch/local.py: process 1 ended with code 3",
        "launch/local.py: process 0 is killed",
    ]


def test_local_processes_have_a_gpu_each(local, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local.environment(2, None) == {"CUDA_VISIBLE_DEVICES": "2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert local.environment(1, None) == {"CUDA_VISIBLE_DEVICES": "7"}
    with pytest.raises(SystemExit, match="CUDA_VISIBLE_DEVICES=4,7 has no GPU for process 2"):
        local.environment(2, None)
    assert local.environment(1, 2) == {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}


KUBERNETES = list(yaml.safe_load_all((REPOSITORY / "launch" / "kubernetes.yaml").read_text()))


def test_pods_know_each_other_and_their_number():
    service, job = KUBERNETES
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    variables = {each["name"]: each for each in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(variables["COUNT"]["value"])
    path = variables["INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    port = service["spec"]["ports"][0]["port"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f'--distributed="{first}:{port},$COUNT,$INDEX" $FLAGS' in container["args"][0]
    # With bad input the Job ends; after anything else its pods start again.
    fails = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert [rule["onExitCodes"]["values"] for rule in fails] == [[2]]
    assert pod["restartPolicy"] == "Never"
