r"""A run's network as one file that JAX runs without this package.

    python -m jaxreid.export --workdir=runs/duatm --out=duatm.stablehlo --distance

writes the feature function, weights within, for batches of any size (StableHLO in the envelope of
`jax.export`, which keeps it readable for half a year of JAX releases, and longer as a rule), beside
it `duatm.json` that says what goes in and what comes out, and with `--distance` the distance of any
number of queries to any number of gallery items, which methods that compare pairs need. It prints a
script that loads the network with jax, numpy and pillow alone.

    python -m jaxreid.export --workdir=runs/duatm --out=duatm.onnx --format=onnx --distance

writes ONNX files, after it has laid them beside JAX in ONNX Runtime (`jaxreid.onnx_export`).
`--precision=int8` quantises (`jaxreid.onnx_int8`); `--format=tflite` is LiteRT's form
(`jaxreid.tflite_export`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxreid import __version__, trained
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError, nearest
from jaxreid.paths import local_path
from jaxreid.train import PRECISIONS
from jaxreid.trained import Precision
from jaxreid.types import Batch, Variables

SUFFIXES = (".stablehlo", ".hlo")
FORMATS = ("stablehlo", "onnx", "tflite")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_PIXELS = (
    "RGB, 0 to 255, as decoded; resized to this height and width, bilinear, antialiased where it"
    " shrinks, as Pillow's Resampling.BILINEAR does"
)
_MASK = (
    "which frames of a clip are read for the first time: a tracklet that is too short is read in a"
    " circle"
)
_JOINTS = (
    "18 joints of OpenPose as (x, y, confidence), in pixels of `images`; where all of an image are"
    " zero, its parts are strips"
)

# OpenPose's 18 joints of a standing person, in parts of the image's height: nose and neck, arms,
# legs, face.
_ARM, _LEG, _FACE = (0.2, 0.35, 0.5), (0.5, 0.72, 0.95), (0.08, 0.08, 0.09, 0.09)
_HEIGHTS = np.array([0.1, 0.2, *_ARM, *_ARM, *_LEG, *_LEG, *_FACE])


def export_features(
    network: trained.Trained, platforms: Sequence[str] = ("cpu",)
) -> tuple[jax.export.Exported, dict[str, Any]]:
    """The feature function, for batches of any size.

    Args:
        network: its variables become constants.
        platforms: that it is to run on.

    Returns:
        The function of images `"b h w 3"`; of clips and their mask, `"b t h w 3"` and `"b t"`; or
        of images and their joints, `"b 18 3"`: to the features, those of several arrays as a dict.
        And what goes in and comes out, in words.
    """
    (b,) = jax.export.symbolic_shape("b")
    features, inputs, words = feature_function(network, b)
    exported = jax.export.export(jax.jit(features), platforms=platforms)(*inputs.values())
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    about = {
        "inputs": {name: _spec(inputs[name]) | {"is": words[name]} for name in inputs},
        "outputs": {k: _spec(v) for k, v in outputs.items()}
        if isinstance(outputs, dict)
        else _spec(outputs),
    }
    return exported, about


def feature_function(
    network: trained.Trained, b: Any
) -> tuple[Callable[..., Any], dict[str, jax.ShapeDtypeStruct], dict[str, str]]:
    """The feature function of arrays alone.

    Args:
        network: its variables are within.
        b: the number of items, or a symbol for it.

    Returns:
        The function, the arrays that it takes, and these in words. It returns an array, or a dict.
    """
    config = network.config
    frames = () if config.scored_clip_length is None else (config.scored_clip_length,)
    takes = {"images": ((b, *frames, *config.data.image_size, 3), jnp.uint8, _PIXELS)}
    if frames:
        takes["mask"] = ((b, *frames), jnp.bool_, _MASK)
    if config.data.joints is not None:
        takes["joints"] = ((b, 18, 3), jnp.float32, _JOINTS)
    inputs = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype, _) in takes.items()}

    def features(*arrays: jax.Array) -> Any:
        given = dict(zip(inputs, arrays))
        nobody = jnp.zeros(arrays[0].shape[0], jnp.int32)
        batch = Batch(**given, pids=nobody, camids=nobody)
        return by_name(network.model.features(_whole(network.variables), batch))

    return features, inputs, {name: said for name, (*_, said) in takes.items()}


def save(out: Path, content: bytes) -> None:
    """Writes a file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UserError(f"--out={out}: cannot write there ({error.strerror})") from None


