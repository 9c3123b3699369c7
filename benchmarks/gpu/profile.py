"""The ten costliest kernels of a training step of DuATM and of COSAM, by `jax.profiler`."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu.figures import Figures
from benchmarks.gpu.step import CONFIGS
from benchmarks.train_step import measure
from jaxreid.command import load_config
from tests.networks import MODELS, SIZES

TOP = 10


def run(figures: Figures) -> None:
    """Traces some steps in half precision."""
    for name in ("duatm_market", "cosam_mars")[: 1 if figures.tiny else 2]:
        config = load_config(name)
        config.train.precision = "bfloat16"
        if figures.tiny:
            models: dict[str, Any] = MODELS
            config.model = models[CONFIGS[name]]
            config.data.image_size, config.data.num_ids = SIZES.get(CONFIGS[name], (64, 32)), 2
        steps = 2 if figures.tiny else 5
        with tempfile.TemporaryDirectory() as folder:
            measure(config, 751, steps, trace=folder)
            busy = kernels(Path(folder))
        total = sum(busy.values())
        figures.add(f"{name}: kernels of a step", 1e-6 * total / steps, "ms")
        for kernel, nanoseconds in busy.most_common(TOP):
            share = f"{nanoseconds / total:.1%} of all"
            figures.add(f"{name}: {kernel[:100]}", 1e-6 * nanoseconds / steps, "ms", note=share)


def kernels(folder: Path) -> Counter[str]:
    """Nanoseconds of each kernel on the GPU's streams; without a GPU, on the host's XLA threads."""
    (file,) = folder.rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    of_gpu = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    busy: Counter[str] = Counter()
    for plane in of_gpu or planes:
        for line in plane.lines:
            if not (line.name.startswith("Stream") if of_gpu else "XLA" in line.name):
                continue
            for event in line.events:
                busy[event.name] += int(event.duration_ns)
    return busy
