"""The typed configuration: what a run's keys are, and which values they can have.

A config file returns a `Config`; `jaxreid.command` finds and loads it, and flags override any key.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from jaxreid import errors
from jaxreid.data.clips import Cut, Sampling
from jaxreid.data.sampler import Positives, Sampler
from jaxreid.errors import UserError, nearest
from jaxreid.paths import local_path
from jaxreid.types import ReidModel


@runtime_checkable
class ModelConfig(Protocol):
    """What every `jaxreid.models.*.Config` offers.

    Attributes:
        pretrained: weights to start from: a file, a run's folder, or `hf://owner/name`; see
            `jaxreid.pretrained`. None starts from random weights.
    """

    pretrained: str | None

    @property
    def samplings(self) -> tuple[Sampler, ...]:
        """The values of `data.sampling` whose batches its loss can learn from."""
        ...

    @property
    def arch(self) -> str:
        """The backbone's name in `jaxreid.pretrained`: how to read the names in a file."""
        ...

    def make(
        self, num_ids: int, *, dtype: Any = ..., frozen: bool = ..., flip: bool = ...
    ) -> ReidModel:
        """Builds the method for that number of training persons."""
        ...

    def validate(self) -> None:
        """Raises `UserError` for values that no network can have."""
        ...


@dataclasses.dataclass
class Data:
    """What is trained and scored on.

    Attributes:
        name: the data set's layout and rules: see `jaxreid.data.index.PARSERS`; or
            `my_module:function`, a parser of one's own.
        root: its folder (or CSV file); for `source="tfds"`, what `jaxreid.prepare --out` wrote.
        source: JPEG files through tf.data, a TFDS copy, or all images decoded once into memory.
        split: of a data set that comes with several, counted from 0; None runs them all, one
            after another, and reports the mean.
        validation: share of the training persons that is not trained on, and is scored in the place
            of the test set, to choose by: see `jaxreid.data.validation`.
        image_size: (height, width) that the model sees.
        enlarge: training images are decoded this much larger, and cropped at random.
        enlarge_probability: below 1, images are decoded at `image_size`, and each is enlarged and
            cropped with this probability on the device.
        shift: training images are moved by up to this share of their height and width, and their
            border is repeated.
        pad: training images get so many black pixels on every side, and are cropped at random.
        flip: training images are mirrored with probability one half.
        erase: random erasing, with this probability: a rectangle of the training image becomes
            grey. See `jaxreid.data.augment.random_erase`.
        erase_area: share of the image that the rectangle covers, from least to most.
        sampling: batches of P persons with K items each; of 2P pairs of clips, half of them of one
            person, from two cameras where there are two (K is 4 then), and the others of two
            persons in two cameras, or "mixed" in any; or of P x K items of anyone, each once in an
            epoch.
        positives: items of one person that are to be near each other, in pairs and triplets: any,
            or those of two cameras, as the protocols of scoring have it. Two of one camera are then
            neither positives nor negatives, and persons are drawn in pairs of two cameras.
        num_ids: P, persons of a batch.
        num_instances: K, images or clips of each.
        clip_length: T, frames of a training clip; None for a data set of images.
        clip_sampling: consecutive frames from a random place, evenly spaced, or random ones. A
            tracklet that is too short is read in a circle.
        clip_compat: never draw a tracklet's last window, as COSAM's released code does.
        clip_draw: the crop and the mirror are drawn once for a clip, or for each frame.
        check: before training, decode every file that the first epoch and the scoring read. (A
            TFDS copy was checked when it was made, with `jaxreid.prepare --check`.)
        joints: the bodies' joints in the images: an `.npz`, or a folder of OpenPose's JSON; see
            `jaxreid.data.joints`. A relative path is below `root`.
        cache: a folder for the maps that a frozen backbone makes of the training frames, so that
            they are computed once. Frames and their mirror images are kept; nothing else of the
            augmentation is possible then.
    """

    name: str = "market1501"
    root: str | None = None
    source: Literal["files", "tfds", "memory"] = "files"
    split: int | None = None
    validation: float | None = None
    image_size: tuple[int, int] = (256, 128)
    enlarge: float = 1.125
    enlarge_probability: float = 1.0
    shift: float = 0.0
    pad: int = 0
    flip: bool = True
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.4)
    sampling: Sampler = "identity"
    positives: Positives = "any"
    num_ids: int = 10
    num_instances: int = 4
    clip_length: int | None = None
    clip_sampling: Sampling = "consecutive"
    clip_compat: bool = False
    clip_draw: Literal["clip", "frame"] = "clip"
    check: bool = True
    joints: str | None = None
    cache: str | None = None

    @property
    def batch_size(self) -> int:
        """Images or clips of a training step, over all devices."""
        return self.num_ids * self.num_instances

    @property
    def enlarged_size(self) -> tuple[int, int]:
        """(height, width) that training images are enlarged to, before the random crop."""
        height, width = self.image_size
        return round(height * self.enlarge), round(width * self.enlarge)

    @property
    def load_size(self) -> tuple[int, int]:
        """(height, width) that training images are decoded to."""
        return self.image_size if self.enlarge_probability < 1 else self.enlarged_size


