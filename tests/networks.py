"""Tiny networks of every method, and batches for them. A new method is one more line in MODELS."""

import jax.numpy as jnp
import numpy as np

from jaxreid.models import (
    attention_driven,
    bot,
    cosam,
    duatm,
    jst_rnn,
    osnet,
    siamese_attention,
    vit,
)
from jaxreid.types import Batch
from tests.ops.test_boxes import standing

_TINY = {
    "dim": 16,
    "backbone_layers": (1, 1, 1, 1),
    "backbone_growth": 4,
    "backbone_stem": 8,
}
_TINY_COSAM = {
    "reduced": 8,
    "attention_features": 16,
    "hidden_features": 16,
    "backbone_layers": (1, 1, 1, 1),
    "backbone_width": 4,
}
_TINY_JST_RNN = {
    "attention_features": 8,
    "hidden_features": 8,
    "srm_features": 8,
    "srm_hidden": 4,
    "metric_features": 16,
    "fc": 32,
    "backbone_widths": (8, 16, 16, 16, 16),
}
_TINY_SIAMESE = {
    "backbone": "googlenet_bn",
    "backbone_width": 8,
    "kernels": (3, 3, 3),
    "channels": (8, 8, 8),
    "dropout": 0.2,
}
_TINY_ATTENTION_DRIVEN = {"size": (64, 32), "backbone_units": 1, "backbone_width": 8}
_TINY_OSNET = {
    "backbone_channels": (8, 16, 24, 32),
    "backbone_blocks": 1,
    "backbone_features": 16,
}
_TINY_VIT = {
    "stride": 12,
    "backbone_width": 16,
    "backbone_depth": 2,
    "backbone_heads": 2,
    "backbone_projection": 12,
}
_TINY_BOT = {"backbone_layers": (1, 1, 1, 1), "backbone_width": 4}
MODELS = {
    "duatm": duatm.Config(**_TINY),
    "duatm-intra": duatm.Config(**_TINY, matching="intra"),
    "duatm-inter": duatm.Config(**_TINY, matching="inter"),
    "duatm-average": duatm.Config(**_TINY, matching="average"),
    # The margin keeps triplets active: the vectors of these few persons are apart from the start.
    "duatm-gru": duatm.Config(**_TINY, sequence="gru", margin=1.0),
    "cosam": cosam.Config(**_TINY_COSAM),
    "cosam-ta": cosam.Config(**_TINY_COSAM, backbone="resnet50", head="ta", variant="paper"),
    "jst-rnn": jst_rnn.Config(**_TINY_JST_RNN),
    "jst-rnn-diff": jst_rnn.Config(**_TINY_JST_RNN, feature="none", metric="diff", dropout=0.0),
    "siamese-attention": siamese_attention.Config(**_TINY_SIAMESE),
    "attention-driven": attention_driven.Config(**_TINY_ATTENTION_DRIVEN),
    "osnet": osnet.Config(**_TINY_OSNET),
    "osnet-ain": osnet.Config(**_TINY_OSNET, network="osnet_ain_x1_0", test_norm=True),
    "bot": bot.Config(**_TINY_BOT),
    "agw": bot.Config(
        backbone_layers=(1, 1, 1, 1),
        backbone_width=6,  # of 8, a ReLU is at its kink
        backbone="resnet50_ibn_a",
        pooling="gem",
        non_local=(0, 1, 1, 0),
        triplet="weighted",
    ),
    "vit": vit.Config(**_TINY_VIT, sie=3.0, cameras=3, jpm=True),
    "vit-clip": vit.Config(**_TINY_VIT, form="clip", sie=1.0, cameras=3, drop_path=0.0),
}
IMAGES = ("duatm", "attention-driven", "osnet", "bot", "agw", "vit")
CLIPS = {name for name in MODELS if not name.startswith(IMAGES)} | {"duatm-gru"}
# CaffeNet's maps are to have two rows and columns: a sweep of one place never uses its state.
SIZES = {name: (72, 72) for name in MODELS if name.startswith("jst-rnn")}
SIZES["siamese-attention"] = (96, 96)  # maps of 3 x 3
# It learns from pairs, and needs some of two persons.
PAIRS = {"siamese-attention"}
NUM_IDS, PER_ID, CLIP_LENGTH = 4, 2, 3


def make_batch(name):
    """Persons that differ in the colours of their halves, and images or clips of one in noise.

    They stand somewhere near the middle; of the last one no joint was found.
    """
    # A draw that leaves no ReLU of the tiny networks at its kink, where rounding decides.
    rng = np.random.default_rng(1)
    pids = np.repeat(np.arange(NUM_IDS), PER_ID)
    if name in PAIRS:
        pids = pids[[0, 1, 2, 3, 4, 6, 5, 7]]
    colours = rng.integers(0, 255, (NUM_IDS, 2, 1, 1, 3))
    height, width = SIZES.get(name, (64, 32))
    images = np.repeat(np.repeat(colours[pids], height // 2, axis=2), width, axis=3)
    images = images.reshape(-1, height, width, 3)
    if name in CLIPS:
        images = np.repeat(images[:, None], CLIP_LENGTH, axis=1)
    images = np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)
    joints = np.zeros((len(pids), 18, 3), np.float32)
    joints[:-1] = standing() * [0.8 * height, 0.8 * height, 1] + [width / 2, 0.9 * height, 1]
    joints[:-1, :, 0] += np.random.default_rng(2).normal(0, 2, (len(pids) - 1, 1))
    return Batch(
        jnp.asarray(images),
        jnp.asarray(pids),
        jnp.ones(len(pids), int),
        joints=jnp.asarray(joints),
    )
