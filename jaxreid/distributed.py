"""Many processes as one run: how they find each other, agree, and end together.

JAX's own runtime joins them. What it leaves open is the ending: by itself a process whose peer has
died waits in a collective for 100 seconds and is then aborted, one that stops with an error waits
five minutes for the others at the exit, and one whose coordinator does not answer is aborted, too.
So here every wait has a deadline, every process sends beats, and one that stops says so to the
others, which stop with its exit code.

All of this goes through the coordinator's key-value store, on threads of the host: the devices
are not asked, and nothing waits for a step that is under way. On one process nothing is started,
and every function returns at once.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp

from jaxreid.errors import Lost, UserError, nearest

DEADLINE = 60.0  # seconds for which a process may be silent before the others give it up
_START = 5  # deadlines for all to come: nodes boot, images are pulled
_PATIENCE = 30  # deadlines at a meeting for one that is alive: it may be reading, or compiling
_BEATS = 10  # in a deadline
_GRACE = 10.0  # seconds that the coordinator stays, for the others to hear why
LOST = Lost.exit_code

_ROOM = "jaxreid"
_NOTICE, _BEAT, _GONE, _SAID = (f"{_ROOM}/{name}" for name in ("notice", "beat", "gone", "said"))


def start(spec: str = "auto", deadline: float = DEADLINE) -> None:
    """Joins the processes of the run. To be called before JAX is asked for its devices.

    Afterwards only process 0 writes to stdout. With one process nothing is changed.

    Args:
        spec: `off`; `HOST:PORT,N,I`, the coordinator's address, which is process 0's, the number
            of processes, and which of them this is; or `auto`, as SLURM, Open MPI or Kubernetes
            says, and a single process elsewhere.
        deadline: seconds for which a process may be silent before the others give it up. All
            have five times as long to come, and thirty times to reach a meeting.

    Raises:
        UserError: `spec` is none of these, or the cluster does not say enough.
    """
    global _hosts
    how = _parse(spec)
    if how is None:
        return
    # Else it takes SIGTERM from the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    logging.getLogger("jax").setLevel(logging.WARNING)  # It tells how it goes about it.
    with _or_exit(_START * deadline, lambda: _absent(spec, how, _START * deadline)):
        try:
            jax.distributed.initialize(
                **how,
                # At its own limits JAX aborts the process: for when Python itself is stuck.
                initialization_timeout=int(2 * _START * deadline),
                heartbeat_timeout_seconds=int(2 * deadline + 2 * _GRACE),
                shutdown_timeout_seconds=int(deadline),
            )
        except (ValueError, RuntimeError, OSError) as error:
            words = " ".join(str(error).split())
            raise UserError(
                f"--distributed={spec}: cannot start ({words}); expected HOST:PORT,N,I"
            ) from None
        if jax.process_count() > 1:
            _hosts = _Hosts(deadline)
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return _hosts is None or _hosts.index == 0


def name() -> str:
    """`"process 1 (node7): "` among several, to begin a message with; else nothing."""
    return "" if _hosts is None else f"{_hosts.names[_hosts.index]}: "


def barrier(what: str, seconds: float | None = None) -> None:
    """Waits until all processes are here.

    Args:
        what: this place, in words, for the message.
        seconds: how long; by default thirty deadlines.

    Raises:
        Lost: one did not come in time.
    """
    gather(None, what, seconds)


def in_turn(what: str, seconds: float = 7 * 24 * 3600.0) -> Iterator[None]:
    """The body of a loop over this runs once in each process, one after another.

    Args:
        what: it does, in words, for the message.
        seconds: that one of them may take, as long as it is alive.

    Raises:
        Lost: one did not come in time.
    """
    for turn in range(1 if _hosts is None else _hosts.count):
        if _hosts is None or turn == _hosts.index:
            yield
        barrier(what, seconds)


def any_host(flag: bool, what: str = "the next step") -> bool:
    """Whether any process says so: all of them get the same answer.

    Two calls to the coordinator, half a millisecond on one machine, and no device is asked: cheap
    enough for every step. Called before a step is handed to the devices, it costs nothing at all,
    as they are at work on the step before; and no process can then wait in that step's
    collectives for another which has no data for it.

    Args:
        flag: what this process says.
        what: this place, in words, for the message.

    Raises:
        Lost: one did not come in time.
    """
    return flag if _hosts is None else bool(gather("1" if flag else None, what))


def gather(value: str | None, what: str, seconds: float | None = None) -> dict[int, str]:
    """What every process says here, by its index; None says nothing.

    Args:
        value: what this process says.
        what: this place, in words, for the message.
        seconds: how long to wait for the others; by default thirty deadlines.

    Raises:
        Lost: one did not come in time.
    """
    if _hosts is None:
        return {} if value is None else {0: value}
    return _hosts.gather(value, what, seconds or _PATIENCE * _hosts.deadline)


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Stops all processes if the block takes longer than thirty deadlines.

    For what waits for the others in a way of its own, as a checkpointer does.

    Args:
        what: the block does, in words, for the message.
    """
    if _hosts is None:
        yield
        return
    seconds = _PATIENCE * _hosts.deadline
    message = f"{name()}{what} has taken {seconds:g} s, so all stop"
    with _or_exit(seconds, lambda: message, _hosts.leave):
        yield