@dataclasses.dataclass
class Optim:
    """The optimiser and its schedule, in epochs.

    Attributes:
        name: the update rule. Weight decay is added to the gradient (coupled), as in PyTorch.
            AMSGrad is Adam whose second moment never falls (Reddi et al. 2018).
            RMSProp is Graves's (2013): centred, with momentum, decay 0.95 and 1e-4 under the root.
        lr: learning rate at the start.
        momentum: of SGD and RMSProp.
        weight_decay: L2 factor.
        warmup: epochs over which the learning rate rises linearly to its full value, from a tenth.
        decay_epochs: see `decay`.
        decay_factor: see `decay`.
        frozen_epochs: epochs at the start in which the backbone, statistics included, is fixed;
            None: all of them.
        head_lr_scale: factor of the learning rate for what is not the backbone.
        bias_lr_scale: factor of the learning rate for biases.
        bias_decay: whether biases decay.
        grad_clip: if set, elements of the gradient are kept within this distance of 0.
        decay: how the learning rate falls: it is multiplied by `decay_factor` at each of
            `decay_epochs`; or it goes down to `decay_factor` of it as half a cosine, from the first
            of two `decay_epochs` to the second, or over the whole run if there are none.
        average: if set, the network that is scored is the moving average of the trained one over
            its steps, and this is the share of itself that the average keeps at a step, as 0.999.
            Statistics are averaged as the parameters are.
    """

    name: Literal["sgd", "adam", "amsgrad", "rmsprop"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: int = 0
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    frozen_epochs: int | None = 0
    head_lr_scale: float = 1.0
    bias_lr_scale: float = 1.0
    bias_decay: bool = True
    grad_clip: float | None = None
    decay: Literal["steps", "cosine"] = "steps"
    average: float | None = None


@dataclasses.dataclass
class Train:
    """The run.

    Attributes:
        epochs: an epoch visits every person once, or with `data.sampling="shuffle"` every item.
        steps: if set, the length of the run instead of `epochs`.
        seed: of the initial parameters, the plan and the augmentation.
        precision: of the convolutions; parameters stay in float32.
        checkpoint_every: steps between checkpoints.
        from_scratch: whether the run may start without `model.pretrained`. None: it may, unless
            the backbone is frozen to the end and would stay random.
        keep: how many of the newest checkpoints are kept, besides the best.
        log_every: steps between lines of `metrics.jsonl`.
    """

    epochs: int = 300
    steps: int | None = None
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    from_scratch: bool | None = None
    checkpoint_every: int = 1000
    keep: int = 2
    log_every: int = 25


@dataclasses.dataclass
class Eval:
    """Scoring.

    Attributes:
        ap: average precision as PyTorch code computes it, or by the trapezoid rule of the
            authors of Market-1501 and MARS.
        flip: features are averaged over each image and its mirror image.
        every: steps between scorings during training; 0 scores once, at the end.
        clips: of a tracklet: all that do not overlap, whose features are averaged; or one: the
            first frames, the last, the first of a query and the last of a gallery tracklet, those
            in the middle, or evenly spaced ones.
        clip_length: frames of each; None takes `data.clip_length`.
        mars_protocol: as MARS's authors score it, query tracklets are in the gallery; or they are
            taken out of it, and queries that have no match left then are not scored.
        precision: of the distances' products: exact is float32, and the others are dot algorithms
            of `jax.lax.DotAlgorithmPreset`, which are faster on GPUs and change some ranks. Not
            every device has every one.
        batch_size: images or clips of a feature batch, over all devices.
        query_block: queries of a block of distances.
        gallery_block: gallery items of a block of distances, over all devices.
        max_rank: length of the CMC curve.
        pictures: queries shown in `ranked.png`.
        shortlist: if set, so many gallery items for each query are chosen by the Euclidean
            distance of one vector, and only those are ranked by the model's distance.
        data: score on another data set than was trained on, as `name:folder`.
        metric: the model's distance; or the Euclidean distance of its vectors after `pca` and
            KISSME or LFDA, fitted on the training set.
        pca: dimensions that are kept before KISSME or LFDA.
        fisher: if set, the components of a Gaussian mixture, fitted on the training frames: items
            are the Fisher vectors of their frames.
        rerank: k-reciprocal re-ranking of the distances, see `metrics.k_reciprocal_rerank`.
        rerank_k1: its k1.
        rerank_k2: its k2.
        rerank_lambda: its λ, the share of the first distance.
        query_expansion: if set, each query's vector becomes the mean with so many of the gallery's
            that are nearest to it.
        lengths: rank-1 is also measured with clips of each of these lengths, of queries against
            gallery tracklets.
    """

    ap: Literal["mean_precision", "trapezoid"] = "mean_precision"
    flip: bool = False
    clips: Cut = "all"
    clip_length: int | None = None
    mars_protocol: Literal["official", "query_removed"] = "official"
    every: int = 0
    precision: Literal[
        "exact",
        "TF32_TF32_F32",
        "TF32_TF32_F32_X3",
        "BF16_BF16_F32",
        "BF16_BF16_F32_X3",
        "BF16_BF16_F32_X6",
    ] = "exact"
    batch_size: int = 64
    query_block: int = 128
    gallery_block: int = 1024
    max_rank: int = 50
    pictures: int = 8
    shortlist: int | None = None
    data: str | None = None
    metric: Literal["model", "kissme", "lfda"] = "model"
    pca: int = 150
    fisher: int | None = None
    rerank: bool = False
    rerank_k1: int = 20
    rerank_k2: int = 6
    rerank_lambda: float = 0.3
    query_expansion: int | None = None
    lengths: tuple[int, ...] = ()


@dataclasses.dataclass
class Config:
    """A run, whole.

    Attributes:
        model: the method, a `jaxreid.models.*.Config`.
        data: what is trained and scored on.
        optim: the optimiser.
        train: the run.
        eval: scoring.
        paper: the published figures of this setting, for the report.
        paper_source: where the paper prints them, and for which data set.
        paper_data: the name of that data set where it is `eval.data`'s, and not the one that is
            trained on.
    """

    model: ModelConfig
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    eval: Eval = dataclasses.field(default_factory=Eval)
    paper: dict[str, float] = dataclasses.field(default_factory=dict)
    paper_source: str = ""
    paper_data: str | None = None

    @property
    def scored_clip_length(self) -> int | None:
        """Frames of a clip at test; None for images."""
        return self.eval.clip_length or self.data.clip_length

    def without_figures(self) -> "Config":
        """The same run without the paper's figures, which are of other data or another protocol."""
        return dataclasses.replace(self, paper={}, paper_source="")

    def to_dict(self) -> dict[str, Any]:
        """Nested builtins, as in `config.json`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def validate(config: Config) -> None:
    """Raises `UserError` for values that no run can have. Data sets are checked when opened."""
    check_types(config)

    def require(holds: bool, key: str, expected: str) -> None:
        errors.require("config.", config, {key: (holds, expected)})

    d, o, t, e = config.data, config.optim, config.train, config.eval
    require(
        len(d.image_size) == 2 and min(d.image_size) >= 32,
        "data.image_size",
        "height,width of at least 32 pixels",
    )
    require(
        d.validation is None or 0 < d.validation < 1,
        "data.validation",
        "a share of the training persons: above 0, below 1",
    )
    require(d.enlarge >= 1, "data.enlarge", "1 or more")
    require(0 <= d.enlarge_probability <= 1, "data.enlarge_probability", "a probability")
    require(0 <= d.shift < 1, "data.shift", "a share of the image: 0 or more, below 1")
    for key in ("shift", "pad"):
        require(
            getattr(d, key) == 0 or d.enlarge_probability == 1,
            f"data.{key}",
            "0, since data.enlarge_probability is below 1",
        )
    require(0 <= d.pad <= min(d.image_size), "data.pad", "0 pixels to the image's smaller side")
    require(0 <= d.erase <= 1, "data.erase", "a probability")
    least, most = d.erase_area
    require(0 < least <= most < 1, "data.erase_area", "two rising shares between 0 and 1")
    require(d.clip_length is None or d.clip_length >= 1, "data.clip_length", "1 frame or more")
    require(e.clip_length is None or e.clip_length >= 1, "eval.clip_length", "1 frame or more")
    require(
        e.clip_length is None or d.clip_length is not None,
        "eval.clip_length",
        "none, since data.clip_length is not set: the data set holds images",
    )
    require(d.num_ids >= 2, "data.num_ids", "2 persons or more: a triplet needs another person")
    require(d.num_instances >= 2, "data.num_instances", "2 or more: a triplet needs another image")
    wanted = " or ".join(map(repr, config.model.samplings))
    require(
        d.sampling in config.model.samplings,
        "data.sampling",
        f"{wanted}: this model learns from such batches",
    )
    require(
        # A loss that learns from batches of anyone needs no two items of one person.
        d.positives == "any" or "shuffle" not in config.model.samplings,
        "data.positives",
        "'any': this model learns from neither pairs nor triplets",
    )
    require(
        "pairs" not in d.sampling or d.num_instances == 4,
        "data.num_instances",
        f"4 with data.sampling={d.sampling!r}: a pair of one person, and a pair of two",
    )
    require(
        d.cache is None
        or (
            d.clip_length is not None
            and d.enlarge == 1
            and d.shift == d.pad == d.erase == 0
            and d.clip_draw == "clip"
        ),
        "data.cache",
        "none, unless data.clip_length is set, data.enlarge=1, data.shift=0, data.pad=0,"
        " data.erase=0 and data.clip_draw='clip': the maps of frames are kept as they are",
    )
    require(
        d.joints is None
        or (d.clip_length is None and d.enlarge == 1 and d.shift == d.pad == 0 and not d.flip),
        "data.joints",
        "none, unless data.clip_length is not set, data.enlarge=1, data.shift=0, data.pad=0 and"
        " data.flip=False: joints stay where they are",
    )
    require(o.lr > 0, "optim.lr", "a positive learning rate")
    require(0 <= o.momentum < 1, "optim.momentum", "0 or more, below 1")
    require(o.weight_decay >= 0, "optim.weight_decay", "0 or more")
    require(o.head_lr_scale >= 0, "optim.head_lr_scale", "0 or more")
    require(o.bias_lr_scale >= 0, "optim.bias_lr_scale", "0 or more")
    require(o.grad_clip is None or o.grad_clip > 0, "optim.grad_clip", "more than 0")
    require(o.warmup >= 0, "optim.warmup", "0 or more epochs")
    require(o.decay_factor > 0, "optim.decay_factor", "more than 0")
    require(
        o.frozen_epochs is None or o.frozen_epochs >= 0,
        "optim.frozen_epochs",
        "0 or more epochs, or none for all",
    )
    require(t.seed >= 0, "train.seed", "0 or more")
    require(list(o.decay_epochs) == sorted(o.decay_epochs), "optim.decay_epochs", "rising epochs")
    require(
        o.decay == "steps"
        or not o.decay_epochs
        or len(set(o.decay_epochs)) == len(o.decay_epochs) == 2,
        "optim.decay_epochs",
        "two epochs, between which the rate falls, or none, with optim.decay='cosine'",
    )
    require(o.average is None or 0 < o.average < 1, "optim.average", "above 0, below 1")
    require(t.epochs > 0, "train.epochs", "more than 0")
    require(t.steps is None or t.steps > 0, "train.steps", "1 or more")
    for key in ("train.checkpoint_every", "train.keep", "train.log_every"):
        require(getattr(t, key.split(".")[1]) >= 1, key, "1 or more")
    require(e.every >= 0, "eval.every", "0 or more")
    for key in ("batch_size", "query_block", "gallery_block", "pictures"):
        require(getattr(e, key) >= 1, f"eval.{key}", "1 or more")
    require(e.max_rank >= 20, "eval.max_rank", "20 or more: rank-20 is reported")
    require(e.shortlist is None or e.shortlist >= 1, "eval.shortlist", "1 or more")
    require(
        e.shortlist is None or (e.metric == "model" and e.fisher is None),
        "eval.shortlist",
        "none with eval.metric or eval.fisher: the distance is of vectors already",
    )
    require(e.pca >= 1, "eval.pca", "1 or more")
    require(e.fisher is None or e.fisher >= 1, "eval.fisher", "1 or more")
    require(1 <= e.rerank_k2 <= e.rerank_k1, "eval.rerank_k2", "1 to eval.rerank_k1")
    require(0 <= e.rerank_lambda <= 1, "eval.rerank_lambda", "0 to 1")
    require(
        not (e.rerank and e.shortlist),
        "eval.shortlist",
        "none with eval.rerank: it asks how near all items are to each other",
    )
    require(
        e.query_expansion is None or e.query_expansion >= 1, "eval.query_expansion", "1 or more"
    )
    require(
        not (e.query_expansion and e.shortlist),
        "eval.query_expansion",
        "none with eval.shortlist: models that compare pairs have no vectors to expand",
    )
    require(
        not e.lengths or (d.clip_length is not None and min(e.lengths) >= 1),
        "eval.lengths",
        "clips of 1 frame or more, of a data set of tracklets",
    )
    require(
        e.data is None or all(e.data.partition(":")),
        "eval.data",
        "name:folder, as in ilids_vid:/data/iLIDS-VID",
    )
    for key, path in (
        ("data.root", d.root),
        ("data.cache", d.cache),
        ("data.joints", d.joints),
        ("eval.data", e.data and e.data.partition(":")[2]),
    ):
        try:
            local_path(path or "")
        except UserError as error:
            raise UserError(f"config.{key}={error}") from None
    config.model.validate()


_LARGEST = 2**31 - 1  # Integers have 32 bits on a device.


def check_types(holder: Any, prefix: str = "config.") -> None:
    """Raises `UserError` for the first field, sections included, whose value is not of its type.

    Integers are of 32 bits, and numbers are finite.
    """
    for name, kind in typing.get_type_hints(type(holder)).items():
        value = getattr(holder, name)
        if dataclasses.is_dataclass(value):
            check_types(value, f"{prefix}{name}.")
        if not _fits(value, kind):
            words = [word for word in typing.get_args(kind) if isinstance(word, str)]
            near = nearest(value, words) if isinstance(value, str) else ""
            raise UserError(f"{prefix}{name}={value!r}: expected {name_type(kind)}{near}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and not -_LARGEST <= number <= _LARGEST:
                expected = f"{-_LARGEST:,} to {_LARGEST:,}"
                raise UserError(f"{prefix}{name}={value!r}: expected {expected}")
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{prefix}{name}={value!r}: expected a finite number")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; an int will do for a float, and a bool for neither."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in args)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind in (int, float):
        allowed = int if kind is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def name_type(kind: Any) -> str:
    """A type as a user would write its values."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if arg is type(None) else name_type(arg) for arg in args)
    if origin is tuple:
        names = ["..." if arg is ... else name_type(arg) for arg in args]
        return f"a tuple ({', '.join(names)})"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def flat_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested config, by keys such as `optim.lr`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flat_keys(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
