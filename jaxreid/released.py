"""Networks that others have trained, ready to run from their file alone: no run's folder.

A file is recognised by the names and shapes of its arrays. `RELEASES` says which method each of the
known networks belongs to: another one is one more entry, besides its rules in `jaxreid.pretrained`.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxreid import pretrained
from jaxreid.backbones.vit import grid_of
from jaxreid.config import Config, Data, ModelConfig
from jaxreid.errors import UserError, nearest
from jaxreid.models import bot, osnet, vit
from jaxreid.pretrained import Raw, Weights
from jaxreid.trained import Trained
from jaxreid.types import Variables


class Release(NamedTuple):
    """A network of which weights are published.

    Attributes:
        model: the method that runs it; its `arch` has the rules for the names in files.
        parameters: how many the network has without its classifier: a file is laid beside the
            networks of about as many as it has.
        image_size: (height, width) that it was trained with.
        adapt: makes of the release, with a file's weights, the one that the file is of; for what
            the shapes in a file say. None: there is nothing of the kind.
    """

    model: ModelConfig
    parameters: int
    image_size: tuple[int, int] = (256, 128)
    adapt: Callable[["Release", Weights], "Release"] | None = None


def _of_the_file(release: Release, weights: Weights) -> Release:
    """A transformer's image size, stride and cameras, from the rows of its embeddings."""
    position = weights.leaves.get("params/backbone/position")
    cameras = weights.leaves.get("params/cameras/embedding")
    model = release.model
    assert isinstance(model, vit.Config)
    if cameras is None:
        model = replace(model, sie=0.0)
    else:
        # The factor is in no file: the papers' 3 and 1.
        factor = 1.0 if model.form == "clip" else 3.0
        model = replace(model, sie=factor, cameras=len(cameras))
    if position is None:
        return release._replace(model=model)
    known = {grid_of(size, stride): (size, stride) for size in _SIZES for stride in (16, 14, 12)}
    for (rows, columns), (size, stride) in known.items():
        if rows * columns == len(position):
            return release._replace(model=replace(model, stride=stride), image_size=size)
    choices = ", ".join(
        f"{rows * columns} ({size[0]} x {size[1]}, stride {stride})"
        for (rows, columns), (size, stride) in known.items()
    )
    raise UserError(
        f"{weights.source}: a position embedding of {len(position)} patches; expected {choices}"
    )


# (height, width) of the images that transformers are released for.
_SIZES = ((256, 128), (384, 128))


_BOT = bot.Config(centre=0.0)  # No persons, no centres of theirs.
_AGW = replace(_BOT, pooling="gem", non_local=(0, 2, 3, 0))

RELEASES: Mapping[str, Release] = {
    "osnet_x1_0": Release(osnet.Config("osnet_x1_0"), 2_169_508),
    "osnet_x0_75": Release(osnet.Config("osnet_x0_75"), 1_285_754),
    "osnet_x0_5": Release(osnet.Config("osnet_x0_5"), 630_034),
    "osnet_x0_25": Release(osnet.Config("osnet_x0_25"), 201_864),
    "osnet_ibn_x1_0": Release(osnet.Config("osnet_ibn_x1_0"), 2_170_532),
    # Scored by their authors with the cosine distance.
    "osnet_ain_x1_0": Release(osnet.Config("osnet_ain_x1_0", test_norm=True), 2_169_508),
    "osnet_ain_x0_75": Release(osnet.Config("osnet_ain_x0_75", test_norm=True), 1_285_754),
    "osnet_ain_x0_5": Release(osnet.Config("osnet_ain_x0_5", test_norm=True), 630_034),
    "osnet_ain_x0_25": Release(osnet.Config("osnet_ain_x0_25", test_norm=True), 201_864),
    "bot_resnet50": Release(_BOT, 23_510_080),
    "bot_resnet50_ibn_a": Release(replace(_BOT, backbone="resnet50_ibn_a"), 23_510_080),
    "transreid_vit_b16": Release(vit.Config(), 85_747_200, adapt=_of_the_file),
    "transreid_vit_b16_jpm": Release(vit.Config(jpm=True), 92_839_680, adapt=_of_the_file),
    "clipreid_vit_b16": Release(vit.Config("clip"), 86_141_696, adapt=_of_the_file),
    "agw_resnet50": Release(_AGW, 23_538_768),
    "agw_resnet50_ibn_a": Release(replace(_AGW, backbone="resnet50_ibn_a"), 23_538_768),
}
"""The known networks by their names."""

