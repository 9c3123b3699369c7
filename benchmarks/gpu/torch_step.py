"""Training steps of the backbones in PyTorch: channels last, autocast to bfloat16.

    python -m benchmarks.gpu.torch_step --out=FILE [--tiny]

Called by the phase `step`, whose words for them it uses; the networks are the references of
`tests/parity`.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.figures import Figures, time_calls
from tests.parity.reference_densenet import DenseNet121
from tests.parity.reference_resnet import ResNet50, SEResNet50

NETWORKS: dict[str, tuple[Any, int]] = {
    "DenseNet-121": (DenseNet121, 40),
    "ResNet-50, last stride 1": (lambda: ResNet50(1), 128),
    "SE-ResNet-50, last stride 1": (lambda: SEResNet50(1), 128),
}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main() -> None:
    """Eager first: compiling takes long, and may fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    figures = Figures(args.out, tiny=args.tiny, seconds=math.inf)
    figures.add("PyTorch", torch.__version__)
    for form in ("eager",) if args.tiny else ("eager", "torch.compile"):
        for name in list(NETWORKS)[:1] if args.tiny else NETWORKS:
            measure(figures, name, form)


def measure(figures: Figures, name: str, form: str) -> None:
    """One network; `form` is `eager` or `torch.compile`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    make, batch = NETWORKS[name]
    height, width = 256, 128
    if figures.tiny:
        batch, height, width = 2, 64, 32
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    network = make().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randint(0, 255, (batch, 3, height, width), dtype=torch.uint8, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (MEAN, STD))
    run = network if form == "eager" else torch.compile(network)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            logits, _ = run((images.float() - mean) / std)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = time_calls(step, 2 if figures.tiny else 20, warm=3)
    what = f"PyTorch {form}: {name}, {batch} of {height} x {width}, bfloat16"
    median = figures.add_seconds(f"{what}: step", seconds)
    figures.add(f"{what}: rate", batch / median, "images/s")


if __name__ == "__main__":
    main()
