"""Where-and-When on the synthetic tracklets that the project draws itself.

    python -m jaxreid.synthetic --video --root=runs/synthetic_video
    python -m jaxreid.main --config=configs/siamese_attention_synthetic.py \
        --workdir=runs/siamese_synthetic

The recurrence, the attention, the losses and the score are those of `siamese_attention_mars.py`.
What differs is there because the run starts from random weights and has minutes on two processor
cores: GoogLeNet with BatchNorm at a quarter of its width, trained, too, and GRUs in proportion;
frames of 96 x 96, whose maps are as small as the kernels then have to be; batches of 16 persons
with four clips of two frames, all pairs of which are compared; a smaller dropout, and Adam.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import siamese_attention
from jaxreid.variants import choose, rows

VARIANTS = rows("siamese_attention", "synthetic tracklets")


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=siamese_attention.Config(
            backbone="googlenet_bn",
            backbone_width=16,
            kernels=(3, 3, 3),
            channels=(32, 64, 64),
            dropout=0.2,
            pairs="all",
        ),
        data=Data(
            name="synthetic_video",
            root="runs/synthetic_video",
            image_size=(96, 96),
            enlarge=1.0,
            shift=0.05,
            num_ids=16,
            num_instances=4,
            clip_length=2,
        ),
        optim=Optim(
            name="adam", lr=2e-3, weight_decay=0.0, warmup=2, grad_clip=5.0, decay_epochs=(120,)
        ),
        train=Train(epochs=150, checkpoint_every=200, log_every=20),
        eval=Eval(clips="all", batch_size=64),
    )
    return choose(config, VARIANTS, variant)