def agree(facts: Mapping[str, Any], what: str) -> None:
    """Makes sure that all processes hold the same facts, and stops all of them if not.

    Args:
        facts: anything that JSON can hold, by name.
        what: the facts, in words.

    Raises:
        UserError: they do not. Where it is this process that differs from process 0, it says in
            what.
        Lost: one did not come in time.
    """
    if _hosts is None:
        return
    mine = {key: json.dumps(value, default=str) for key, value in facts.items()}
    said = {i: json.loads(text) for i, text in gather(json.dumps(mine), what).items()}
    first = said[0]

    def differing(theirs: dict[str, str]) -> list[str]:
        keys = sorted(theirs.keys() | first.keys())
        return [key for key in keys if theirs.get(key) != first.get(key)]

    if keys := differing(mine):
        words = "; ".join(
            f"{key}: here {mine.get(key, 'nothing')}, there {first.get(key, 'nothing')}"
            for key in keys
        )
        raise UserError(f"differs from {_hosts.names[0]}, so all stop ({words})")
    if others := [_hosts.names[i] for i, theirs in said.items() if differing(theirs)]:
        raise UserError(f"{', '.join(others)} differs from {_hosts.names[0]}, so all stop")


def require_shared(path: Path) -> None:
    """Makes sure that every process sees a file that process 0 has just written.

    Raises:
        UserError: this one does not: its folder is another one.
        Lost: one did not come in time.
    """
    if _hosts is None:
        return
    barrier(f"{path}")
    until = time.monotonic() + _hosts.deadline  # Network file systems are late now and then.
    while not path.exists():
        if time.monotonic() > until:
            raise UserError(
                f"{path}: process 0 has written it and it is not here; the folder of the run"
                " must be one that all processes share"
            )
        time.sleep(0.1)


def end(code: int) -> None:
    """Ends this process's part. With code 0 it waits for the others; else they stop, too.

    Args:
        code: exit code of this process.
    """
    if _hosts is None:
        return
    if code:
        _hosts.leave(code)
    try:
        barrier("the end")
    except Lost as lost:
        print(f"jaxreid: error: {name()}{lost}", file=sys.stderr)
        _hosts.leave(LOST)
    _hosts.close()


def give_up(error: BaseException) -> None:
    """Ends the run for all processes on an error that nobody foresaw.

    A collective that fails has most often lost a peer: who that is, the beats tell soon.
    """
    if _hosts is None:
        return
    if isinstance(error, jax.errors.JaxRuntimeError):
        words = str(error).splitlines()[0]
        print(f"jaxreid: {name()}{words}; looking for who is gone", file=sys.stderr, flush=True)
        time.sleep(1.5 * _hosts.deadline)
    traceback.print_exception(error)
    _hosts.leave(1)


