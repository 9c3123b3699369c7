"""DuATM on the synthetic Market-1501 that the project draws itself: what `make demo` runs.

    python -m jaxreid.synthetic --root=runs/synthetic
    python -m jaxreid.main --config=configs/duatm_synthetic.py --workdir=runs/duatm_synthetic

The network, the losses and the protocol are those of `duatm_market.py`. What differs is there
because the run starts from random weights and has minutes on two processor cores: images of
128 x 64, decoded once into memory, smaller batches, nothing frozen, and instead of SGD in steps
Adam, whose rate rises in an epoch and falls over the others as half a cosine.

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
            source="memory",
            image_size=(128, 64),
            num_ids=8,
            num_instances=4,
        ),
        optim=Optim(name="adam", lr=1.5e-3, warmup=1, decay="cosine"),
        train=Train(epochs=8, checkpoint_every=100, log_every=20),
    )
    return choose(config, {}, variant)
