"""Where-and-When on iLIDS-VID.

    python -m jaxreid.main --config=configs/siamese_attention_ilids.py \
        --config.data.root=/data/iLIDS-VID \
        --config.model.pretrained=bvlc_googlenet.caffemodel --workdir=runs/siamese_ilids

Hardware: the paper used one GPU with 12 GB; time not given. On one H100: not yet measured.
The paper, from ImageNet weights: rank-1 61.2 %, rank-5 80.7 %, rank-10 90.3 %, rank-20 97.3 %
(Table III, GoogLeNet, 5x5, 5x5).
Ours: not yet run on the real iLIDS-VID.

The ten splits are run one after another, and their mean is reported; `--config.data.split=0`
runs one of them.

Fig. 7: `--config.eval.lengths=1,2,4,8,16,32,64,128` draws rank-1 by the lengths of the clips.

A variant is a row of the paper: `--config=configs/siamese_attention_ilids.py:kissme`; `:help`
lists them. `fisher`, `lfda` and `kissme` change the scoring alone, so they score a run that is
there: `--mode=evaluate --workdir=runs/siamese_ilids`.

The rows with VGG-16 start from `VGG_ILSVRC_16_layers.caffemodel` in its place, but `vgg16_fc` from
its network of MARS, `--config.model.pretrained=runs/siamese_mars_vgg16_fc` (section V-C). `frozen`
and `cached`, of our own, leave GoogLeNet as it is; the second keeps its maps on disk.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("siamese_attention", "iLIDS-VID")


def get_config(variant: str | None = None) -> Config:
    config = recipes.siamese_attention_config("ilids_vid", epochs=1000)
    return choose(config, VARIANTS, variant or "googlenet_5_5")