def require_near(
    out: Path, said: str, found: np.ndarray, wanted: np.ndarray, tolerance: float
) -> float:
    """The largest difference of what a runtime computes from what JAX does.

    Args:
        out: the file, for the message.
        said: where and what, with its verb, for the message.
        found: by the runtime.
        wanted: by JAX.
        tolerance: absolute and in parts of the value.

    Raises:
        UserError: a difference is larger.
    """
    apart = np.abs(found - wanted)
    if not (apart <= tolerance * (1 + np.abs(wanted))).all():
        raise UserError(
            f"--out={out}: not written: in {said} {apart.max():.1e} from what JAX says; expected"
            f" {tolerance:.1e} at most"
        )
    return float(apart.max())


def drawn_inputs(inputs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Arrays of such shapes that are no noise, for comparisons.

    Args:
        inputs: as of `feature_function`, of a known number of items.

    Returns:
        Waves of colours; of joints, people who stand, and one who was not found.
    """
    rng = np.random.default_rng(0)
    shape = inputs["images"].shape
    *items, height, width, channels = shape
    waves = np.add.outer(np.arange(height), np.arange(width))[..., None] / 20
    phases = rng.uniform(0, 6, (*items, 1, 1, channels))
    images = 127 + 90 * np.sin(waves + phases) + rng.normal(0, 10, shape)
    drawn = {"images": np.clip(images, 0, 255).astype(np.uint8)}
    if "mask" in inputs:
        drawn["mask"] = np.ones(inputs["mask"].shape, bool)
    if "joints" in inputs:
        joints = np.ones(inputs["joints"].shape, np.float32)
        joints[..., 0] = width * rng.uniform(0.3, 0.7, joints.shape[:2])
        joints[..., 1] = height * _HEIGHTS
        joints[-1] = 0
        drawn["joints"] = joints
    return drawn


def export_distance(
    network: trained.Trained, platforms: Sequence[str] = ("cpu",)
) -> tuple[jax.export.Exported, dict[str, Any]]:
    """The distance of any number of queries to any number of gallery items.

    Args:
        network: its variables become constants.
        platforms: that it is to run on.

    Returns:
        The function of the features of queries and of gallery items, as the exported feature
        function returns them: to distances `"q g"`, smaller ones for the more alike. And that in
        words.
    """
    q, g = jax.export.symbolic_shape("q, g")
    like = network.features

    def items(number: Any) -> Any:
        some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape[1:]), x.dtype), like)
        return by_name(some)

    def distance(queries: Any, gallery: Any) -> jax.Array:
        both = (_unnamed(like, feats) for feats in (queries, gallery))
        return network.model.distance(_whole(network.variables), *both)

    exported = jax.export.export(jax.jit(distance), platforms=platforms)(items(q), items(g))
    about = {
        "inputs": ["outputs of queries", "outputs of gallery items"],
        "outputs": _spec(exported.out_avals[0]) | {"is": "distances: smaller is more alike"},
    }
    return exported, about


def config_of(network: trained.Trained) -> dict[str, Any]:
    """The run's config, without the places of this machine, which are nobody else's business."""
    config = network.config.to_dict()
    for key in ("root", "cache"):
        del config["data"][key]
    return config


def by_name(features: Any) -> Any:
    """Features without this package's types: those of several arrays as a dict."""
    if not hasattr(features, "_asdict"):
        return features
    return {name: array for name, array in features._asdict().items() if array is not None}


def _unnamed(like: Any, features: Any) -> Any:
    return like._replace(**features) if hasattr(like, "_asdict") else features


def _spec(array: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in array.shape]
    return {"shape": shape, "dtype": str(array.dtype)}


def with_half_kernels(variables: Variables) -> Variables:
    """Variables whose kernels are in bfloat16; what is one number for each channel stays."""
    params = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.ndim > 1 else x, variables["params"]
    )
    return {**variables, "params": params}


def _whole(variables: Variables) -> Variables:
    """Kernels as the layers expect them: each layer rounds to its own precision."""
    return jax.tree.map(
        lambda x: jnp.asarray(x).astype(jnp.float32 if x.dtype == jnp.bfloat16 else x.dtype),
        variables,
    )


