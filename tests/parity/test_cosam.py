"""COSAM against PyTorch with the released networks' names: outputs, loss and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jaxreid import pretrained  # noqa: E402
from jaxreid.backbones.layers import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from jaxreid.models import cosam  # noqa: E402
from jaxreid.types import Batch  # noqa: E402
from tests.parity.compare import draw  # noqa: E402
from tests.parity.conversion import convert  # noqa: E402
from tests.parity.reference_cosam import Network, loss  # noqa: E402

NUM_IDS, CLIP = 3, (4, 64, 32)
SMALL = {
    "reduced": 16,
    "attention_features": 12,
    "hidden_features": 12,
    "backbone_width": 8,
}
CONFIGS = {
    "se-tp": cosam.Config(**SMALL, backbone="se_resnet50", head="tp"),
    "tp": cosam.Config(**SMALL, backbone="resnet50", backbone_layers=(2, 1, 1, 2)),
    "ta": cosam.Config(**SMALL, backbone="resnet50", head="ta", backbone_layers=(1, 1, 1, 1)),
    "rnn": cosam.Config(**SMALL, backbone="resnet50", head="rnn", backbone_layers=(1, 1, 1, 1)),
}
# The release's names -> ours.
CHILDREN = dict(zip("014567", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")))
MODULE = {
    "dim_reduction.0": "reduce",
    "dim_reduction.1": "reduce_bn",
    "spatial_mask_summary.0": "summary_hidden",
    "spatial_mask_summary.1": "summary_bn",
    "spatial_mask_summary.3": "summary",
    "channelwise_attention.0": "channel_hidden",
    "channelwise_attention.2": "channel",
}
STATISTICS = {"running_mean": "mean", "running_var": "var"}


def to_ours(arrays, se):
    """NumPy arrays by the release's names, weights or gradients -> our collections."""
    base, out = {}, {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        first, rest = name.split(".", 1)
        if rest.endswith("num_batches_tracked"):
            continue
        if first == "base":
            child, below = rest.split(".", 1)
            base[rest if se else f"{CHILDREN[child]}.{below}"] = array
            continue
        if first == "attention_modules":
            _, index, *path, leaf = rest.split(".")
            place = [f"cosam{int(index) + (1 if se else 2)}", MODULE[".".join(path)]]
        elif first == "aggregation":
            layer, leaf = rest.split(".")
            ours = {"attention_conv": "spatial", "attention_tconv": "temporal", "lstm": "lstm"}
            place = ["head", ours[layer]]
        else:
            place, leaf = ["classifier"], rest
        tree = out["batch_stats" if leaf in STATISTICS else "params"]
        for part in place:
            tree = tree.setdefault(part, {})
        if leaf in STATISTICS:
            tree[STATISTICS[leaf]] = array
        elif place[-1] == "lstm":
            kind, of = leaf.split("_")[:2]
            names = {"weight": ("kernel", "recurrent"), "bias": ("bias", "recurrent_bias")}
            tree[names[kind][of == "hh"]] = array.T
        elif leaf == "bias":
            tree["bias"] = array
        elif array.ndim == 1:
            tree["scale"] = array
        else:
            # out, in, places -> places and in, out.
            tree["kernel"] = np.moveaxis(array, (0, 1), (-1, -2)).reshape(-1, array.shape[0])
    for collection, modules in convert(base).items():
        out[collection]["backbone"] = modules
    return out


def clips():
    """Persons of different colours, in noise."""
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(NUM_IDS), 2)
    colours = rng.integers(40, 215, (NUM_IDS, 1, 1, 1, 3))[pids]
    noise = rng.normal(0, 40, (len(pids), *CLIP, 3))
    images = np.clip(colours + noise, 0, 255).astype(np.uint8)
    return Batch(jnp.asarray(images), jnp.asarray(pids), jnp.ones(len(pids), int))