class _Hosts:
    """This process among the others."""

    def __init__(self, deadline: float) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self.deadline = deadline
        self.client = ocp.multihost.get_jax_distributed_client()
        self.names = [f"process {i}" for i in range(self.count)]
        self._rounds = 0
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._beat, self._listen)
        ]
        for thread in self._threads:
            thread.start()
        names = self.gather(socket.gethostname(), "the start", _START * deadline)
        self.names = [f"process {i} ({names[i]})" for i in range(self.count)]

    def gather(self, value: str | None, what: str, seconds: float) -> dict[int, str]:
        self._rounds += 1
        here = f"{_SAID}/{self._rounds}/"
        try:
            if value is not None:
                self.client.key_value_set(f"{here}{self.index}", value)
            # One name for all: the coordinator keeps a record of each name for good.
            self.client.wait_at_barrier(_ROOM, int(1000 * seconds))
            said = self._read(here)
            # All are past the last meeting, or they would not have come to this one.
            self.client.key_value_delete(f"{_SAID}/{self._rounds - 1}/{self.index}")
        except jax.errors.JaxRuntimeError as error:
            raise Lost(self._missing(what, seconds, error)) from None
        return {int(key): text for key, text in said.items()}

    def leave(self, code: int, dead: int = 0) -> NoReturn:
        """Tells the others, of whom some may be dead, and ends without waiting for their work."""
        self._ending.set()
        notice = json.dumps({"who": self.names[self.index], "code": code})
        # It fails if another one stops, too, and was faster; or if the coordinator is gone.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.client.key_value_set(_NOTICE, notice)
        self._exit(code, dead)

    def close(self) -> None:
        """The orderly end, at which all are."""
        self._ending.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another one was faster.
            self.client.key_value_set(_NOTICE, json.dumps(None))
        for thread in self._threads:
            thread.join(self.deadline)
        jax.distributed.shutdown()

    def _exit(self, code: int, dead: int = 0) -> NoReturn:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.client.key_value_set(f"{_GONE}/{self.index}", "")
            # The notice is in the coordinator's memory: it goes last.
            until = time.monotonic() + _GRACE
            while self.index == 0 and len(self._read(f"{_GONE}/")) < self.count - dead:
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # An ordinary exit would wait for the others.

    def _listen(self) -> None:
        """Waits for one process to stop, and ends this one."""
        me = self.names[self.index]
        try:
            notice = json.loads(self.client.blocking_key_value_get(_NOTICE, 2**31 - 1))
        except jax.errors.JaxRuntimeError:
            # In a moment JAX aborts the process, with a message that does not name it.
            if not self._ending.is_set():
                os.write(2, f"jaxreid: {me}: {self.names[0]} is gone, so all stop\n".encode())
                os._exit(LOST)
            return
        if notice is None or self._ending.wait(1.0):  # It may be stopping for the same reason.
            return
        say = f"{notice['who']} stopped with exit code {notice['code']}, so all stop"
        print(f"jaxreid: {me}: {say}", file=sys.stderr, flush=True)
        self._exit(notice["code"])

    def _beat(self) -> None:
        """Says that this process is alive, and sees whether the others do."""
        last: dict[str, str] = {}
        silent = {str(i): 0 for i in range(self.count)}
        for beat in itertools.count():
            try:
                self.client.key_value_set(
                    f"{_BEAT}/{self.index}", f"{beat} {self._rounds}", allow_overwrite=True
                )
                beats = self._read(f"{_BEAT}/")
            except jax.errors.JaxRuntimeError:
                return  # The one that listens has noticed, too.
            # Counted in beats of our own: a machine that slept has not been waiting meanwhile.
            for i in silent:
                silent[i] = silent[i] + 1 if beats.get(i) == last.get(i) else 0
            last = beats
            if dead := [self.names[int(i)] for i, count in silent.items() if count > _BEATS]:
                say = f"{', '.join(dead)} has been silent for {self.deadline:g} s, so all stop"
                print(f"jaxreid: {name()}{say}", file=sys.stderr, flush=True)
                self.leave(LOST, len(dead))
            if self._ending.wait(self.deadline / _BEATS):
                return

    def _missing(self, what: str, seconds: float, error: Exception) -> str:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            rounds = {int(i): int(beat.split()[1]) for i, beat in self._read(f"{_BEAT}/").items()}
            late = [self.names[i] for i, there in rounds.items() if there < self._rounds]
            if late:
                return f"{', '.join(late)} did not come to {what} in {seconds:g} s, so all stop"
        return f"waiting at {what} failed: {str(error).splitlines()[0]}"

    def _read(self, folder: str) -> dict[str, str]:
        found = self.client.key_value_dir_get(folder)
        return {key.removeprefix(folder): value for key, value in found}


