"""JST-RNN on the synthetic tracklets that the project draws itself.

    python -m jaxreid.synthetic --video --root=runs/synthetic_video
    python -m jaxreid.main --config=configs/jst_rnn_synthetic.py --workdir=runs/jst_rnn_synthetic

The two streams, the losses and the score are those of `jst_rnn_mars.py`. What differs is there
because the run starts from random weights and has minutes on two processor cores: frames of
131 x 99 that are moved a little besides mirroring, clips of four frames, two clips of a person,
and Adam.

Hardware: two processor cores. Time and scores, as measured: see benchmarks/RESULTS.md.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import jst_rnn
from jaxreid.variants import choose, rows

VARIANTS = rows("jst_rnn", "synthetic tracklets")


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=jst_rnn.Config(),
        data=Data(
            name="synthetic_video",
            root="runs/synthetic_video",
            image_size=(131, 99),
            enlarge=1.0,
            shift=0.08,
            num_ids=8,
            num_instances=2,
            clip_length=4,
        ),
        optim=Optim(name="adam", lr=3e-4, weight_decay=5e-4, decay_epochs=(30,)),
        train=Train(epochs=40, checkpoint_every=100, log_every=20),
        eval=Eval(clips="central", query_block=16, gallery_block=64),
    )
    return choose(config, VARIANTS, variant)