def write(
    workdir: str | Path,
    out: str | Path,
    *,
    dtype: Precision | None = None,
    platforms: Sequence[str] = ("cpu", "cuda"),
    distance: bool = False,
    step: int | None = None,
) -> Path:
    """Exports a run's network: the function, or both, and the JSON beside.

    Args:
        workdir: of the run.
        out: the file to write. The JSON has its name, and so has the distance, with `.distance`
            before the ending.
        dtype: of the convolutions, by default the run's; if bfloat16 is asked for, of the kernels
            in the file as well, which is then half as long.
        platforms: that it is to run on.
        distance: whether to export that, too.
        step: of the checkpoint; by default the newest.

    Returns:
        The JSON.

    Raises:
        UserError: there is no such run, or the file cannot be written.
    """
    out = Path(out)
    about_file, distance_file = out.with_suffix(".json"), out.with_suffix(f".distance{out.suffix}")
    if out == about_file:
        raise UserError(f"--out={out}: that is the name of the description; expected *.stablehlo")
    if out.suffix not in SUFFIXES:
        raise UserError(
            f"--out={out}: what is written is StableHLO; expected a name that ends with"
            f" {' or '.join(SUFFIXES)}, or --format=onnx for one that ends with .onnx"
        )
    if about_file.name == "config.json":
        raise UserError(
            f"--out={out}: its description would be a run's config.json; expected another"
        )
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(
                f"--platforms={','.join(platforms)}: JAX knows no {platform!r}"
                f"{nearest(platform, PLATFORMS)}; expected some of {','.join(PLATFORMS)}"
            )
    network = trained.load(workdir, step, dtype)
    if dtype == "bfloat16":
        network = network._replace(variables=with_half_kernels(network.variables))
    about: dict[str, Any] = {
        "jaxreid": __version__,
        "jax": jax.__version__,
        "dtype": network.config.train.precision,
        "platforms": list(platforms),
    }
    made = {"features": (out, export_features)}
    if distance:
        made["distance"] = (distance_file, export_distance)
    try:
        for name, (path, export) in made.items():
            exported, words = export(network, platforms)
            path.write_bytes(exported.serialize())
            about[name] = {"file": path.name} | words
        about["config"] = config_of(network)
        about_file.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out={out}: cannot write there ({error.strerror})") from None
    return about_file


def loading_script(about_file: Path) -> str:
    """A script that runs what `write` has written on image files, without this package.

    Args:
        about_file: the JSON.
    """
    about = json.loads(about_file.read_text(encoding="utf-8"))["features"]
    after = {
        ("images",): ["features = network.call(photos)"],
        ("images", "joints"): [
            "joints = np.zeros((len(photos), 18, 3), np.float32)  # unknown: strips for parts",
            "features = network.call(photos, joints)",
        ],
        ("images", "mask"): [
            "clip = np.arange(length)[None]  # of the frames that were given, in a circle",
            "features = network.call(photos[clip % len(photos)], clip < len(photos))",
        ],
    }[tuple(about["inputs"])]
    length = "length, " if "mask" in about["inputs"] else ""
    return "\n".join(
        [
            "import json, pathlib, sys",
            "import jax.export, numpy as np",
            "from PIL import Image, ImageOps",
            f"folder = pathlib.Path({str(about_file.parent)!r})",
            f'about = json.loads((folder / {about_file.name!r}).read_text())["features"]',
            f'_, {length}height, width, _ = about["inputs"]["images"]["shape"]',
            'network = jax.export.deserialize(bytearray((folder / about["file"]).read_bytes()))',
            "images = [ImageOps.exif_transpose(Image.open(path)) for path in sys.argv[1:]]",
            'size = {"size": (width, height), "resample": Image.BILINEAR}',
            'photos = np.stack([image.convert("RGB").resize(**size) for image in images])',
            *after,
            "print(jax.tree.map(np.shape, features))",
        ]
    )


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.export", description=__doc__.split("\n")[0] if __doc__ else None
    )
    parser.add_argument("--workdir", required=True, type=local_path, help="of the run")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of what is written")
    parser.add_argument(
        "--out", type=local_path, help="the file to write; by default model.FORMAT in --workdir"
    )
    parser.add_argument(
        *("--dtype", "--precision"),
        choices=[*PRECISIONS, "float16", "int8"],
        help="stablehlo: of the convolutions, by default the run's; onnx: float32, float16 or int8,"
        " which is scored beside float32 on the run's data",
    )
    parser.add_argument(
        "--platforms", help=f"stablehlo: to run on, of {','.join(PLATFORMS)} (cpu,cuda)"
    )
    parser.add_argument("--layout", choices=["nhwc", "nchw"], help="onnx: of the images (nhwc)")
    parser.add_argument(
        "--normalised",
        choices=["within", "outside", "unit"],
        help="onnx: what takes mean and deviation out of the pixels, the network or you (within);"
        " unit: the network, of pixels from 0 to 1",
    )
    parser.add_argument("--distance", action="store_true", help="export the distance, too")
    parser.add_argument("--step", type=int, help="of the checkpoint; by default the newest")
    args = parser.parse_args(argv)
    out = Path(args.out or Path(args.workdir) / f"model.{args.format}")
    _require_fitting(args)
    if args.format != "stablehlo":
        if out.suffix != f".{args.format}":
            raise UserError(
                f"--out={out}: expected a name that ends with .{args.format} for"
                f" --format={args.format}"
            )
        return (_main_onnx if args.format == "onnx" else _main_tflite)(args, out)
    about = write(
        args.workdir,
        out,
        dtype=args.dtype,
        platforms=(args.platforms or "cpu,cuda").split(","),
        distance=args.distance,
        step=args.step,
    )
    print(f"written: {out} ({out.stat().st_size / 1e6:.3g} MB), described in {about}")
    print(f"To run it on image files with jax, numpy and pillow alone:\n\n{loading_script(about)}")
    return 0


