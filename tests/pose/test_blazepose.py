"""BlazePose on drawn pedestrians, in the environment that `make pose` makes."""

import os

import numpy as np

from jaxreid.data.joints import CONFIDENT, read_joints
from jaxreid.joints import main
from jaxreid.synthetic.images import Spec, write_market


def test_it_finds_drawn_pedestrians(tmp_path, capsys):
    python = os.environ["JAXREID_POSE_PYTHON"]
    write_market(tmp_path, Spec(num_train_ids=4, num_test_ids=4, num_distractors=2))
    out = tmp_path / "found.npz"
    code = main(["--name=market1501", f"--root={tmp_path}", f"--python={python}", f"--out={out}"])
    assert (code, capsys.readouterr().err) == (0, "")
    with np.load(out) as arrays:
        names = arrays["names"]
    ours, true = read_joints(out, names), read_joints(tmp_path / "joints.npz", names)
    both = (ours[..., 2] >= CONFIDENT) & (true[..., 2] >= CONFIDENT)
    assert both.any(axis=1).mean() > 0.8
    apart = np.linalg.norm(ours[..., :2] - true[..., :2], axis=-1)
    assert np.median(apart[both]) < 0.06 * 128  # of the images' height
