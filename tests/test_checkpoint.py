import logging

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.checkpoint import Checkpoints, load_variables
from jaxreid.errors import UserError
from jaxreid.types import TrainState


def write(workdir):
    state = TrainState(
        step=jnp.asarray(3),
        params={"kernel": jnp.array([1.0, 2.0])},
        model_state={"batch_stats": {"mean": jnp.array([3.0])}},
        opt_state=(jnp.array([4.0]),),
    )
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(3, state)
    return state


def test_reading_says_nothing(tmp_path, caplog):
    state = write(tmp_path)
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path) as checkpoints:
        variables, restored = load_variables(tmp_path), checkpoints.restore(state)
    assert caplog.text == ""
    np.testing.assert_array_equal(variables["params"]["kernel"], [1, 2])
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [3])
    assert int(restored.step) == 3


def test_the_folder_of_several_splits(tmp_path):
    write(tmp_path / "split0")
    write(tmp_path / "split1")
    (tmp_path / "split2").mkdir()
    with pytest.raises(UserError) as error:
        load_variables(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: holds the runs of 2 splits and no checkpoint of its own; give the folder of "
        f"one of them, such as {tmp_path / 'split0'}"
    )
