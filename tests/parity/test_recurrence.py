"""Recurrent layers with PyTorch's weights give what PyTorch gives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxreid.models.recurrent import Recurrent

B, T, C, D = 3, 5, 7, 4
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
NAMES = {
    "weight_ih_l0": "kernel",
    "weight_hh_l0": "recurrent",
    "bias_ih_l0": "bias",
    "bias_hh_l0": "recurrent_bias",
}


def ours(arrays):
    """PyTorch's names and layouts -> ours."""
    return {
        NAMES[name.removesuffix("_reverse")] + "_reverse" * name.endswith("_reverse"): array.T
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_outputs_and_gradients(cell, bidirectional):
    torch.manual_seed(0)
    reference = LAYERS[cell](C, D, batch_first=True, bidirectional=bidirectional)
    x = np.random.default_rng(0).normal(size=(B, T, C)).astype(np.float32)
    want, _ = reference(torch.from_numpy(x))
    torch.sin(want).sum().backward()

    layer = Recurrent(cell, D, bidirectional)
    params = ours({name: p.detach().numpy() for name, p in reference.named_parameters()})
    start = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, start)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients_and_outputs(params):
        outputs = layer.apply({"params": params}, jnp.asarray(x))
        return jnp.sin(outputs).sum(), outputs

    grads, outputs = gradients_and_outputs(params)
    np.testing.assert_allclose(outputs, want.detach().numpy(), atol=1e-6)
    gradients = ours({name: p.grad.numpy() for name, p in reference.named_parameters()})
    assert grads.keys() == gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(grads[name], gradient, atol=5e-6)
