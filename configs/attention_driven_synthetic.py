"""Attention Driven Person Re-identification on the synthetic Market-1501 that the project draws
itself. The true joints lie beside the pictures.

    python -m jaxreid.synthetic --root=runs/synthetic
    python -m jaxreid.main --config=configs/attention_driven_synthetic.py \
        --workdir=runs/attention_driven_synthetic

The network, the losses, the batches and the protocol are those of `attention_driven_market.py`.
What differs is there because the run starts from random weights and has minutes on two processor
cores: branches of half their width, crops of half the height and width, and Adam with a warm-up
instead of SGD.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.

A variant is a part of the method: `--config=configs/attention_driven_synthetic.py:aligned`; `:help`
lists them.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import attention_driven
from jaxreid.variants import choose, rows

VARIANTS = rows("attention_driven", "Synthetic images")


def get_config(variant: str | None = None) -> Config:
    config = Config(
        # Smaller crops have maps of 4 x 2, whose convolutions are slow on a CPU.
        model=attention_driven.Config(size=(192, 96), backbone_width=16),
        data=Data(
            name="synthetic",
            root="runs/synthetic",
            image_size=(128, 64),
            enlarge=1.0,
            flip=False,
            sampling="shuffle",
            num_ids=8,  # batches of 8 x 4 images
            num_instances=4,
            joints="joints.npz",
        ),
        optim=Optim(name="adam", lr=1e-3, warmup=1, decay_epochs=(5,)),
        train=Train(epochs=6, checkpoint_every=100, log_every=20),
        eval=Eval(ap="trapezoid"),
    )
    return choose(config, VARIANTS, variant)
