"""Where-and-When on MARS.

    python -m jaxreid.main --config=configs/siamese_attention_mars.py \
        --config.data.root=/data/MARS \
        --config.model.pretrained=bvlc_googlenet.caffemodel --workdir=runs/siamese_mars

Hardware: the paper used one GPU with 12 GB; time not given. On one H100: not yet measured.
The paper, from ImageNet weights: rank-1 69.7 %, rank-5 83.4 %, rank-10 88.3 %, rank-20 93.6 %
(Table III, GoogLeNet, 5x5, 5x5).
Ours: not yet run on the real MARS.

The figures of Tables V to VII for this network have a rank-20 of 96.6 instead.

Table VIII scores this network on the other data sets: `:on_ilids` and `:on_prid`, with
`--mode=evaluate`. Where they lie elsewhere: `--config.eval.data=ilids_vid:/data/iLIDS-VID` and
`--config.eval.data=prid2011_all:/data/prid_2011`.

The protocol is the official one. "The first camera as the probe" (section V-B) cannot be meant of
six cameras; the authors' 631 and 630 persons are not those of the official split either.

Fig. 7: `--config.eval.lengths=1,2,4,8,16,32,64,128` draws rank-1 by the lengths of the clips.

A variant is a row of the paper: `--config=configs/siamese_attention_mars.py:kissme`; `:help`
lists them. `fisher`, `lfda` and `kissme` change the scoring alone, so they score a run that is
there: `--mode=evaluate --workdir=runs/siamese_mars`.

The rows with VGG-16 start from `VGG_ILSVRC_16_layers.caffemodel` in its place. `frozen` and
`cached`, of our own, leave GoogLeNet as it is; the second keeps its maps on disk.
"""

from jaxreid import recipes
from jaxreid.config import Config
from jaxreid.variants import choose, rows

VARIANTS = rows("siamese_attention", "MARS")


def get_config(variant: str | None = None) -> Config:
    config = recipes.siamese_attention_config("mars", epochs=2000)
    config.eval.ap = "trapezoid"  # the evaluation code of MARS
    return choose(config, VARIANTS, variant or "googlenet_5_5")
