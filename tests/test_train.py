"""The loop: determinism, resume, devices, and what it says when something is wrong."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import sharding, stalls
from jaxreid.checkpoint import Checkpoints, load_variables
from jaxreid.data.sources import open_source
from jaxreid.errors import Interrupted, UserError
from jaxreid.logs import read_metrics
from jaxreid.train import (
    check_model,
    init_state,
    make_model,
    make_optimizer,
    make_train_step,
    moving_average,
    train,
)
from jaxreid.types import Batch, TrainState


def run(config, workdir, devices=1, evaluate=None, **more):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    source = open_source(config.data)
    state = train(config, workdir, source, mesh, evaluate or (lambda _: {}), **more)
    return jax.device_get(state)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny, tmp_path):
    config = tiny()
    config.train.steps = 20
    first = run(config, tmp_path / "a")
    assert first.step == 20
    assert_equal(first, run(config, tmp_path / "b"))
    config.train.seed = 1
    other = run(config, tmp_path / "c")
    kernel = "params", "embedding", "kernel"
    assert (first.variables[kernel[0]][kernel[1]][kernel[2]] != 0).any()
    assert (first.params["embedding"]["kernel"] != other.params["embedding"]["kernel"]).any()


@pytest.mark.slow
def test_eight_devices_equal_one(tiny, tmp_path):
    config = tiny()
    config.train.steps = 5
    config.optim.lr = 0.001  # more, and rounding differences grow with every step
    one, eight = (run(config, tmp_path / str(n), devices=n) for n in (1, 8))
    assert_close(one.variables, eight.variables, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(tiny, tmp_path):
    config = tiny()
    config.train = dataclasses.replace(config.train, steps=6, checkpoint_every=2)
    whole = run(config, tmp_path / "whole")

    class PowerCut(BaseException):
        pass

    def cut(_):
        raise PowerCut

    # Scoring at step 3 fails; the state of step 3 is saved.
    config.eval.every = 3
    with pytest.raises(PowerCut):
        run(config, tmp_path / "cut", evaluate=cut)
    config.eval.every = 0
    assert_equal(whole, run(config, tmp_path / "cut"))
    steps = [line["step"] for line in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6]
    # Nothing is left to do.
    assert_equal(whole, run(config, tmp_path / "cut"))


@pytest.mark.slow
def test_a_signal_saves_and_stops(tiny, tmp_path, monkeypatch):
    config = tiny()
    config.train.steps = 6
    whole = run(config, tmp_path / "whole")
    from jaxreid.data.sampler import Plan

    rows, asked = Plan.rows, []

    def rows_and_a_signal(self, step):
        asked.append(step)
        if step == 3 and asked.count(3) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return rows(self, step)

    monkeypatch.setattr(Plan, "rows", rows_and_a_signal)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="the same command goes on from here") as stopped:
        run(config, tmp_path / "cut")
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert_equal(whole, run(config, tmp_path / "cut"))


@pytest.mark.slow
@pytest.mark.parametrize("resumes", [False, True])
def test_a_step_is_traced_and_compiled_once(resumes, tiny, tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, fun_name="", **__: compiled.append((name.split("/")[-1], fun_name))
    )
    config = tiny()
    config.train.steps = 2
    for _ in range(1 + resumes):
        compiled.clear()
        run(config, tmp_path, devices=2)
        config.train.steps += 3
    steps = [event for event, name in compiled if "train_step" in name]
    assert steps.count("jaxpr_trace_duration") == steps.count("backend_compile_duration") == 1


def test_the_backbone_is_frozen_at_first(tiny, tmp_path):
    config = tiny()
    config.optim.frozen_epochs = 2  # of 2 steps each
    source, mesh = open_source(config.data), sharding.make_mesh(jax.devices()[:1])
    start = jax.device_get(init_state(config, source, mesh))
    config.train.steps = 4
    frozen = run(config, tmp_path)
    for tree in ("params", "batch_stats"):
        assert_equal(frozen.variables[tree]["backbone"], start.variables[tree]["backbone"])
    assert (frozen.params["embedding"]["kernel"] != start.params["embedding"]["kernel"]).any()
    config.train.steps = 5
    thawed = run(config, tmp_path)
    for tree in ("params", "batch_stats"):
        changed = jax.tree.map(
            lambda a, b: bool((a != b).any()),
            thawed.variables[tree]["backbone"],
            start.variables[tree]["backbone"],
        )
        assert jax.tree.reduce(bool.__and__, changed)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path):
    config = tiny()
    config.train = dataclasses.replace(config.train, steps=3, checkpoint_every=1)
    good = run(config, tmp_path)
    config.train.steps = 8
    config.model.margin = float("nan")
    with pytest.raises(UserError) as error:
        run(config, tmp_path)
    message = str(error.value)
    assert "not finite at step 4" in message
    assert "learning rate 0.05" in message
    assert "bounding_box_train/" in message
    assert_equal(load_variables(tmp_path), good.variables)


def test_a_batch_that_does_not_divide(tiny, tmp_path):
    config = tiny()
    with pytest.raises(UserError, match="is 8, which does not divide among 3 devices"):
        run(config, tmp_path, devices=3)


@pytest.mark.slow
def test_few_images_of_a_person_are_said_once(tiny, tmp_path, capsys):
    config = tiny()
    config.data.num_instances = 8
    config.train.steps = 2
    run(config, tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "with replacement" in line]
    assert len(said) == 1
    assert "of 10 persons have fewer than 8 images" in said[0]


def test_a_training_that_learns_nothing_is_told_so_once(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stalls, "PATIENCE", 2)
    monkeypatch.setattr(stalls, "NEAR", 0.2)  # a random network is near chance, not at it
    config = tiny()
    config.optim.lr = 1e-12
    config.train.steps, config.train.log_every = 4, 1
    run(config, tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "tells nobody apart" in line]
    assert len([line for line in said if "cross_entropy" in line]) == 1


def test_the_best_checkpoint_is_kept(tiny, tmp_path):
    config = tiny()
    config.train = dataclasses.replace(config.train, steps=6, keep=1)
    config.eval.every = 1
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.4])
    run(config, tmp_path, evaluate=lambda _: {"rank1": 0.0, "mAP": next(scores)})
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 6]
    best, newest = load_variables(tmp_path, step=2), load_variables(tmp_path)
    assert (best["params"]["embedding"]["bias"] != newest["params"]["embedding"]["bias"]).any()
    with pytest.raises(UserError, match="no checkpoint of step 3; there are 2, 6"):
        load_variables(tmp_path, step=3)


def test_a_checkpoint_of_another_network_is_refused(tiny, tmp_path):
    run(tiny(), tmp_path)
    config = tiny()
    config.model.dim = 8
    source, mesh = open_source(config.data), sharding.make_mesh(jax.devices()[:1])
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(
            UserError, match=r"checkpoints/5: not a checkpoint of this network \(.*: there \("
        ),
    ):
        checkpoints.restore(init_state(config, source, mesh))


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint there; train with --workdir="):
        load_variables(tmp_path)


def test_a_half_written_checkpoint_is_ignored(tiny, tmp_path):
    state = run(tiny(), tmp_path)
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    assert_equal(load_variables(tmp_path), state.variables)
    assert_equal(run(tiny(), tmp_path), state)


def test_weight_decay_is_coupled_and_momentum_is_pytorchs():
    """Two steps of PyTorch's SGD by hand: v = m v + (g + wd w); w = w - lr v."""
    from jaxreid.config import Optim

    optim = Optim(lr=0.1, momentum=0.9, weight_decay=0.01, decay_epochs=(1,), decay_factor=0.5)
    optimizer, schedule = make_optimizer(optim, steps_per_epoch=1, total=100)
    params = {"backbone": jnp.ones(1), "head": jnp.full(1, 2.0)}
    state, w, v = optimizer.init(params), 2.0, 0.0
    for lr, g in ((0.1, 1.0), (0.05, -3.0)):
        grads = jax.tree.map(lambda p, g=g: jnp.full_like(p, g), params)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        v = 0.9 * v + (g + 0.01 * w)
        w -= lr * v
    assert float(params["head"][0]) == pytest.approx(w, rel=1e-6)
    assert [float(schedule(step)) for step in (0, 1, 2)] == pytest.approx([0.1, 0.05, 0.05])


