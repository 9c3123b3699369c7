"""The branches of Attention-Driven on ImageNet, since no one publishes their weights.

    python -m jaxreid.main --config=configs/attention_driven_imagenet.py \
        --config.data.root=/data/imagenet --workdir=runs/attention_driven_imagenet

The folder holds `train/<class>/*.JPEG` and `val/<class>/*.JPEG` of ILSVRC 2012. What comes out is
for the other configs: `--config.model.pretrained=runs/attention_driven_imagenet`.

Every image is resized to 384 x 192, and its parts are four strips (section 4.1 says nothing of how
the branches of parts see ImageNet); all six losses are those of the paper. 9 epochs, the rate
divided by 10 every three. The images of val are scored by their nearest neighbours: rank-1 is the
accuracy of one.

A row of the paper's tables starts from a run of its own network, of which only the classifiers
differ: `--config=configs/attention_driven_imagenet.py:not_decomposed` for that row, and so on;
`:help` lists them.

Hardware and time: the paper gives none. On one H100: not yet measured. Ours: not yet run.
"""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import attention_driven
from jaxreid.variants import Variant, choose, rows

# Choices that leave the parameters as they are. Joints are not known of ImageNet.
_NOT_OF_THE_NETWORK = {"model.parts", "model.arms_in_torso", "model.test_norm"}


def _start(name: str, row: Variant) -> Variant:
    changes = {
        key: value
        for key, value in row.changes.items()
        if key.startswith("model.") and key not in _NOT_OF_THE_NETWORK
    }
    return Variant(changes, {}, "ImageNet", f"to start {name} from: ours")


# The rows and readings whose networks differ, to pretrain each: named as they are.
_STARTS = {
    name: _start(name, r) for name, r in rows("attention_driven", "Synthetic images").items()
}
VARIANTS = {name: start for name, start in _STARTS.items() if start.changes}


def get_config(variant: str | None = None) -> Config:
    config = Config(
        model=attention_driven.Config(parts="strips"),
        data=Data(
            name="imagenet",
            image_size=(384, 192),
            enlarge=1.0,
            flip=False,
            sampling="shuffle",
            num_ids=8,
            num_instances=4,  # batches of 32, as in fine-tuning
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, decay_epochs=(3, 6)),
        train=Train(epochs=9, checkpoint_every=5000, log_every=100),
        eval=Eval(batch_size=128),
    )
    return choose(config, VARIANTS, variant)