def _require_fitting(args: argparse.Namespace) -> None:
    """Raises `UserError` for a flag that the format has not."""
    has: dict[str, dict[str, Sequence[str]]] = {
        "stablehlo": {"dtype": list(PRECISIONS), "layout": (), "normalised": ()},
        "onnx": {"dtype": ["float32", "float16", "int8"], "platforms": ()},
        "tflite": {"dtype": ["float32"], "platforms": (), "layout": (), "normalised": ()},
    }
    for flag, choices in has[args.format].items():
        value = getattr(args, flag)
        if value is not None and value not in choices:
            expected = f"one of {', '.join(choices)}" if choices else "no such flag"
            raise UserError(f"--{flag}={value}: for --format={args.format}, expected {expected}")


def _main_onnx(args: argparse.Namespace, out: Path) -> int:
    from jaxreid import onnx_export  # An extra.

    network = trained.load(args.workdir, args.step, "float32")
    if args.dtype == "int8":
        return _main_int8(args, network, out)
    files = onnx_export.write(
        network,
        out,
        dtype=args.dtype or "float32",
        layout=args.layout or "nhwc",
        normalised=args.normalised or "within",
        distance=args.distance,
    )
    for path, largest in files:
        size = path.stat().st_size / 1e6
        print(f"written: {path} ({size:.3g} MB); largest difference from JAX: {largest:.1e}")
    return 0


def _main_int8(args: argparse.Namespace, network: trained.Trained, out: Path) -> int:
    from jaxreid import onnx_int8

    if args.distance:
        raise UserError("--distance: computed in float32; export it with --dtype=float32")
    written = onnx_int8.write(
        network, out, layout=args.layout or "nhwc", normalised=args.normalised or "within"
    )
    print(f"written: {written.path}; on the run's test set, in ONNX Runtime:")
    for dtype, size, scores in zip(("float32", "int8"), written.sizes, written.scores):
        print(
            f"{dtype}: {size / 1e6:.3g} MB, rank-1 {scores['rank1']:.2%}, mAP {scores['mAP']:.2%}"
        )
    return 0


def _main_tflite(args: argparse.Namespace, out: Path) -> int:
    from jaxreid import tflite_export

    if args.distance:
        raise UserError("--distance: for --format=tflite, expected no such flag")
    largest = tflite_export.write(trained.load(args.workdir, args.step, "float32"), out)
    size = out.stat().st_size / 1e6
    print(f"written: {out} ({size:.3g} MB); largest difference from JAX: {largest:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
