"""Training steps: of each paper's config, and of their backbones beside PyTorch's.

A backbone's step is forward, cross-entropy over 1,000 classes, gradient, and SGD with momentum, on
uint8 images that lie on the device. Shares are of the rate of a square product, measured in the
same process.
"""

import importlib.util
import statistics
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.gpu.figures import Figures, time_calls
from benchmarks.gpu.sanity import product_rate
from benchmarks.train_step import measure
from jaxreid.backbones import densenet121, resnet50, se_resnet50
from jaxreid.command import load_config
from jaxreid.config import Config
from tests.networks import MODELS, SIZES

# Those of DuATM and COSAM, at the papers' batches: 10 x 4 images, and 8 x 4 clips of 4 frames.
BACKBONES: dict[str, tuple[Any, int]] = {
    "DenseNet-121": (densenet121, 40),
    "ResNet-50, last stride 1": (lambda **options: resnet50(last_stride=1, **options), 128),
    "SE-ResNet-50, last stride 1": (lambda **options: se_resnet50(last_stride=1, **options), 128),
}
PRECISIONS = {"bfloat16": "bfloat16", "float32": "TF32"}
CONFIGS = {
    "duatm_market": "duatm",
    "bot_market": "bot",
    "cosam_mars": "cosam",
    "attention_driven_market": "attention-driven",
    "jst_rnn_mars": "jst-rnn",
    "siamese_attention_mars": "siamese-attention",
}


def run(figures: Figures) -> None:
    """The half precision of everything comes first, as it is what users will take."""
    size = 256 if figures.tiny else 8192
    peaks = {name: product_rate(figures, rate, size) for name, rate in PRECISIONS.items()}
    for precision in PRECISIONS:
        for name in list(BACKBONES)[:1] if figures.tiny else BACKBONES:
            backbone(figures, name, precision)
        if precision == "bfloat16":
            pytorch(figures)
        for name in list(CONFIGS)[:1] if figures.tiny else CONFIGS:
            of_config(figures, name, precision, peaks[precision])


def backbone(figures: Figures, name: str, precision: str) -> None:
    """One step of a network with a classifier."""
    make, batch = BACKBONES[name]
    height, width = 256, 128
    if figures.tiny:
        batch, height, width = 2, 32, 32
    network = make(num_classes=1000, dtype=jnp.dtype(precision))
    if figures.tiny:
        network = network.clone(layers=(1, 1, 1, 1))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 255, (batch, height, width, 3), np.uint8))
    labels = jnp.asarray(rng.integers(0, 1000, batch))
    variables = jax.jit(lambda: network.init(jax.random.key(0), images[:1], train=False))()
    optimizer = optax.sgd(0.01, momentum=0.9)
    params = variables.pop("params")

    def step(params: Any, rest: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            (logits, _), updated = network.apply(
                {"params": params, **rest}, images, train=True, mutable=["batch_stats"]
            )
            ce = optax.softmax_cross_entropy_with_integer_labels(jnp.float32(logits), labels)
            return ce.mean(), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), {**rest, **updated}, state, value

    compiled = (
        jax.jit(step, donate_argnums=(0, 1, 2))
        .lower(params, variables, optimizer.init(params))
        .compile()
    )
    now = [params, variables, optimizer.init(params)]

    def once() -> None:
        *now[:], value = compiled(*now)
        value.block_until_ready()

    seconds = time_calls(once, 3 if figures.tiny else 20, warm=3)
    what = f"{name}, {batch} of {height} x {width}, {precision}"
    median = figures.add_seconds(f"{what}: step", seconds)
    figures.add(f"{what}: rate", batch / median, "images/s")


def pytorch(figures: Figures) -> None:
    """The same steps by PyTorch, in a process of its own, which gives the memory back."""
    if importlib.util.find_spec("torch") is None:
        figures.add("PyTorch", "not installed")
        return
    command = [sys.executable, "-m", "benchmarks.gpu.torch_step", f"--out={figures.path}"]
    try:
        subprocess.run(
            [*command, *(["--tiny"] * figures.tiny)], check=True, timeout=figures.left / 2
        )
    except subprocess.SubprocessError as error:
        figures.add("PyTorch", f"ended early: {error}")


def of_config(figures: Figures, name: str, precision: Any, peak: float) -> None:
    """The whole step of a paper's config at its own batch, as `jaxreid.train` runs it."""
    config: Config = load_config(f"configs/{name}.py")
    if figures.tiny:
        models: dict[str, Any] = MODELS
        config.model = models[CONFIGS[name]]
        config.data.image_size, config.data.num_ids = SIZES.get(CONFIGS[name], (64, 32)), 2
    config.train.precision = precision
    done = measure(config, 751, 3 if figures.tiny else 20)
    what = f"{name}, {done.shape}, {precision}"
    median = statistics.median(done.seconds)
    figures.add_seconds(f"{what}: step", done.seconds)
    figures.add(f"{what}: rate", done.images / median, "images/s")
    share = 1e-12 * done.operations / median / peak
    figures.add(f"{what}: share of the product", 100 * share, "%", note="operations by XLA's count")
    figures.add(f"{what}: memory", done.planned_bytes / 2**30, "GiB", note="planned by XLA")
    figures.add(f"{what}: compile", done.compile_seconds, "s")
