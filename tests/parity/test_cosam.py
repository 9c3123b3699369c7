"""COSAM against PyTorch with the released networks' names: outputs, loss and every gradient."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxreid import pretrained
from jaxreid.models import cosam
from jaxreid.pretrained.sources import flatten
from jaxreid.types import Batch, ReidModel
from tests.parity.compare import draw, installed, normalised, torch_files
from tests.parity.reference_cosam import Network, loss

NUM_IDS, CLIP = 3, (4, 64, 32)
SMALL = {
    "reduced": 16,
    "attention_features": 12,
    "hidden_features": 12,
    "backbone_width": 8,
}
# Of some depths and weights PyTorch's own gradients in float32 are off by more than 1e-4; of these
# they are not. Stages of two blocks have one without a projection.
CONFIGS = {
    "se-tp": cosam.Config(**SMALL, backbone="se_resnet50", backbone_layers=(2, 1, 1, 1)),
    "tp": cosam.Config(**SMALL, backbone="resnet50", backbone_layers=(2, 2, 1, 1)),
    "ta": cosam.Config(**SMALL, backbone="resnet50", head="ta", backbone_layers=(1, 1, 1, 1)),
    "rnn": cosam.Config(**SMALL, backbone="resnet50", head="rnn", backbone_layers=(1, 1, 1, 1)),
}


def clips():
    """Persons of different colours, in noise."""
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(NUM_IDS), 2)
    colours = rng.integers(40, 215, (NUM_IDS, 1, 1, 1, 3))[pids]
    noise = rng.normal(0, 40, (len(pids), *CLIP, 3))
    images = np.clip(colours + noise, 0, 255).astype(np.uint8)
    return Batch(jnp.asarray(images), jnp.asarray(pids), jnp.ones(len(pids), int))


class Pair(NamedTuple):
    """Both networks with the same weights; the reference in float64."""

    config: cosam.Config
    reference: Network
    paths: tuple[Path, Path]
    model: ReidModel
    variables: dict
    batch: Batch

    @property
    def arch(self):
        return f"cosam_{self.config.backbone}"

    def ours(self, tensors):
        """Weights or gradients of the reference, by our names and with our axes."""
        arrays = {name: tensor.numpy() for name, tensor in tensors}
        return pretrained.convert(pretrained.Raw("reference", "torch", arrays), self.arch).leaves


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    config, batch = CONFIGS[request.param], clips()
    torch.manual_seed(0)
    reference = draw(Network(config, NUM_IDS, CLIP), seed=3)
    content = {"state_dict": reference.state_dict(), "rank1": 0.849, "epoch": 799}
    paths = torch_files(content, tmp_path_factory.mktemp("released"))
    model = config.make(NUM_IDS)
    start = jax.eval_shape(model.init, jax.random.key(0), batch)
    variables = installed(start, paths, f"cosam_{config.backbone}")
    return Pair(config, reference.double(), paths, model, variables, batch)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def test_our_own_file_of_released_weights(pair, tmp_path):
    pretrained.save(pretrained.convert(pair.paths[0], pair.arch), tmp_path / "ours.safetensors")
    zeros = jax.tree.map(np.zeros_like, pair.variables)
    variables, report = pretrained.install(zeros, tmp_path / "ours.safetensors", pair.config.arch)
    assert not report.left_out
    jax.tree.map(np.testing.assert_array_equal, variables, pair.variables)


def test_features_and_masks(pair):
    pair.reference.eval()
    with torch.no_grad():
        vectors, _, masks = pair.reference(normalised(np.array(pair.batch.images)))

    @jax.jit
    def run(variables, batch):
        return pair.model.features(variables, batch), pair.model.explain(variables, batch)

    got, ours = run(pair.variables, pair.batch)
    assert rms(got - vectors.numpy()) < 1e-5 * rms(vectors)
    for name, mask in zip(("cosam4", "cosam5"), masks):
        # Masks of drawn weights hardly differ from place to place: measured by how much they do.
        assert rms(ours[name].weights - mask.numpy()) < 1e-3 * float(mask.std())


def test_the_loss_every_gradient_and_the_statistics(pair):
    reference, batch = pair.reference, pair.batch
    reference.train()
    vectors, logits, _ = reference(normalised(np.array(batch.images)))
    value = loss(vectors, logits, torch.from_numpy(np.array(batch.pids)))
    value.backward()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def step(params):
        variables = {**pair.variables, "params": params}
        return pair.model.loss(variables, batch, jax.random.key(0), jnp.int32(0))

    (got, (state, _)), grads = step(pair.variables["params"])
    assert float(got) == pytest.approx(value.item(), rel=1e-5)

    grads = flatten({"params": grads})
    want = pair.ours((name, p.grad) for name, p in reference.named_parameters())
    assert set(grads) == {name for name in want if name.startswith("params/")}
    # What has no effect but rounding is compared with the gradients at large.
    floor = 1e-3 * max(rms(want[name]) for name in grads)
    errors = {name: rms(g - want[name]) / max(rms(want[name]), floor) for name, g in grads.items()}
    worst = max(errors, key=errors.get)
    assert errors[worst] < 1e-4, (worst, errors[worst])

    want = pair.ours(reference.named_buffers())
    for name, got in flatten(state).items():
        # PyTorch stores the unbiased variance, Flax the biased one.
        rtol = 2e-2 if name.endswith("/var") else 1e-4
        np.testing.assert_allclose(got, want[name], rtol=rtol, atol=1e-5, err_msg=name)


def test_another_number_of_persons_leaves_the_classifier_out():
    config = CONFIGS["tp"]
    state = draw(Network(config, NUM_IDS, CLIP), seed=5).state_dict()
    raw = pretrained.Raw("mars.pth", "torch", {k: v.numpy() for k, v in state.items()})
    start = jax.eval_shape(config.make(NUM_IDS + 1).init, jax.random.key(0), clips())
    _, report = pretrained.install(start, pretrained.convert(raw, "cosam_resnet50"))
    assert [entry.split()[0] for entry in report.left_out] == [
        "params/classifier/bias",
        "params/classifier/kernel",
    ]


def test_the_released_network_has_its_entries():
    """424: 382 of SE-ResNet-50, 20 of each module, two of the classifier."""
    with torch.device("meta"):
        reference = Network(cosam.Config(backbone="se_resnet50"), 625, (4, 256, 128))
    state = reference.state_dict()
    assert len(state) == 424
    assert len([key for key in state if key.startswith("base.")]) == 382
    assert sum(tensor.numel() for tensor in reference.parameters()) == 29_733_731
