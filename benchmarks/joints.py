"""How far two files of joints are apart, joint by joint.

    python -m benchmarks.joints ours.npz theirs.npz

Both are what `config.data.joints` reads, with names in common. A distance counts where both have
the joint, with a confidence of 0.2 or more.
"""

import argparse

import numpy as np

from jaxreid.data.joints import CONFIDENT, read_joints

JOINTS = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder"),
    *("left elbow", "left wrist", "right hip", "right knee", "right ankle", "left hip"),
    *("left knee", "left ankle", "right eye", "left eye", "right ear", "left ear"),
)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ours", help="an .npz of joints")
    parser.add_argument("theirs", help="another, of the same images at least")
    args = parser.parse_args()
    with np.load(args.ours, allow_pickle=False) as arrays:
        names = arrays["names"]
    ours, theirs = (read_joints(file, names) for file in (args.ours, args.theirs))
    sure = [joints[..., 2] >= CONFIDENT for joints in (ours, theirs)]
    some = [of.any(axis=1) for of in sure]
    both = sure[0] & sure[1]
    apart = np.linalg.norm(ours[..., :2] - theirs[..., :2], axis=-1)
    print(f"{len(names):,} images; somebody in {some[0].sum():,} and in {some[1].sum():,} of them")
    print("| joint | ours, of theirs | mean distance, pixels | median |\n|---|---:|---:|---:|")
    rows = [(name, both[:, k], sure[1][:, k], apart[:, k]) for k, name in enumerate(JOINTS)]
    for name, seen, known, far in [*rows, ("all", both, sure[1], apart)]:
        share = seen.sum() / known.sum()
        print(f"| {name} | {share:.1%} | {far[seen].mean():.1f} | {np.median(far[seen]):.1f} |")


if __name__ == "__main__":
    main()
