"""Whether a run that is killed and started again ends with the same bits, and what that costs.

The compiled programs are kept between the starts, and with them what was autotuned.
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import kills
from benchmarks.gpu.figures import Figures

DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops=true"
"""XLA refuses programs that have no deterministic kernel, and takes one for all others."""


def run(figures: Figures) -> None:
    """Kills a tiny run with the flag and without it; then times a step in either way."""
    number, steps = (1, 20) if figures.tiny else (5, 100)
    ways = {"deterministic": DETERMINISTIC, "default": ""}
    for name, flags in list(ways.items())[: 1 if figures.tiny else 2]:
        with tempfile.TemporaryDirectory() as folder:
            environment = environment_of(flags, folder)
            same = kills.compare(Path(folder), number, steps, random.Random(0), environment)
        for what, equal in same.items():
            figures.add(f"{name} kernels, {number} kills: {what}", equal)
    if figures.tiny:
        return  # The networks of the papers' configs take minutes to compile on a CPU.
    for name, flags in ways.items():
        for config in ("duatm_market", "cosam_mars"):
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.train_step", "--precision=bfloat16"),
                    f"--config=configs/{config}.py",
                ],
                env=environment_of(flags),
                capture_output=True,
                text=True,
                check=False,
            )
            line = next((x for x in done.stdout.splitlines() if x.startswith("step ")), None)
            what = f"{config}, bfloat16, {name} kernels: step"
            if line is None:
                figures.add(what, "failed", note=done.stderr.strip().splitlines()[-1][:200])
            else:
                figures.add(what, 1e3 * float(line.split()[1]), "ms")


def environment_of(flags: str, cache: str | None = None) -> dict[str, str]:
    """This process's environment, with XLA's flags and a folder for what is compiled."""
    found = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    if cache is not None:
        found |= {"XDG_CACHE_HOME": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return found
