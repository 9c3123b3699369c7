"""A whole run of the command on drawn photographs of Market-1501's size, beside the bare step."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import Figures
from benchmarks.train_step import measure
from jaxreid.command import load_config
from jaxreid.logs import read_metrics
from jaxreid.synthetic.images import Spec, write_market

TINY = (
    *("--config.model.dim=16", "--config.model.backbone_layers=1,1,1,1"),
    *("--config.model.backbone_growth=4", "--config.model.backbone_stem=8"),
    *("--config.data.num_instances=2", "--config.eval.batch_size=16"),
)


def run(figures: Figures) -> None:
    """Scores DuATM untrained, trains it in half precision, and scores it again."""
    height, width, steps = (64, 32, 20) if figures.tiny else (256, 128, 600)
    # Half as many training persons as Market-1501 has, since drawing takes long.
    persons: dict[str, Any] = {
        "num_train_ids": 10,
        "num_test_ids": 4,
        "num_distractors": 5,
        "num_junk": 2,
    }
    if not figures.tiny:
        persons = {"num_train_ids": 375, "num_test_ids": 100, "num_distractors": 300}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        market = write_market(Path(folder, "market"), Spec(height=height, width=width, **persons))
        images = sum(1 for _ in market.rglob("*.jpg"))
        figures.add("drawing", time.perf_counter() - start, "s", note=f"{images} images")
        options = [
            *("--config=duatm_synthetic", f"--config.data.root={market}"),
            *("--config.data.source=memory", f"--config.data.image_size={height},{width}"),
            f"--config.data.num_ids={4 if figures.tiny else 10}",
            "--config.train.precision=bfloat16",
            *(f"--config.train.steps={steps}", f"--config.train.log_every={steps // 10}"),
            *(f"--config.train.checkpoint_every={steps}", "--config.data.check=False"),
            *("--config.eval.pictures=4", *(TINY if figures.tiny else ())),
        ]
        for name, mode in (("untrained", "evaluate"), ("trained", "train_and_evaluate")):
            workdir = Path(folder, name)
            command = [sys.executable, "-m", "jaxreid.main", *options]
            start = time.perf_counter()
            subprocess.run([*command, f"--workdir={workdir}", f"--mode={mode}"], check=True)
            what = f"{name}: the whole command"
            figures.add(what, time.perf_counter() - start, "s", note="imports and compiling too")
            scores = json.loads((workdir / "eval" / "metrics.json").read_text())
            for key in ("rank1", "mAP"):
                figures.add(f"{name}: {key}", 100 * scores[key], "%", note="drawn pedestrians")
        rates = [line["images_per_s"] for line in read_metrics(workdir / "metrics.jsonl")]
        rates = [rate for rate in rates if rate][1:]  # The first one holds the compiling.
        rate = statistics.median(rates)
        figures.add("trained: end to end", rate, "images/s", (min(rates), max(rates)))
    if figures.tiny:
        return
    config = load_config("duatm_synthetic")
    config.data.image_size, config.data.num_ids = (height, width), 10
    config.train.precision = "bfloat16"
    bare = measure(config, persons["num_train_ids"], 20)
    alone = bare.images / statistics.median(bare.seconds)
    figures.add("bare step", alone, "images/s", note="the batch lies on the device")
    figures.add("trained: share of the bare step", 100 * rate / alone, "%")
