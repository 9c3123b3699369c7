"""BoT and AGW against PyTorch with fast-reid's names: features, loss and every gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxreid import pretrained
from jaxreid.models import bot
from jaxreid.models.bot import Network as Ours
from jaxreid.pretrained.sources import flatten
from jaxreid.types import Batch
from tests.parity.compare import draw, error, normalised, torch_files
from tests.parity.reference_bot import Network, loss

NUM_IDS = 3
CONFIGS = {
    "bot": bot.Config(backbone_layers=(1, 2, 1, 1), backbone_width=8),
    "agw": bot.Config(
        backbone="resnet50_ibn_a",
        pooling="gem",
        non_local=(0, 2, 1, 0),
        triplet="weighted",
        stem_pool="ceil",
        backbone_layers=(1, 2, 2, 1),
        backbone_width=8,
    ),
}


def images(height, width, items=2 * NUM_IDS):
    """Persons of different colours, in noise."""
    rng = np.random.default_rng(0)
    pids = np.arange(items) // 2
    colours = rng.integers(40, 215, (items // 2, 1, 1, 3))[pids]
    pixels = np.clip(colours + rng.normal(0, 40, (items, height, width, 3)), 0, 255)
    pixels = pixels.astype(np.uint8)
    return Batch(jnp.asarray(pixels), jnp.asarray(pids), jnp.ones(items, int))


def drawn(config, seed):
    """The reference with weights at scales that it keeps, and a neck without a shift."""
    torch.manual_seed(seed)
    reference = draw(Network(config, NUM_IDS), seed)
    neck = reference.heads.bottleneck[0]
    torch.nn.init.zeros_(neck.bias)
    torch.nn.init.uniform_(neck.weight, 0.5, 1.5)
    torch.nn.init.uniform_(neck.running_mean, -0.3, 0.3)
    torch.nn.init.uniform_(neck.running_var, 0.5, 2.0)
    return reference


def settle(reference, batch):
    """Gives every BatchNorm the statistics of the batch: non-local blocks multiply maps by maps,
    which grow beyond all bounds where nothing keeps their scale."""
    norms = [m for m in reference.modules() if hasattr(m, "running_var")]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        reference.double().train()(normalised(np.array(batch.images)))
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum
    reference.float()


def pair(config, batch, folder, seed=3, settled=False):
    """(the reference in float64, our model, our variables with its weights)."""
    reference = drawn(config, seed)
    if settled:
        settle(reference, batch)
    content = {"model": reference.state_dict(), "epoch": 119}
    paths = torch_files(content, folder)
    model = config.make(NUM_IDS)
    start = jax.eval_shape(model.init, jax.random.key(0), batch)
    (variables, report), (other, _) = (pretrained.install(start, p, config.arch) for p in paths)
    # The centres alone are in no file.
    assert [name.split()[0] for name in report.left_out] == ["batch_stats/classifier_centres/mean"]
    centres = 0.3 * np.random.default_rng(1).normal(size=(NUM_IDS, 32 * config.backbone_width))
    for tree in (variables, other):
        tree["batch_stats"]["classifier_centres"]["mean"] = np.float32(centres)
    jax.tree.map(np.testing.assert_array_equal, variables, other)
    return reference.double(), model, jax.tree.map(jnp.asarray, variables)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_every_gradient_and_the_statistics(name, tmp_path):
    config, batch = CONFIGS[name], images(64, 32)
    reference, model, variables = pair(config, batch, tmp_path)
    pids = torch.from_numpy(np.array(batch.pids)).long()
    centres = torch.from_numpy(np.float64(variables["batch_stats"]["classifier_centres"]["mean"]))
    centres.requires_grad_()
    reference.train()
    before, _, logits, _ = reference(normalised(np.array(batch.images)))
    value = loss(before, logits, pids, centres, config)
    value.backward()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def step(params):
        return model.loss({**variables, "params": params}, batch, jax.random.key(0), jnp.int32(0))

    (got, (state, _)), grads = step(variables["params"])
    assert float(got) == pytest.approx(value.item(), rel=1e-5)

    def ours(tensors):
        arrays = {name: tensor.numpy() for name, tensor in tensors if tensor is not None}
        return pretrained.convert(pretrained.Raw("theirs", "torch", arrays), config.arch).leaves

    grads = flatten({"params": grads})
    want = ours((name, p.grad) for name, p in reference.named_parameters())
    assert set(grads) == {name for name in want if name.startswith("params/")}
    # What has no effect but rounding is compared with the gradients at large.
    floor = 1e-3 * max(rms(want[name]) for name in grads)
    errors = {name: rms(g - want[name]) / max(rms(want[name]), floor) for name, g in grads.items()}
    # A bias in front of a BatchNorm has no gradient but rounding.
    errors = {name: e for name, e in errors.items() if not name.endswith("out/bias")}
    worst = max(errors, key=errors.get)
    assert errors[worst] < 1e-4, (worst, errors[worst])

    # The released code's centres: plain SGD at 0.5 on the loss without its weight.
    moved = centres.detach() - config.centre_rate * centres.grad / config.centre
    np.testing.assert_allclose(
        state["batch_stats"]["classifier_centres"]["mean"], moved.numpy(), atol=1e-5
    )
    want = ours(reference.named_buffers())
    for name, got in flatten(state).items():
        if "centres" not in name:
            # PyTorch stores the unbiased variance, Flax the biased one.
            rtol = 0.2 if name == "batch_stats/bottleneck/var" else 5e-2
            rtol = rtol if name.endswith("/var") else 1e-4
            np.testing.assert_allclose(got, want[name], rtol=rtol, atol=1e-5, err_msg=name)


FULL = bot.Config(
    backbone="resnet50_ibn_a", pooling="gem", non_local=(0, 2, 3, 0), triplet="weighted"
)


@pytest.mark.parametrize("train", [False, True])
def test_the_whole_network_equals_pytorch(train, tmp_path):
    """ResNet-50-IBN-a, non-local blocks, GeM and the neck: every map, vector and logit."""
    batch = images(97, 64, items=6)
    reference, _, variables = pair(FULL, batch, tmp_path, settled=True)
    reference.train(train)
    with torch.no_grad():
        *want, want_maps = reference(normalised(np.array(batch.images)))

    network = Ours(FULL, NUM_IDS, jnp.float32)

    @jax.jit
    def run(variables, batch):
        apply = partial(
            network.apply,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: module.name == "backbone",
        )
        out, state = apply(variables, batch.images, batch.pids, train=train, train_backbone=train)
        return out, state["intermediates"]["backbone"]["__call__"][0][1]

    got, maps = run(variables, batch)
    errors = {
        n: error(maps[n], want_maps[f"{n}_{d - 1}"].movedim(1, -1).numpy())
        for n, d in zip(("layer1", "layer2", "layer3", "layer4"), FULL.backbone_layers)
    }
    errors |= {n: error(g, w.numpy()) for n, g, w in zip(got._fields, got, want)}
    assert set(errors) == {"layer1", "layer2", "layer3", "layer4", "before", "after", "logits"}
    # The neck divides by the small deviation of six vectors, which enlarges rounding.
    limits = {name: 2e-4 if name == "after" else 1e-4 for name in errors}
    assert all(errors[name] < limits[name] for name in errors), errors


def test_reid_strong_baselines_names(tmp_path):
    """The same network under the names of BoT's and AGW's own releases."""
    for name, config in CONFIGS.items():
        reference, batch = drawn(config, 5), images(64, 32)
        state = reference.state_dict()
        names = {
            "heads.pool_layer": "global_pool",
            "heads.bottleneck.0": "bottleneck",
            "heads.weight": "classifier.weight",
            "backbone": "base",
        }
        renamed = {}
        for key, tensor in state.items():
            for theirs, released in names.items():
                if key.startswith(theirs):
                    key = key.replace(theirs, released, 1)
            renamed[key] = tensor
        assert any(key.startswith("base.layer1.0.conv1") for key in renamed)
        start = jax.eval_shape(config.make(NUM_IDS).init, jax.random.key(0), batch)
        (tmp_path / name).mkdir()
        variables = []
        for content in (state, renamed):
            variables.append(
                pretrained.install(start, torch_files(content, tmp_path / name)[0], config.arch)[0]
            )
        for tree in variables:
            del tree["batch_stats"]["classifier_centres"]
        jax.tree.map(np.testing.assert_array_equal, *variables)


@pytest.mark.parametrize(
    ("config", "entries", "parameters"),
    [
        # ResNet-50's 23,508,032; a neck of 2 x 2,048; a classifier of 751 x 2,048.
        (bot.Config(), 318 + 5 + 1, 23_508_032 + 4_096 + 1_538_048),
        (FULL, None, None),
    ],
)
def test_the_published_sizes(config, entries, parameters):
    with torch.device("meta"):
        reference = Network(config, 751)
    theirs = sum(tensor.numel() for tensor in reference.parameters())
    batch = Batch(
        jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.uint8),
        *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2,
    )
    params = jax.eval_shape(config.make(751).init, jax.random.key(0), batch)["params"]
    # The neck's shift is a parameter there, which is not trained.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == theirs - 2048
    if parameters:
        assert (len(reference.state_dict()), theirs) == (entries, parameters)