def test_a_frozen_backbone_does_not_move_whatever_its_gradient():
    from jaxreid.config import Optim

    optimizer, _ = make_optimizer(Optim(lr=0.1, frozen_epochs=1), steps_per_epoch=2, total=100)
    params = {"backbone": jnp.ones(1), "head": jnp.ones(1)}
    state, moved = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append({name: float(update[0]) for name, update in updates.items()})
    assert [update["backbone"] for update in moved[:2]] == [0, 0]
    # No momentum was gathered: the first step is a first step.
    assert moved[2]["backbone"] == moved[0]["head"] < 0


def test_warmup_rises_to_the_full_rate():
    from jaxreid.config import Optim

    _, schedule = make_optimizer(Optim(lr=1.0, warmup=2), steps_per_epoch=5, total=100)
    rates = [float(schedule(step)) for step in (0, 5, 10, 20)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(("decay_epochs", "first", "last"), [((4, 8), 20, 40), ((), 0, 100)])
def test_the_rate_falls_as_half_a_cosine(decay_epochs, first, last):
    """Warm-up over two epochs of 5 steps; then to 1 %, from 4 to 8 epochs or over the run."""
    from jaxreid.config import Optim

    optim = Optim(lr=2.0, warmup=2, decay="cosine", decay_epochs=decay_epochs, decay_factor=0.01)
    _, schedule = make_optimizer(optim, steps_per_epoch=5, total=100)
    for step in range(110):
        share = np.clip((step - first) / (last - first), 0, 1)
        want = 2.0 * (0.01 + 0.99 * (1 + np.cos(np.pi * share)) / 2)
        want *= np.clip(step / 10, 0.1, 1)
        assert float(schedule(step)) == pytest.approx(want, rel=1e-5), step


def test_the_moving_average_is_of_the_steps_alone():
    """Of n steps, step i has the weight d^(n-i) (1-d) / (1-d^n); the start has none."""
    rng, kept = np.random.default_rng(0), 0.9
    steps = rng.normal(size=(8, 3))

    def state(step, value, average):
        tree = {"x": jnp.float32(value)}
        return TrainState(
            jnp.int32(step), tree, {"batch_stats": tree, "fixed": jnp.float32(0.1)}, {}, average
        )

    before = state(0, steps[0], None)
    before = before._replace(average=before.variables)
    for n in range(1, 8):
        after = state(n, steps[n], before.average)
        before = after._replace(average=moving_average(kept, before, after))
        weights = [kept ** (n - i) * (1 - kept) for i in range(1, n + 1)]
        assert sum(weights) == pytest.approx(1 - kept**n)
        want = sum(w * x for w, x in zip(weights, steps[1:])) / sum(weights)
        for collection in ("params", "batch_stats"):
            np.testing.assert_allclose(before.scored[collection]["x"], want, atol=1e-6)
        # What does not change stays to the bit.
        assert before.scored["fixed"] == np.float32(0.1)


@pytest.mark.slow
def test_a_run_with_an_average_goes_on_and_scores_it(tiny, tmp_path):
    config = tiny()
    config.optim.average, config.data.erase, config.data.pad = 0.9, 0.5, 4
    config.train.steps, scored = 4, []
    whole = run(config, tmp_path / "whole")
    assert_equal(load_variables(tmp_path / "whole"), whole.average)
    config.train.steps = 2
    run(config, tmp_path / "cut")
    config.train.steps, config.eval.every = 4, 3

    def evaluate(variables):
        scored.append(jax.device_get(variables))
        return {"rank1": 0.0, "mAP": 0.0}

    again = run(config, tmp_path / "cut", evaluate=evaluate)
    assert_equal(again, whole)
    assert_equal(scored[0], load_variables(tmp_path / "cut", step=3))
    kernel = [state["params"]["embedding"]["kernel"] for state in (whole.average, whole.variables)]
    assert (kernel[0] != kernel[1]).any()
    # The weights that a run is trained with do not depend on whether their average is kept.
    config.optim.average, config.eval.every = None, 0
    plain = run(config, tmp_path / "plain")
    assert plain.average is None
    assert_equal(plain.variables, whole.variables)


def test_rmsprop_is_centred_clipped_and_has_momentum():
    """Graves (2013), section 4.2, three steps by hand; the gradient is clipped before."""
    from jaxreid.config import Optim

    optim = Optim(name="rmsprop", lr=1e-2, momentum=0.9, weight_decay=0.0, grad_clip=5.0)
    optimizer, _ = make_optimizer(optim, steps_per_epoch=1, total=100)
    params = {"head": jnp.full(1, 2.0)}
    state, w, n, g, delta = optimizer.init(params), 2.0, 0.0, 0.0, 0.0
    for gradient in (1.0, -8.0, 0.5):
        updates, state = optimizer.update({"head": jnp.full(1, gradient)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        e = np.clip(gradient, -5, 5)
        n = 0.95 * n + 0.05 * e**2
        g = 0.95 * g + 0.05 * e
        delta = 0.9 * delta - 1e-2 * e / np.sqrt(n - g**2 + 1e-4)
        w += delta
    assert float(params["head"][0]) == pytest.approx(w, rel=1e-5)


def test_amsgrad_does_not_forget_the_largest_gradient():
    """Reddi et al. 2018, Algorithm 2, with Adam's corrections of the start; four steps by hand."""
    from jaxreid.config import Optim

    optimizer, _ = make_optimizer(Optim(name="amsgrad", lr=0.1, weight_decay=0.01), 1, 100)
    params = {"head": jnp.full(1, 2.0)}
    state, w, m, v, largest = optimizer.init(params), 2.0, 0.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, 5.0, 0.1, 0.1), 1):
        updates, state = optimizer.update({"head": jnp.full(1, gradient)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        g = gradient + 0.01 * w
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        largest = max(largest, v / (1 - 0.999**step))
        w -= 0.1 * m / (1 - 0.9**step) / (largest**0.5 + 1e-8)
    assert largest > v / (1 - 0.999**4)
    assert float(params["head"][0]) == pytest.approx(w, rel=1e-5)


def test_new_layers_and_biases_have_their_own_rates_and_biases_do_not_decay():
    """Caffe's fine-tuning: new layers ten times as fast, biases twice and without decay."""
    from jaxreid.config import Optim

    optim = Optim(
        lr=0.1,
        weight_decay=0.5,
        momentum=0.0,
        head_lr_scale=10.0,
        bias_lr_scale=2.0,
        bias_decay=False,
    )
    optimizer, _ = make_optimizer(optim, steps_per_epoch=1, total=100)
    layer = {"kernel": jnp.full(1, 4.0), "bias": jnp.full(1, 4.0)}
    params = {"backbone": layer, "head": {"lstm": layer}}
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    got = jax.tree.map(lambda update: float(update[0]), updates)
    want = {
        "backbone": {"kernel": -0.3, "bias": -0.2},
        "head": {"lstm": {"kernel": -3.0, "bias": -2.0}},
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def test_steps_can_be_profiled(tiny, tmp_path, capsys):
    config = tiny()
    config.train.steps = 3
    with pytest.raises(UserError, match=r"--profile=2:2: 3 steps are left to train"):
        run(config, tmp_path, profile=range(2, 4))
    state = run(config, tmp_path / "traced", profile=range(1, 3))
    assert state.step == 3
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
    assert f"profile: {tmp_path / 'traced' / 'profile'}" in capsys.readouterr().out


def test_the_step_tells_the_loss_which_positives_count(tiny):
    """Those of two cameras; and nothing where any do."""
    config, seen = tiny(), []
    source, mesh = open_source(config.data), sharding.make_mesh(jax.devices()[:1])
    model = make_model(config, source)

    def loss(variables, batch, key, step):
        seen.append(batch)
        return jnp.sum(variables["params"]["x"]), ({}, {})

    images = jnp.zeros((3, *config.data.load_size, 3), jnp.uint8)
    batch = Batch(images, jnp.array([0, 0, 1]), jnp.array([1, 2, 1]))
    optimizer, _ = make_optimizer(config.optim, 1, 100)
    for positives in ("any", "cross_camera"):
        config.data.positives = positives
        params = {"x": jnp.zeros(())}
        state = TrainState(jnp.int32(0), params, {}, optimizer.init(params))
        step = make_train_step(config, model._replace(loss=loss), optimizer, mesh)
        with jax.disable_jit():
            step(state, batch, np.True_)
    assert seen[0].positives is None
    want = [[False, True, False], [True, False, True], [False, True, False]]
    assert seen[1].positives.tolist() == want


@pytest.mark.parametrize(
    ("frozen", "from_scratch", "why"),
    [
        (None, None, "the backbone is frozen to the end, and would stay random"),
        (300, None, "the backbone is frozen to the end, and would stay random"),
        # Of 2 steps each: the run has 5.
        (3, None, "the backbone is frozen to the end, and would stay random"),
        (2, None, None),
        (0, False, "the recipe fine-tunes a network that was trained before"),
        (None, True, None),
    ],
)
def test_weights_that_a_recipe_cannot_do_without(tiny, frozen, from_scratch, why):
    config = tiny()
    config.optim.frozen_epochs, config.train.from_scratch = frozen, from_scratch
    source, mesh = open_source(config.data), sharding.make_mesh(jax.devices()[:1])
    if why is None:
        check_model(config, source, mesh, trains=True, starts=True)
        return
    with pytest.raises(UserError, match=rf"config\.model\.pretrained=None: expected .* {why} \("):
        check_model(config, source, mesh, trains=True, starts=True)
    for goes in ({"trains": False, "starts": True}, {"trains": True, "starts": False}):
        check_model(config, source, mesh, **goes)
