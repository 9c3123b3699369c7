"""The k nearest of many by `torch.topk`, for the phase `rank`.

python -m benchmarks.gpu.torch_topk --out=FILE [--tiny]
"""

import argparse
import math
from pathlib import Path

import torch

from benchmarks.gpu.figures import Figures, time_calls


def main() -> None:
    """One figure, of float32 products without TF32."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    queries, gallery, k = (16, 1_000, 20) if args.tiny else (1_000, 1_000_000, 20)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    x, y = (torch.randn(n, 256, device=device) for n in (queries, gallery))

    def run() -> None:
        (x @ y.T).topk(k)
        if device == "cuda":
            torch.cuda.synchronize()

    figures = Figures(args.out, tiny=args.tiny, seconds=math.inf)
    figures.add_seconds(f"PyTorch: {k} nearest of {queries} in {gallery} x 256", time_calls(run, 5))


if __name__ == "__main__":
    main()