# Not among a network's parameters, or of as many persons as it was trained on.
_UNCOUNTED = re.compile(r".*(classifier|running_\w+|num_batches_tracked).*")


def load(source: str | Path, arch: str | None = None) -> Trained:
    """The network of a file.

    Args:
        source: of the weights; see `jaxreid.pretrained.read`.
        arch: one of `RELEASES`; None finds out.

    Raises:
        UserError: the file cannot be read, or is of none of these networks.
    """
    if arch is not None and arch not in RELEASES:
        raise UserError(f"arch={arch}: expected {', '.join(RELEASES)}{nearest(arch, RELEASES)}")
    raw = pretrained.read(source)
    if raw.family == "ours" and raw.whole:
        raise UserError(f"{source}: a whole network of ours; expected its run's folder (--workdir)")
    release, variables = _recognised(raw)[1:] if arch is None else _filled(raw, arch)
    config = Config(release.model, Data(image_size=release.image_size))
    model, batch = config.model.make(1), _example(release)
    return Trained(config, model, variables, jax.eval_shape(model.features, variables, batch))


def _recognised(raw: Raw) -> tuple[str, Release, Variables]:
    """The name of the network that a file is of, the network, and its variables.

    Raises:
        UserError: it is of none; says of which it has the most layers, and what is otherwise there.
    """
    if raw.arch is not None and raw.arch in RELEASES:  # A file of our own says it.
        return raw.arch, *_filled(raw, raw.arch)
    size = sum(array.size for name, array in raw.arrays.items() if not _UNCOUNTED.match(name))
    nearest_first = sorted(RELEASES, key=lambda name: abs(RELEASES[name].parameters - size))
    known = {name: pretrained.known(raw, RELEASES[name].model.arch) for name in nearest_first}
    best = max(known, key=lambda name: known[name])  # The first of several.
    reason = (
        f"of no network that is known here: {len(raw.arrays)} arrays"
        f" ({', '.join(ascii(name)[1:-1][:80] for name in list(raw.arrays)[:3])}, ...), of which"
        f" the nearest, {best}, has {known[best]}; expected {', '.join(RELEASES)}"
    )
    if 2 * known[best] <= len(raw.arrays):
        raise UserError(f"{raw.source}: {reason}")
    try:
        return best, *_filled(raw, best)
    except UserError as error:
        reason = str(error)
    # Others of the same size: a network is traced for each, which takes a second.
    for name in nearest_first:
        if name != best and abs(RELEASES[name].parameters - size) < 0.1 * size:
            with suppress(UserError):
                return name, *_filled(raw, name)
    raise UserError(reason)


def _filled(raw: Raw, name: str) -> tuple[Release, Variables]:
    """The network as the file has it, and the method's variables with the file's weights; zeros
    for the classifier, which nobody asks."""
    release = RELEASES[name]
    weights = pretrained.convert(raw, release.model.arch)
    if release.adapt is not None:
        release = release.adapt(release, weights)
    shapes = jax.eval_shape(release.model.make(1).init, jax.random.key(0), _example(release))
    if weights.arch != release.model.arch:
        raise UserError(f"{raw.source}: of {weights.arch} alone; expected all of {name}")
    variables, _ = pretrained.install(shapes, weights)
    return release, jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
        variables,
    )


def _example(release: Release) -> Any:
    from jaxreid.train import example_batch  # takes a while to import

    return example_batch(Config(release.model, Data(image_size=release.image_size)), None)
