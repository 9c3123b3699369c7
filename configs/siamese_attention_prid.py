"""Where-and-When on PRID2011.

    python -m jaxreid.main --config=configs/siamese_attention_prid.py \
        --config.data.root=/data/prid_2011 \
        --config.model.pretrained=bvlc_googlenet.caffemodel --workdir=runs/siamese_prid

Hardware: the paper used one GPU with 12 GB; time not given. On one H100: not yet measured.
The paper, from ImageNet weights: rank-1 74.8 %, rank-5 92.6 %, rank-10 97.7 %, rank-20 98.6 %
(Table III, GoogLeNet, 5x5, 5x5).
Ours: not yet run on the real PRID2011.

All 200 persons that both cameras saw, 100 of them in training (section V-B). The ten splits are run
one after another, and their mean is reported; `--config.data.split=0` runs one of them.

Fig. 7: `--config.eval.lengths=1,2,4,8,16,32,64,128` draws rank-1 by the lengths of the clips.

A variant is a row of the paper: `--config=configs/siamese_attention_prid.py:kissme`; `:help`
lists them. `fisher`, `lfda` and `kissme` change the scoring alone, so they score a run that is
there: `--mode=evaluate --workdir=runs/siamese_prid`.

The rows with VGG-16 start from `VGG_ILSVRC_16_layers.caffemodel` in its place, but `vgg16_fc` from
its network of MARS, `--config.model.pretrained=runs/siamese_mars_vgg16_fc` (section V-C). `frozen`
and `cached`, of our own, leave GoogLeNet as it is; the second keeps its maps on disk.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("siamese_attention", "PRID2011")


def get_config(variant: str | None = None) -> Config:
    config = recipes.siamese_attention_config("prid2011_all", epochs=1000)
    return choose(config, VARIANTS, variant or "googlenet_5_5")
