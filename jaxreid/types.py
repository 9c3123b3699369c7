"""The one interface that every method implements, and the key of dimension names.

Dimension names, in every signature of the package:

    b  items of a batch               q  queries            g  gallery items
    t  frames of a clip               h  height             w  width
    c  channels                       s  vectors of a sequence
    d  width of a vector              n  anything else, said where it is used
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key, PyTree, Shaped, UInt8

Variables: TypeAlias = dict[str, Any]
"""Linen's collections by their names, `params` and `batch_stats` among them. What was made
elsewhere on ImageNet stands under the key `backbone` of each collection, and can be frozen there.
The collection `preprocessing` holds what those weights expect of pixels."""

Features: TypeAlias = PyTree[Shaped[Array | np.ndarray, "..."]]
"""What is stored of each item to match it later. Every leaf has the leading axis `b`."""

Metrics: TypeAlias = dict[str, Shaped[Array, ""]]


class Batch(NamedTuple):
    """What a model is given: pixels as decoded, labels, and what is known besides.

    Arrays on the device, or still NumPy's.

    Attributes:
        images: uint8 RGB, one image or one clip for each item; or what `ReidModel.maps` made of
            the frames, where a run keeps that.
        pids: person ids; 0..N-1 in training, the data set's own at test.
        camids: camera ids, 1-based.
        mask: which frames of a clip are read for the first time: a tracklet that is too short for
            the clip is read in a circle. None: all.
        joints: 18 OpenPose joints as (x, y, confidence), in pixels of `images`.
        positives: in training, which items may be positives of each other if they are of one
            person: see `config.data.positives`. None: all.
    """

    images: UInt8[Any, "b h w 3"] | UInt8[Any, "b t h w 3"] | Float[Any, "b t h w c"]
    pids: Int[Any, " b"]
    camids: Int[Any, " b"]
    mask: Bool[Any, "b t"] | None = None
    joints: Float[Any, "b 18 3"] | None = None
    positives: Bool[Any, "b b"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Where a model looked: `n` maps for each item, for pictures.

    Attributes:
        weights: non-negative weights over a grid that is laid over the image. A grid of one cell
            is a weight of the whole frame.
        over: what the grid lies on: the item's own image, its partner's, or, for map k of a
            clip, frame k. Items 2i and 2i+1 of the batch are partners.
        names: of the n maps, where each has a meaning of its own.
        shown: in `attention.png`, over frames: from zero to the peak of the clip; or from the least
            to the greatest of each frame, for masks that are far from zero everywhere.
    """

    weights: Float[Any, "b n h w"]
    over: Literal["self", "partner", "frames"] = dataclasses.field(metadata={"static": True})
    names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    shown: Literal["peak", "range"] = dataclasses.field(default="peak", metadata={"static": True})


class ReidModel(NamedTuple):
    """A method: four pure functions, and what some methods offer besides.

    The trainer calls `init` and `loss`, the evaluator `features` and `distance`. Neither knows
    which method it runs.

    Attributes:
        init: `(key, batch) -> variables`.
        features: `(variables, batch) -> features`, computed once for each item.
        distance: `(variables, feats_q, feats_g) -> Float[Array, "q g"]`; smaller is more alike.
        loss: `(variables, batch, key, step) -> (scalar, (model_state, metrics))`, where
            `model_state` holds those collections besides `params` that have changed.
        explain: `(variables, batch) -> {name: AttentionMap}`.
        pool: `(variables, features) -> features`: what becomes of the mean over several clips of
            an item; None leaves it as it is.
        vector: `(variables, features) -> Float["b d"]`, whose Euclidean distance is a cheap
            stand-in for `distance`; None where `features` is such a vector already.
        maps: `(variables, images "n h w 3") -> Float["n h w c"]`: what a frozen backbone makes of
            frames. `loss` then takes such maps in the place of the frames.
        frames: `(variables, batch) -> Float["b t d"]`: a descriptor of each frame.
        chance: of some metrics of `loss`, the value that each has while the network tells nobody
            apart: all features are equal, and all logits zero.
    """

    init: Callable[[Key[Array, ""], Batch], Variables]
    features: Callable[[Variables, Batch], Features]
    distance: Callable[[Variables, Features, Features], Float[Array, "q g"]]
    loss: Callable[
        [Variables, Batch, Key[Array, ""], Int[Array, ""]],
        tuple[Float[Array, ""], tuple[Variables, Metrics]],
    ]
    explain: Callable[[Variables, Batch], dict[str, AttentionMap]] | None = None
    pool: Callable[[Variables, Features], Features] | None = None
    vector: Callable[[Variables, Features], Float[Array, "b d"]] | None = None
    maps: Callable[[Variables, UInt8[Array, "n h w 3"]], Float[Array, "n h w c"]] | None = None
    frames: Callable[[Variables, Batch], Float[Array, "b t d"]] | None = None
    chance: Mapping[str, float] = MappingProxyType({})


class TrainState(NamedTuple):
    """All that a run needs to go on: checkpoints hold exactly this.

    Attributes:
        step: steps taken so far.
        params: trained parameters.
        model_state: the other collections (BatchNorm statistics).
        opt_state: optax's state.
        average: the moving average of `variables` over the steps, see `config.optim.average`; None
            where none is kept.
    """

    step: Int[Array, ""]
    params: PyTree
    model_state: PyTree
    opt_state: Any
    average: Variables | None = None

    @property
    def variables(self) -> Variables:
        """The collections that a `ReidModel`'s functions take, as they are trained."""
        return {"params": self.params, **self.model_state}

    @property
    def scored(self) -> Variables:
        """The same, as they are scored: the average where one is kept."""
        return self.variables if self.average is None else self.average
