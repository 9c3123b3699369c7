"""What JST-RNN's metric stream costs at test, where every query meets every gallery item.

    python -m benchmarks.pairs [--queries=4 --gallery=64 --frames=6 --map-size=6 --runs=5]
        [--bfloat16]

`block`: the package's distance: the first convolution is computed once for each item and subtracted
for each pair. `gates`: so are the gates' shares of the pixels in the six LSTMs, which saves 85 of
205 million multiply-adds a pair and order, and moves 24 times as much. `pairs`: every pair from its
raw maps of 256 channels, subtracted first. All take one query against the whole gallery at a time,
average the two orders, and run in turn in one process. The ratio is the median of the runs' ratios,
`memory` XLA's plan of temporaries, and `apart` the largest difference from `block`.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.models import jst_rnn
from jaxreid.ops import six_direction_inputs, six_direction_lstm, six_direction_sweeps


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"queries": 4, "gallery": 64, "frames": 6, "map-size": 6, "runs": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    dtype: Any = jnp.bfloat16 if args.bfloat16 else jnp.float32
    config = jst_rnn.Config(feature="none")
    shape = (args.frames, args.map_size, args.map_size, config.backbone_widths[-1])
    rng = np.random.default_rng(0)
    queries, gallery = (
        jnp.asarray(np.maximum(rng.normal(size=(n, *shape)), 0), jnp.float32)
        for n in (args.queries, args.gallery)
    )

    network = jst_rnn.PairNetwork(config, dtype)
    model = config.make(1, dtype=dtype)

    def touch(module: Any, maps: Any) -> Any:
        return module.same(module.encode(maps), train=False)

    params = network.init(jax.random.key(0), queries[:1], method=touch)["params"]

    six: Any = network.apply({"params": params}, method=lambda module: module.sweeps())

    def linear(x: Any, name: str, dtype: Any = dtype) -> Any:
        layer = jax.tree.map(lambda w: w.astype(dtype), params[name])
        return x.astype(dtype) @ layer["kernel"] + layer["bias"]

    def different(swept: Any) -> Any:
        x = linear(swept, "context")
        x = jax.nn.relu(linear(x.reshape(len(x), -1), "fc"))
        return jax.nn.softmax(linear(x, "verdict", jnp.float32))[:, 0]

    def in_turn(of_delta: Any, queries: Any, gallery: Any) -> Any:
        """A query at a time, in both orders."""

        def against_gallery(query: Any) -> Any:
            orders = jnp.array([1.0, -1.0])
            return jax.lax.map(lambda sign: of_delta(sign * (query - gallery)), orders).mean(axis=0)

        return jax.lax.map(against_gallery, queries)

    def block(queries: Any, gallery: Any) -> Any:
        kept: Any = [
            network.apply({"params": params}, x, method="encode") for x in (queries, gallery)
        ]
        feats_q, feats_g = (jst_rnn.ClipFeatures(None, maps) for maps in kept)
        return model.distance({"params": {"pair": params}}, feats_q, feats_g)

    def gates(queries: Any, gallery: Any) -> Any:
        def shares(pool5: Any) -> Any:
            return six_direction_inputs(linear(pool5, "reduce"), six)

        of_bias = shares(jnp.zeros((1, 1, 1, 1, shape[-1])))

        def of_delta(delta: Any) -> Any:
            return different(six_direction_sweeps(delta + of_bias, six, dtype=dtype))

        # The query's are computed with the gallery's: the loop holds no product of pixels.
        return in_turn(of_delta, shares(queries), shares(gallery))

    def pairs(queries: Any, gallery: Any) -> Any:
        def of_delta(delta: Any) -> Any:
            return different(six_direction_lstm(linear(delta, "reduce"), six))

        return in_turn(of_delta, queries, gallery)

    forms: dict[str, Any] = {run.__name__: jax.jit(run) for run in (block, gates, pairs)}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    memory = {
        name: run.lower(queries, gallery).compile().memory_analysis().temp_size_in_bytes
        for name, run in forms.items()
    }
    found = {}
    for turn in range(args.runs + 1):
        for name, run in forms.items():
            start = time.perf_counter()
            found[name] = np.asarray(run(queries, gallery))
            if turn:
                seconds[name].append(time.perf_counter() - start)
    device = jax.devices()[0].device_kind
    print(f"{args.queries} x {args.gallery} pairs, maps {shape}, {dtype.__name__}, on {device}")
    print(f"{'':8}{'seconds':>10}{'ms a pair':>12}{'of block':>10}{'memory MB':>12}{'apart':>10}")
    for name, times in seconds.items():
        median = statistics.median(times)
        each = 1e3 * median / (args.queries * args.gallery)
        ratio = statistics.median(b / a for a, b in zip(seconds["block"], times))
        apart = np.abs(found[name] - found["block"]).max()
        planned = memory[name] / 1e6
        print(f"{name:8}{median:10.3f}{each:12.3f}{ratio:10.2f}{planned:12.0f}{apart:10.1e}")


if __name__ == "__main__":
    main()
