"""The package from Python, from drawn pictures to a ranking, in about a minute on two cores.

    python docs/examples/walkthrough.py runs/walkthrough

The network is tiny and takes few steps, so its scores are poor. A test runs this file.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from jaxreid import main
from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.losses import batch_hard_triplet
from jaxreid.metrics import evaluate_rank
from jaxreid.models import duatm
from jaxreid.ops import FeatureSequence, attend, dual_attention_distmat
from jaxreid.search import Extractor
from jaxreid.synthetic.images import Spec, write_market


def walk(folder: Path) -> None:
    """Draws, trains, scores and searches below `folder`, and calls a few pure functions."""
    # 1. A data set: real JPEG files in Market-1501's layout.
    spec = Spec(
        num_train_ids=8,
        num_test_ids=4,
        cameras=2,
        cameras_per_id=(2, 2),
        images_per_camera=3,
        num_distractors=4,
        num_junk=0,
    )
    root = write_market(folder / "data", spec)

    # 2. A run: a dataclass holds every choice, and the method is one of its fields.
    config = Config(
        model=duatm.Config(
            dim=16, backbone_layers=(1, 1, 1, 1), backbone_growth=4, backbone_stem=8
        ),
        data=Data(
            name="synthetic",
            root=str(root),
            source="memory",  # Pillow reads the files; TensorFlow is not needed.
            image_size=(64, 32),
            num_ids=4,
            num_instances=2,
        ),
        optim=Optim(name="adam", lr=1e-3),
        train=Train(steps=40, log_every=20),
        eval=Eval(batch_size=16),
    )

    # 3. Training and scoring. The folder then holds all that later steps need.
    scores = main.run(config, folder / "run")
    print(f"scores: rank-1 {scores['rank1']:.1%}, mAP {scores['mAP']:.1%}")

    # 4. Features of pictures, and who is nearest by the model's own distance.
    reid = Extractor(folder / "run")
    queries = sorted((root / "query").glob("*.jpg"))
    gallery = sorted((root / "bounding_box_test").glob("*.jpg"))
    indices, distances = reid.rank(reid(queries), reid(gallery), top=3)
    for query, nearest, row in zip(queries, indices, distances):
        names = [f"{gallery[i].name} ({d:.3f})" for i, d in zip(nearest, row)]
        print(f"{query.name}: {', '.join(names)}")

    # 5. Pure functions of arrays: a distance, a loss of it, and what a ranking by it scores.
    x = jax.random.normal(jax.random.key(0), (8, 32, 64))  # 8 items, sequences of 32 vectors
    x = x / jax.numpy.linalg.norm(x, axis=-1, keepdims=True)
    filters = jax.nn.relu(4 * x)
    items = FeatureSequence(x, filters, attend(filters, x))
    distmat = dual_attention_distmat(items, items)  # 8 x 8
    pids, camids = np.arange(8) // 2, np.arange(8) % 2
    loss = batch_hard_triplet(distmat, jax.numpy.asarray(pids), margin=0.2)
    ranking = evaluate_rank(np.asarray(distmat), pids, pids, camids, camids)
    print(f"pure functions: loss {float(loss):.3f}, mAP {ranking.mean_ap:.3f}")


if __name__ == "__main__":
    walk(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/walkthrough"))
