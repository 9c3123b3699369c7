"""The sixth method on the synthetic Market-1501 that the project draws itself.

    python -m jaxreid.synthetic --root=runs/synthetic
    PYTHONPATH=docs/examples python -m jaxreid.main \
        --config=docs/examples/part_pooling_synthetic.py --workdir=runs/part_pooling

Hardware: two processor cores. A test runs a small one.
"""

import part_pooling

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.variants import Variant, choose

VARIANTS = {
    "whole": Variant({"model.parts": 1}, {}, "Synthetic images", "one stripe: ours"),
}


def get_config(variant: str | None = None) -> Config:
    """The run; a variant changes some of it."""
    config = Config(
        model=part_pooling.Config(parts=4),
        data=Data(
            name="synthetic",
            root="runs/synthetic",
            image_size=(128, 64),
            num_ids=8,
            num_instances=4,
        ),
        optim=Optim(name="adam", lr=3e-4, warmup=1, decay_epochs=(16,)),
        train=Train(epochs=21, checkpoint_every=100, log_every=20),
        eval=Eval(flip=True),
    )
    return choose(config, VARIANTS, variant)
