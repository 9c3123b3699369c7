"""Several processes against one, and 2, 4 and 8 devices against one: the same run?

    python -m benchmarks.hosts [--models=duatm,cosam --layouts=2x2,1x8 --steps=20]

Every model, tiny, is trained on small synthetic data and scored: by one process with one CPU
device, and by each other layout, `PxD` being P processes with D devices each. Printed are the
largest differences from the first: of parameters and statistics, as shares of the largest value of
their array where that is above 1, and of the scores.

They come of sums in another order, and training enlarges them: a step's are about 1e-7 of its
largest gradient, and after four steps of DuATM at a learning rate of 0.05 they are 2.5e-3, for four
devices of one process as for 2x2. So the rates are small here. `siamese-attention-cache` trains on
kept maps.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxreid.checkpoint import load_variables
from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import attention_driven, cosam, duatm, jst_rnn, siamese_attention
from jaxreid.synthetic.images import Spec, write_market
from jaxreid.synthetic.tracklets import VideoSpec, write_mars

REPOSITORY = Path(__file__).parent.parent
SIAMESE = siamese_attention.Config(
    backbone="googlenet_bn",
    backbone_width=8,
    kernels=(3, 3, 3),
    channels=(8, 8, 8),
    dropout=0.2,
)
MODELS: dict[str, Any] = {
    "duatm": duatm.Config(dim=16, backbone_layers=(1, 1, 1, 1), backbone_growth=4, backbone_stem=8),
    "attention-driven": attention_driven.Config(size=(64, 32), backbone_units=1, backbone_width=8),
    "cosam": cosam.Config(
        reduced=8,
        attention_features=16,
        hidden_features=16,
        backbone_layers=(1, 1, 1, 1),
        backbone_width=4,
    ),
    "jst-rnn": jst_rnn.Config(
        attention_features=8,
        hidden_features=8,
        srm_features=8,
        srm_hidden=4,
        metric_features=16,
        fc=32,
        backbone_widths=(8, 16, 16, 16, 16),
    ),
    "siamese-attention": SIAMESE,
    "siamese-attention-cache": SIAMESE,
}
IMAGES = ("duatm", "attention-driven")
PAIRS = ("siamese-attention", "siamese-attention-cache")
RATES = {"attention-driven": 1e-6}  # Its gradients are ten times the others'.
SIZES = {"jst-rnn": (72, 72), **dict.fromkeys(PAIRS, (96, 96))}


def get_config(model: str) -> Config:
    """A run of one of `MODELS`, on data that lies where the environment says."""
    folder = Path(os.environ["JAXREID_HOSTS_DATA"])
    images = model in IMAGES
    pairs = model in PAIRS
    data = Data(
        name="synthetic" if images else "synthetic_video",
        root=str(folder / ("market" if images else "mars")),
        source="memory",
        image_size=SIZES.get(model, (64, 32)),
        num_ids=2 if pairs else 4,
        num_instances=4 if pairs else 2,
        sampling="pairs" if pairs else "identity",
        clip_length=None if images else 2,
        joints="joints.npz" if model == "attention-driven" else None,
        flip=model != "attention-driven",
        enlarge=1.0 if model == "attention-driven" else 1.125,
    )
    optim = Optim(lr=RATES.get(model, 1e-5), weight_decay=0.0)
    if model.endswith("-cache"):
        optim.frozen_epochs = None
        data.enlarge = 1.0
    return Config(
        model=MODELS[model],
        data=data,
        optim=optim,
        train=Train(steps=20, log_every=1, checkpoint_every=1000, from_scratch=True),
        eval=Eval(batch_size=16, query_block=4, gallery_block=16, pictures=1),
    )


def run(model: str, layout: str, folder: Path, steps: int) -> tuple[Any, dict[str, Any], float]:
    """Variables, scores and seconds of a run."""
    processes, devices = layout.split("x")
    workdir = folder / f"{model}-{layout}"
    flags = [f"--config=benchmarks/hosts.py:{model}", f"--workdir={workdir}"]
    flags += [f"--config.train.steps={steps}"]
    if model.endswith("-cache"):
        flags += [f"--config.data.cache={workdir}-cache"]
    command = [sys.executable, "-m", "jaxreid.main", *flags]
    if processes != "1":
        launch = ["launch/local.py", f"--processes={processes}", f"--devices-per-process={devices}"]
        command = [sys.executable, *launch, "--", *flags]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": devices,
        "JAXREID_HOSTS_DATA": str(folder),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # Compiling is most of the time.
    }
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    scores = json.loads((workdir / "eval" / "metrics.json").read_text())
    return load_variables(workdir), scores, time.perf_counter() - start


def apart(a: Any, b: Any) -> float:
    """The largest difference of two trees of numbers, of large ones as a share."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return max(float(np.abs(x - y).max() / max(1, np.abs(x).max())) for x, y in pairs)


def figures(scores: dict[str, Any]) -> dict[str, float]:
    """Those of the scores that are fractions."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--layouts", default="1x2,1x4,1x8,2x2")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few: dict[str, Any] = {"num_train_ids": 10, "num_test_ids": 4, "height": 64, "width": 32}
        images = Spec(**few, cameras=3, images_per_camera=2, cameras_per_id=(2, 3))
        video = VideoSpec(**few, cameras=2, tracklets_per_camera=(2, 2), frames=(3, 7))
        write_market(folder / "market", images, processes=1)
        write_mars(folder / "mars", video, processes=1)
        print(f"{args.steps} steps and a scoring against 1x1, largest differences")
        print(f"{'model':24}{'layout':>8}{'variables':>12}{'scores':>12}{'seconds':>10}")
        for model in args.models.split(","):
            variables, scores, seconds = run(model, "1x1", folder, args.steps)
            print(f"{model:24}{'1x1':>8}{'':12}{'':12}{seconds:10.1f}", flush=True)
            for layout in args.layouts.split(","):
                there, theirs, seconds = run(model, layout, folder, args.steps)
                far = apart(variables, there), apart(figures(scores), figures(theirs))
                print(
                    f"{model:24}{layout:>8}{far[0]:12.1e}{far[1]:12.1e}{seconds:10.1f}", flush=True
                )


if __name__ == "__main__":
    main()
