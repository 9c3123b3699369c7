"""DuATM on the synthetic Market-1501 that the project draws itself: what `make demo` runs.

    python -m jaxreid.synthetic --root=runs/synthetic
    python -m jaxreid.main --config=configs/duatm_synthetic.py --workdir=runs/duatm_synthetic

The network, the losses and the protocol are those of `duatm_market.py`. What differs is there
because the run starts from random weights and has minutes on two processor cores: images of
128 x 64, smaller batches, Adam with a warm-up instead of SGD, and nothing frozen.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Optim, Train
from jaxreid.models import duatm
from jaxreid.variants import choose


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=duatm.Config(),
        data=Data(
            name="synthetic",
            root="runs/synthetic",
            image_size=(128, 64),
            num_ids=8,
            num_instances=4,
        ),
        optim=Optim(name="adam", lr=1.5e-3, warmup=1, decay_epochs=(16,)),
        train=Train(epochs=21, checkpoint_every=100, log_every=20),
    )
    return choose(config, {}, variant)
