"""What is there, and the machine's own floors: its products and its copies."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.figures import Figures, time_calls


def run(figures: Figures) -> None:
    """Devices, rates of square products, and the rate of a copy."""
    device = jax.devices()[0]
    figures.add("devices", f"{jax.device_count()} x {device.device_kind}, {device.platform}")
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        figures.add("memory that JAX takes", limit / 2**30, "GiB")
    for name in RATES:
        product_rate(figures, name, 256 if figures.tiny else 8192)
    size = 2**20 if figures.tiny else 2**30
    x = jnp.asarray(np.random.default_rng(0).integers(0, 99, size // 4, np.int32))
    copy = jax.jit(lambda x: x + 1)
    seconds = time_calls(lambda: copy(x).block_until_ready(), 10, warm=3)
    rates = sorted(2e-9 * size / s for s in seconds)
    note = f"{size / 2**20:.0f} MiB read and written"
    figures.add("copy", rates[len(rates) // 2], "GB/s", (rates[0], rates[-1]), note)


RATES = {
    "bfloat16": (jnp.bfloat16, None),
    "TF32": (jnp.float32, "tensorfloat32"),
    "float32": (jnp.float32, "highest"),
}


def product_rate(figures: Figures, name: str, n: int) -> float:
    """The rate of a square product of random numbers, in TFLOP/s."""
    dtype, precision = RATES[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)), dtype)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))
    seconds = time_calls(lambda: product(x).block_until_ready(), 10, warm=3)
    rates = sorted(2e-12 * n**3 / s for s in seconds)
    figures.add(f"product of {n}, {name}", rates[len(rates) // 2], "TFLOP/s", (rates[0], rates[-1]))
    return rates[len(rates) // 2]