_hosts: _Hosts | None = None


def _parse(spec: str) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None for a single process."""
    if spec == "off":
        return None
    if spec == "auto":
        return _detect()
    match = re.fullmatch(r"(?P<address>\S+:(?P<port>\d+)),(?P<count>\d+),(?P<index>\d+)", spec)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise UserError(
            f"--distributed={spec}: expected auto, off, or the coordinator's address, the number of"
            " processes and which of them this is, as in 10.0.0.1:8476,2,0"
            f"{nearest(spec, ('auto', 'off'))}"
        )
    count, index = int(match["count"]), int(match["index"])
    if index >= count:
        raise UserError(
            f"--distributed={spec}: there is no process {index} of {count}; they count from 0"
        )
    if count == 1:
        return None
    return {
        "coordinator_address": match["address"],
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _detect() -> dict[str, Any] | None:
    """What starts several processes here, by the variables that it sets for each."""
    there = os.environ
    if "SLURM_STEP_NODELIST" in there and int(there.get("SLURM_NTASKS", "1")) > 1:
        return {"cluster_detection_method": "slurm"}
    if int(there.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        if "OMPI_MCA_orte_hnp_uri" in there:
            return {"cluster_detection_method": "ompi"}
        raise UserError(
            "--distributed=auto: this version of Open MPI does not say where process 0 is;"
            " expected --distributed=HOST:PORT,$OMPI_COMM_WORLD_SIZE,$OMPI_COMM_WORLD_RANK"
        )
    if "KUBERNETES_SERVICE_HOST" in there and "JOB_COMPLETION_INDEX" in there:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                import kubernetes  # type: ignore[import-not-found]  # noqa: F401
            except ImportError:
                raise UserError(
                    "--distributed=auto: in an indexed Job of Kubernetes, JAX asks the cluster for"
                    " the other processes by the package 'kubernetes', which is missing; expected"
                    " --distributed=HOST:PORT,N,$JOB_COMPLETION_INDEX, or off"
                ) from None
        return {"cluster_detection_method": "k8s"}
    return None


@contextlib.contextmanager
def _or_exit(
    seconds: float, message: Callable[[], str], leave: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """Ends the process with a message if the block takes longer."""

    def stop() -> None:
        print(f"jaxreid: error: {message()}", file=sys.stderr, flush=True)
        leave(LOST)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _absent(spec: str, how: Mapping[str, Any], seconds: float) -> str:
    """Who has not come to the start."""
    address, count = how.get("coordinator_address"), how.get("num_processes")
    if address and how["process_id"]:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            reason = error.strerror or error
            return f"--distributed={spec}: no answer from {address} in {seconds:g} s ({reason})"
    return f"--distributed={spec}: not all {count or ''} processes came in {seconds:g} s".replace(
        "  ", " "
    )