def normalised(images):
    x = torch.from_numpy(np.array(images)).permute(0, 1, 4, 2, 3).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    """Both networks with the same weights; the reference in float64."""
    config, batch = CONFIGS[request.param], clips()
    torch.manual_seed(0)
    reference = draw(Network(config, NUM_IDS, CLIP), seed=3).double()
    model = config.make(NUM_IDS)
    start = jax.eval_shape(model.init, jax.random.key(0), batch)
    state = {
        name: tensor.detach().numpy().astype(np.float32)
        for name, tensor in reference.state_dict().items()
    }
    variables = to_ours(state, config.backbone == "se_resnet50")
    of_pixels = {"mean": jnp.asarray(IMAGENET_MEAN), "std": jnp.asarray(IMAGENET_STD)}
    variables["preprocessing"] = {"backbone": of_pixels}
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, start)
    return config, reference, model, variables, batch


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def test_features_and_masks(pair):
    _, reference, model, variables, batch = pair
    reference.eval()
    with torch.no_grad():
        vectors, _, masks = reference(normalised(batch.images))
    got = jax.jit(model.features)(variables, batch)
    assert rms(got - vectors.numpy()) < 1e-5 * rms(vectors)
    ours = jax.jit(model.explain)(variables, batch)
    for name, mask in zip(("cosam4", "cosam5"), masks):
        # Masks of drawn weights hardly differ from place to place: measured by how much they do.
        assert rms(ours[name].weights - mask.numpy()) < 1e-3 * float(mask.std())


def test_the_loss_every_gradient_and_the_statistics(pair):
    config, reference, model, variables, batch = pair
    reference.train()
    vectors, logits, _ = reference(normalised(batch.images))
    value = loss(vectors, logits, torch.from_numpy(np.array(batch.pids)))
    value.backward()

    def ours(params):
        key = jax.random.key(0)
        return model.loss({**variables, "params": params}, batch, key, jnp.int32(0))

    (got, (state, _)), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(variables["params"])
    assert float(got) == pytest.approx(value.item(), rel=1e-5)

    se = config.backbone == "se_resnet50"
    want = {name: p.grad.numpy() for name, p in reference.named_parameters()}
    want = to_ours(want, se)["params"]
    # What has no effect but rounding is compared with the gradients at large.
    floor = 1e-3 * max(rms(leaf) for leaf in jax.tree.leaves(want))
    errors = jax.tree.map(lambda g, w: rms(g - w) / max(rms(w), floor), grads, want)
    worst = sorted(jax.tree_util.tree_leaves_with_path(errors), key=lambda item: -item[1])[0]
    assert worst[1] < 1e-4, worst

    statistics = {name: b.numpy() for name, b in reference.named_buffers()}
    want = to_ours(statistics, se)["batch_stats"]
    # PyTorch stores the unbiased variance, Flax the biased one.
    jax.tree_util.tree_map_with_path(
        lambda path, g, w: np.testing.assert_allclose(
            g, w, rtol=2e-2 if path[-1].key == "var" else 1e-4, atol=1e-5
        ),
        state["batch_stats"],
        want,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_released_files_are_read(name, tmp_path):
    config, batch = CONFIGS[name], clips()
    state = draw(Network(config, NUM_IDS, CLIP), seed=5).state_dict()
    path = tmp_path / "checkpoint_ep800.pth.tar"
    torch.save({"state_dict": state, "rank1": 0.849, "epoch": 799}, path)

    weights = pretrained.convert(path, f"cosam_{config.backbone}")
    pretrained.save(weights, tmp_path / "ours.safetensors")
    start = jax.eval_shape(config.make(NUM_IDS).init, jax.random.key(0), batch)
    for source in (weights, tmp_path / "ours.safetensors"):
        variables, report = pretrained.install(start, source, config.arch)
        assert not report.left_out
        want = to_ours(
            {key: array.numpy() for key, array in state.items()}, config.backbone == "se_resnet50"
        )
        assert len(report.taken) == len(jax.tree.leaves(want)) + 2
        for collection, tree in want.items():
            jax.tree.map(np.testing.assert_array_equal, variables[collection], tree)
        np.testing.assert_allclose(
            variables["preprocessing"]["backbone"]["mean"], IMAGENET_MEAN, rtol=1e-6
        )


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
