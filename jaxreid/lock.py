"""One run at a time in a workdir."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxreid import distributed
from jaxreid.errors import UserError

NAME = "lock"


@contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir; of the processes of one run, the first does.

    The kernel's lock (`flock`) on `workdir/lock` goes with the process, however that ends; what
    the file says is for people alone. On NFS it holds between hosts, unless the folder is mounted
    with `nolock` or `local_lock`, and on Lustre with the option `flock` only: elsewhere it keeps
    processes of one host apart, or there is none, and that is said. Of a host that is lost, an NFS
    server keeps the lock for a minute or two.

    A folder that was made for the lock, and has got nothing else by the end, is removed.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
    """
    if not distributed.is_first():
        yield
        return
    path = workdir / NAME
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except BlockingIOError:
        raise UserError(
            f"--workdir={workdir}: {_holder(path)} is at work there; wait for it, or give another"
            " --workdir"
        ) from None
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot write there ({error.strerror})") from None
    try:
        yield
    finally:
        with suppress(OSError):  # The folder is gone, or another process was faster.
            if os.listdir(workdir) == [NAME]:
                path.unlink()
                workdir.rmdir()
        os.close(file)


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise
        except OSError as error:
            print(f"{path}: no lock can be had there ({error.strerror}), so none is", flush=True)
        # The one that held it may have removed it meanwhile.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                break
        os.close(file)
    with suppress(OSError):  # The disk is full.
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    return file


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
