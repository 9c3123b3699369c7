import jax
import numpy as np
import pytest

from jaxreid import pretrained, released
from jaxreid.errors import UserError
from jaxreid.pretrained import Raw, rules
from jaxreid.types import Batch
from tests.pretrained import osnet_files, test_bot, writers


@pytest.mark.parametrize("name", released.RELEASES)
def test_every_release_is_whole(name):
    release = released.RELEASES[name]
    assert release.model.arch in rules.ARCHITECTURES
    release.model.validate()
    shapes = jax.eval_shape(
        release.model.make(1).init, jax.random.key(0), released._example(release)
    )
    network = {
        name: tree for name, tree in shapes["params"].items() if not name.startswith("classifier")
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == release.parameters


@pytest.mark.parametrize(
    ("name", "prefix", "wrapper"),
    [
        ("osnet_x0_25", "", None),
        ("osnet_ibn_x1_0", "module.", None),
        ("osnet_ain_x0_5", "module.", "state_dict"),
    ],
)
def test_a_file_is_recognised(name, prefix, wrapper, tmp_path):
    state = osnet_files.arrays(name)
    renamed = {prefix + key: array for key, array in state.items()}
    found = released.load(writers.write_zip(tmp_path / "x.pth", renamed, wrapper))
    assert found.config.model == released.RELEASES[name].model
    assert found.config.data.image_size == (256, 128)
    assert found.features.shape == (1, 512)
    backbone = found.variables["params"]["backbone"]
    kernel = state["conv5.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(backbone["conv5"]["kernel"], kernel)
    np.testing.assert_array_equal(backbone["fc"]["kernel"], state["fc.0.weight"].T)
    assert not np.any(found.variables["params"]["classifier"]["kernel"])
    mean = found.variables["preprocessing"]["backbone"]["mean"]
    np.testing.assert_allclose(mean, 255 * np.array([0.485, 0.456, 0.406]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bot_resnet50_ibn_a", "agw_resnet50"])
@pytest.mark.parametrize("names", ["fast-reid", "reid-strong-baseline"])
def test_a_network_around_a_resnet_is_recognised(name, names):
    release = released.RELEASES[name]
    example = released._example(release)
    shapes = jax.eval_shape(release.model.make(9).init, jax.random.key(0), example)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    raw = Raw("a file", "torch", test_bot.published(ones, *test_bot.HEADS[names]))
    found, _, variables = released._recognised(raw)
    assert found == name
    assert np.all(variables["params"]["bottleneck"]["scale"] == 1)
    assert not np.any(variables["params"]["classifier"]["kernel"])
    # The backbone alone knows nobody.
    below = f"{test_bot.HEADS[names][0]}."
    alone = {key.removeprefix(below): array for key, array in raw.arrays.items() if below in key}
    with pytest.raises(UserError, match="of no network that is known here"):
        released._recognised(raw._replace(arrays=alone))


@pytest.mark.slow
def test_an_exported_file_is_recognised_and_gives_the_same_features(tmp_path):
    state = osnet_files.arrays()
    plain = released.load(writers.write_zip(tmp_path / "x.pth", state))
    exported = released.load(osnet_files.write_onnx(tmp_path / "x.onnx", state))
    assert exported.config == plain.config
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), dtype=np.uint8)
    batch = Batch(images, np.zeros(2, int), np.zeros(2, int))
    features = jax.jit(plain.model.features)
    want = features(plain.variables, batch)
    got = features(exported.variables, batch)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_our_own_file_knows_its_network(tmp_path):
    path = writers.write_zip(tmp_path / "x.pth", osnet_files.arrays())
    pretrained.save(pretrained.convert(path, "osnet_x0_25"), tmp_path / "x.safetensors")
    found, want = released.load(tmp_path / "x.safetensors"), released.load(path)
    assert found.config == want.config
    jax.tree.map(np.testing.assert_array_equal, found.variables, want.variables)


def test_what_is_no_release_is_one_line(tmp_path):
    state = osnet_files.arrays()
    narrow = {name: array[:8] if name == "fc.1.weight" else array for name, array in state.items()}
    lacking = {name: array for name, array in state.items() if not name.startswith("conv4.1")}
    other = {"layer1.0.conv1.weight": np.ones((4, 4, 1, 1), "<f4"), "fc.bias": np.ones(3, "<f4")}
    cases = [
        (narrow, None, "weights of osnet_x0_25 do not fit the model: of another shape 1 ("),
        (lacking, None, "weights of osnet_x0_25 do not fit the model: missing"),
        (other, None, "of no network that is known here: 2 arrays (layer1.0.conv1.weight, fc.bias"),
        (other, None, "of which the nearest, osnet_x0_25, has 0; expected osnet_x1_0, osnet_x0_75"),
        (state, "osnet_x1_0", "weights of osnet_x1_0 do not fit the model: of another shape"),
        (state, "osnet_1_0", "arch=osnet_1_0: expected osnet_x1_0, osnet_x0_75"),
        (state, "osnet_1_0", "did you mean 'osnet_x1_0'?"),
    ]
    for arrays, arch, message in cases:
        path = writers.write_zip(tmp_path / "x.pth", arrays)
        with pytest.raises(UserError) as error:
            released.load(path, arch)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nothing: expected a run's folder or a file"):
        released.load(tmp_path / "nothing")
