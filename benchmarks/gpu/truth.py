"""How near the device is to the truth, in full and in lower precision.

The error is ‖found - truth‖ / ‖truth‖. The truth of operations is float64 on the CPU, and of
networks float32 there. (States of recurrences are float32 in either.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.dual_attention import SAMPLE, float64_distances, sequences
from benchmarks.gpu.figures import Figures
from jaxreid import losses, ops
from jaxreid.matching import rank_features
from tests.networks import MODELS, NUM_IDS, make_batch

PRECISIONS = {"float32": ("highest", jnp.float32), "TF32": ("tensorfloat32", jnp.float32)}
PRECISIONS["bfloat16"] = ("highest", jnp.bfloat16)
METHODS = ("duatm", "cosam", "jst-rnn", "siamese-attention", "attention-driven")


def run(figures: Figures) -> None:
    """One figure for each operation, network and precision."""
    same_ranks(figures)
    for name, (function, inputs, truth) in operations(np.random.default_rng(0)).items():
        if truth is None:
            with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
                truth = jax.jit(function)(*jax.tree.map(jnp.float64, inputs))
                truth = jax.tree.map(np.asarray, truth)
        for precision, (products, dtype) in PRECISIONS.items():
            given = jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), inputs)
            with jax.default_matmul_precision(products):
                found = jax.jit(function)(*given)
            figures.add(f"{name}, {precision}", error(found, truth), "relative")
    for name in METHODS[:1] if figures.tiny else METHODS:
        network(figures, name)


def same_ranks(figures: Figures) -> None:
    """Whether ranks are the integers that the host counts, of the same distances."""
    rng = np.random.default_rng(0)
    q, g = (64, 512) if figures.tiny else (512, 8_192)
    feats = [rng.integers(-3, 4, (n, 32)).astype(np.float32) for n in (q, g)]
    labels = [rng.integers(1, high, n) for high in (50, 7) for n in (q, g)]
    # Whole numbers: products are exact in any order, and there are ties.
    rankings = [
        rank_features(ops.pairwise_euclidean, *feats, *labels, on_host=on_host)
        for on_host in (False, True)
    ]
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*rankings))
    figures.add("ranks, CMC and AP as on the host", same)


def operations(
    rng: np.random.Generator,
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]]:
    """Functions, their inputs, and the truth where the function is float32 inside."""

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return scale * rng.normal(size=shape)

    def recurrent(gates: int) -> ops.RecurrentWeights:
        return ops.RecurrentWeights(
            normal(128, gates * 64, scale=0.1),
            normal(64, gates * 64, scale=0.1),
            normal(gates * 64, scale=0.1),
            normal(gates * 64, scale=0.1),
        )

    def kernel(*shape: int) -> Any:
        return normal(3, 3, *shape, scale=0.05)

    distmat, pids = np.abs(normal(32, 32)), jnp.arange(32) // 4
    x, y = normal(64, 512), normal(256, 512)
    squares = np.square(x[:, None] - y[None]).sum(axis=2)
    pair = sequences(rng, SAMPLE[0], 32, 256), sequences(rng, SAMPLE[1], 32, 256)
    clips = normal(2, 6, 6, 6, 128), ops.SixDirections(*(recurrent(4) for _ in range(6)))
    gru = ops.ConvGRUWeights(kernel(32, 96), kernel(32, 64), kernel(32, 32))

    def conv_gru(x: Any, weights: ops.ConvGRUWeights) -> Any:
        return ops.conv_gru_scan(x, weights, jnp.zeros((2, 7, 7, 32)))[0]

    return {
        "pairwise_euclidean": (ops.pairwise_euclidean, (x, y), np.sqrt(squares)),
        "dual_attention_distmat": (ops.dual_attention_distmat, pair, float64_distances(*pair)),
        "lstm_scan": (
            lambda x, w: ops.lstm_scan(x, w)[0],
            (normal(8, 16, 128), recurrent(4)),
            None,
        ),
        "gru_scan": (
            lambda x, w: ops.gru_scan(x, w)[0],
            (normal(8, 16, 128), recurrent(3)),
            None,
        ),
        "six_direction_lstm": (ops.six_direction_lstm, clips, None),
        "conv_gru_scan": (conv_gru, (normal(2, 8, 7, 7, 32), gru), None),
        "normalized_cross_correlation": (
            ops.normalized_cross_correlation,
            (normal(2, 4, 8, 4, 64),),
            None,
        ),
        "batch_hard_triplet": (lambda d: losses.batch_hard_triplet(d, pids, 0.3), (distmat,), None),
        "decorrelation": (losses.decorrelation, (normal(8, 32, 256, scale=1 / 16),), None),
        "cross_entropy": (lambda x: losses.cross_entropy(x, pids, 0.1), (normal(32, 751),), None),
    }


def network(figures: Figures, name: str) -> None:
    """Features, loss and gradient of a method's tiny network."""
    batch = make_batch(name)
    models: dict[str, Any] = MODELS
    of = {dtype: models[name].make(NUM_IDS, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)}
    cpu = jax.devices("cpu")[0]
    host = jax.tree.map(np.asarray, batch)
    with jax.default_device(cpu):
        variables = jax.tree.map(np.asarray, jax.jit(of[jnp.float32].init)(jax.random.key(0), host))

    def everything(dtype: Any) -> Any:
        model = of[dtype]

        def loss(params: Any) -> Any:
            key = jax.random.key(1, impl="threefry2x32")
            return model.loss({**variables, "params": params}, host, key, jnp.int32(0))[0]

        def parts() -> Any:
            value, gradient = jax.value_and_grad(loss)(variables["params"])
            return {
                "features": model.features(variables, host),
                "loss": value,
                "gradient": gradient,
            }

        return jax.tree.map(np.asarray, jax.jit(parts)())

    with jax.default_device(cpu), jax.default_matmul_precision("highest"):
        truth = everything(jnp.float32)
    for precision, (products, dtype) in PRECISIONS.items():
        with jax.default_matmul_precision(products):
            found = everything(dtype)
        for part in truth:
            what = f"{name}, {part}, {precision}"
            figures.add(what, error(found[part], truth[part]), "relative")


def error(found: Any, truth: Any) -> float:
    """‖found - truth‖ / ‖truth‖ over all leaves."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth))
    ]
    apart = sum(np.square(a - b).sum() for a, b in pairs)
    return float(np.sqrt(apart / sum(np.square(b).sum() for _, b in pairs)))
