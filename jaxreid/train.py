"""The only training loop, and the only train step."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float16, Int, Key, UInt8

from jaxreid import distributed, pretrained, sharding
from jaxreid.checkpoint import Checkpoints
from jaxreid.config import Config, Optim
from jaxreid.data import decode
from jaxreid.data.augment import random_crop_and_flip, random_erase
from jaxreid.data.clips import first_time
from jaxreid.data.maps import MapCache, mirrored, weights_hash
from jaxreid.data.sampler import ClipRule, Plan
from jaxreid.data.sources import Source
from jaxreid.errors import Interrupted, UserError
from jaxreid.logs import RunLog
from jaxreid.pretrained.weights import BACKBONE
from jaxreid.stalls import Stalls
from jaxreid.types import Batch, Metrics, ReidModel, TrainState, Variables

Step = Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def train(
    config: Config,
    workdir: Path,
    source: Source,
    mesh: Mesh,
    evaluate: Callable[[Variables], dict[str, Any]],
    profile: range = range(0),
) -> TrainState:
    """Trains to the end, from the newest checkpoint in `workdir` or from the start.

    The same call after a kill goes on with the same plan and ends with the same parameters.

    Args:
        config: the run.
        workdir: takes checkpoints and logs.
        source: of images.
        mesh: of the devices.
        evaluate: `variables -> scores`, called every `config.eval.every` steps.
        profile: steps, counted from where this call begins, that `jax.profiler` traces into
            `workdir/profile`.

    Raises:
        UserError: there are not as many steps to profile; the data cannot fill a batch; or an
            image cannot be read, or the loss is no longer finite, and the state of the last good
            step has been saved; or the disk is full.
        Interrupted: a signal came, here or in another process; the state has been saved.
    """
    data, index = config.data, source.data.train
    plan = check_batches(config, source, mesh)
    if plan.short_ids:
        print(
            f"{plan.short_ids} of {source.data.num_ids} persons have fewer than"
            f" {plan.wanted} {'images' if data.clip_length is None else 'tracklets'}:"
            " theirs are drawn with replacement",
            flush=True,
        )
    if data.positives == "cross_camera" and plan.one_camera_ids:
        print(
            f"{plan.one_camera_ids} of {source.data.num_ids} persons were seen by one camera:"
            " they have no positives",
            flush=True,
        )
    divided = sharding.split(mesh)
    mine = sharding.own_rows(data.batch_size, divided)

    def own_rows(step: int) -> Int[np.ndarray, "b *t"]:
        """The share of this process in a batch."""
        return plan.rows(step)[mine]

    total, frozen_steps = _num_steps(config, plan)
    optimizer, schedule = make_optimizer(config.optim, plan.steps_per_epoch, total)
    models = {frozen: make_model(config, source, frozen=frozen) for frozen in (True, False)}
    take_step = {
        frozen: make_train_step(config, model, optimizer, mesh) for frozen, model in models.items()
    }
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, config.train.keep))
        state = restore_or_start(checkpoints, config, source, mesh)
        first = int(state.step)
        if first:
            print(f"resumed from step {first} of {total}", flush=True)
        steps = range(first, total)
        if profile.stop > len(steps):
            raise UserError(
                f"--profile={profile.start}:{len(profile)}: {len(steps)} steps are left to train"
            )
        traced = steps[profile.start : profile.stop]
        trace = stack.enter_context(ExitStack())
        if data.cache is None or not steps:
            images = source.images("train", map(own_rows, steps), data.load_size)
        else:
            maps = _cached_maps(config, source, mesh, state.variables, plan, steps, mine)
            images = stack.enter_context(maps)
        log = stack.enter_context(RunLog(workdir, first, total))
        caught = stack.enter_context(_signals())
        previous: Metrics | None = None
        # Where a step leaves it, too: of anything else, the second step would be traced anew.
        start = sharding.put(np.True_, sharding.replicated(mesh))
        logged, clock = first, time.perf_counter()
        stalls = Stalls(models[False].chance, first)

        def save_good(step: int) -> None:
            if step > first:
                checkpoints.save(step, state)

        def require_finite(metrics: Metrics, step: int) -> None:
            if not metrics["finite"]:
                save_good(step)  # From that step on, the state has stayed as it was.
                raise UserError(_not_finite(metrics, step, plan, source, schedule))

        for step in steps:
            if step in traced[:1]:
                trace.enter_context(jax.profiler.trace(str(workdir / "profile")))
            rows = own_rows(step)
            first_frames, mask = _first_frames(rows), first_time(rows) if rows.ndim == 2 else None
            labels = index.pids[first_frames], index.camids[first_frames]
            joints = source.bodies and source.bodies.at("train", first_frames, data.load_size)
            failure: Exception | None = None
            try:
                batch = Batch(next(images), *labels, mask, joints)
            except (UserError, OSError) as error:
                failure = error
            # All processes stop at one step. They agree while the devices are still at work.
            if reasons := _reasons_to_stop(caught, failure):
                if previous is not None:
                    require_finite(previous, step - 1)
                save_good(step)
                raise _stop(reasons, failure, step)
            batch = sharding.put(batch, divided)
            sound = start if previous is None else previous["finite"]
            state, metrics = take_step[step < frozen_steps](state, batch, sound)
            # The step before is looked at while this one runs.
            if previous is not None:
                require_finite(previous, step - 1)
            previous, done = metrics, step + 1
            if step in traced[-1:]:
                jax.block_until_ready(state)
                trace.close()
                print(f"profile: {workdir / 'profile'}", flush=True)
            log.advance(done)
            logs = done % config.train.log_every == 0 or done == total
            scoring = config.eval.every and done % config.eval.every == 0 and done < total
            saves = done % config.train.checkpoint_every == 0 or done == total
            if logs or scoring or saves:
                require_finite(metrics, step)

            values, scores = {}, None
            if logs:
                values = {name: float(metrics[name]) for name in metrics if name != "finite"}
                values |= {"lr": float(schedule(step)), "epoch": done / plan.steps_per_epoch}
                seconds = time.perf_counter() - clock
                frames = data.batch_size * (data.clip_length or 1)
                values["images_per_s"] = (done - logged) * frames / seconds
            if scoring:
                try:
                    scores = evaluate(state.scored)
                except BaseException as error:
                    # Saving takes all processes, and the others are still at work on the scores.
                    if jax.process_count() == 1:
                        if values:
                            log.write(done, values)
                        checkpoints.save(done, state)
                        if isinstance(error, UserError):
                            raise _stop({0: _DATA}, error, done) from error
                    raise
                values |= {name: scores[name] for name in ("rank1", "mAP")}
            if values:
                log.write(done, values)
                for line in stalls.look(done, values):
                    log.say(line)
                logged, clock = done, time.perf_counter()
            if saves or scoring:
                checkpoints.save(done, state, scores)
        if reasons := _reasons_to_stop(caught, None):
            raise _stop(reasons, None, total)
    return state


_DATA = "data"


def _reasons_to_stop(caught: list[int], failure: Exception | None) -> dict[int, str]:
    """What each process has to say, by its index: a signal's number, or that it has no data."""
    mine = str(caught[0]) if caught else _DATA if failure else None
    return distributed.gather(mine, "the next step")


def _stop(reasons: dict[int, str], failure: Exception | None, step: int) -> Exception:
    """The error that ends a run whose state has been saved."""
    signals = [int(reason) for reason in reasons.values() if reason != _DATA]
    if signals and not failure:
        return Interrupted(signals[0])
    why = failure or f"process {min(reasons)} cannot read its images"
    return UserError(f"{why}; stopped after step {step}, and the same command goes on from there")


def check_batches(config: Config, source: Source, mesh: Mesh) -> Plan:
    """The plan, if its batches can be filled and divided.

    Raises:
        UserError: there are too few persons, the devices do not divide the batch, or a clip's
            length is missing or out of place.
    """
    check_clips(config, source)
    what = "the batch, data.num_ids x data.num_instances,"
    sharding.require_divisible(config.data.batch_size, mesh, what)
    return make_plan(config, source)


def check_clips(config: Config, source: Source) -> None:
    """Raises `UserError` if the length of clips is missing, or out of place."""
    lengths = [split.tracks().length for split in source.data.splits.values()]
    longest = np.concatenate(lengths).max()
    if (config.data.clip_length is not None) != (longest > 1):
        raise UserError(
            f"config.data.clip_length={config.data.clip_length}: {source.data.name} holds "
            + (
                "tracklets; expected the frames of a clip"
                if longest > 1
                else "images; expected None"
            )
        )


def _num_steps(config: Config, plan: Plan) -> tuple[int, int]:
    """Steps of the run, and those at its start in which the backbone is frozen."""
    total = config.train.steps or config.train.epochs * plan.steps_per_epoch
    frozen = config.optim.frozen_epochs
    return total, total if frozen is None else frozen * plan.steps_per_epoch


@contextmanager
def _cached_maps(
    config: Config,
    source: Source,
    mesh: Mesh,
    variables: Variables,
    plan: Plan,
    steps: range,
    mine: slice,
) -> Iterator[Iterator[Float16[np.ndarray, "b t h w c"]]]:
    """What the frozen backbone makes of each batch's rows `mine`, from the cache on disk."""
    data, frames = config.data, source.data.train.size
    model = make_model(config, source, frozen=True)
    assert data.cache is not None
    assert model.maps is not None  # `check_model` has looked.
    # One process fills the cache, with its own devices, and the others then read it.
    mesh = sharding.make_mesh(list(mesh.local_devices))
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    maps = jax.jit(model.maps, in_shardings=(everywhere, divided), out_shardings=divided)
    # A copy, as the first step uses up the state's.
    variables = sharding.put(jax.tree.map(np.array, variables), everywhere)
    batch_size = sharding.round_up(config.eval.batch_size, mesh.size)
    pixels = jax.ShapeDtypeStruct((batch_size, *data.image_size, 3), jnp.uint8)
    key = {
        "data": source.data.fingerprint(),
        "weights": weights_hash(variables),
        "decoder": decode.VERSION,
        "image_size": data.image_size,
        "precision": config.train.precision,
    }
    shape = jax.eval_shape(maps, variables, pixels).shape[1:]

    def frozen(images: UInt8[np.ndarray, "n _ _ 3"]) -> Float[Array, "n h w c"]:
        return maps(variables, sharding.put(images, divided))

    def rows(step: int) -> Int[np.ndarray, "b t"]:
        drawn = plan.rows(step)
        return (mirrored(drawn, step, config.train.seed, frames) if data.flip else drawn)[mine]

    with ExitStack() as stack:
        for _ in distributed.in_turn("the cache of maps"):
            cache = stack.enter_context(MapCache(data.cache, key, shape, frames, flip=data.flip))
            fill = partial(cache.fill, source.images, "train", data.image_size, frozen, batch_size)
            fill()
        yield cache.images(map(rows, steps), mend=fill)


def make_plan(config: Config, source: Source) -> Plan:
    """Which images or clips make up each step."""
    data, clip = config.data, None
    if data.clip_length is not None:
        clip = ClipRule(data.clip_length, data.clip_sampling, data.clip_compat)
    tracks = source.data.train.tracks()
    sizes = data.num_ids, data.num_instances
    return Plan(tracks, *sizes, config.train.seed, clip, data.sampling, data.positives)


def first_epoch_rows(config: Config, source: Source) -> Int[np.ndarray, " n"]:
    """Rows of the training index that the first epoch reads."""
    plan = make_plan(config, source)
    return np.unique([plan.rows(step) for step in range(plan.steps_per_epoch)])


def make_model(config: Config, source: Source, *, frozen: bool = False) -> ReidModel:
    """The method's pure functions as the run asks for them."""
    return config.model.make(
        source.data.num_ids,
        dtype=PRECISIONS[config.train.precision],
        frozen=frozen,
        flip=config.eval.flip,
    )


def make_optimizer(
    optim: Optim, steps_per_epoch: int, total: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule and its learning rate by step.

    Weight decay is added to the gradient before the momentum (PyTorch's coupled L2). Parameters
    under `backbone` neither move nor gather momentum before `optim.frozen_epochs`.

    Args:
        optim: choices.
        steps_per_epoch: of the plan.
        total: steps of the run.
    """

    def rule() -> optax.GradientTransformation:
        decays = None if optim.bias_decay else partial(jax.tree.map_with_path, _is_no_bias)
        scale = {
            "sgd": optax.identity(),
            "adam": optax.scale_by_adam(),
            "amsgrad": optax.scale_by_amsgrad(),
            "rmsprop": optax.scale_by_stddev(decay=0.95, eps=1e-4),
        }[optim.name]
        return optax.chain(
            optax.identity() if optim.grad_clip is None else optax.clip(optim.grad_clip),
            optax.add_decayed_weights(optim.weight_decay, decays),
            scale,
            optax.identity() if optim.name in ("adam", "amsgrad") else optax.trace(optim.momentum),
        )

    def in_steps(epochs: int) -> int:
        return epochs * steps_per_epoch

    if optim.decay == "cosine":
        first, last = map(in_steps, optim.decay_epochs) if optim.decay_epochs else (0, total)
        fall = optax.cosine_decay_schedule(optim.lr, last - first, optim.decay_factor)
        decayed = optax.join_schedules([optax.constant_schedule(optim.lr), fall], [first])
    elif optim.decay == "steps":
        decayed = optax.piecewise_constant_schedule(
            optim.lr, {in_steps(epoch): optim.decay_factor for epoch in optim.decay_epochs}
        )
    warmup = in_steps(optim.warmup)

    def schedule(step: Any) -> Any:
        return decayed(step) * (jnp.clip(step / warmup, 0.1, 1.0) if warmup else 1.0)

    def own_rate(path: Any, update: Any) -> Any:
        in_backbone = path[0].key == BACKBONE
        is_bias = not _is_no_bias(path, update)
        return (
            update
            * (1.0 if in_backbone else optim.head_lr_scale)
            * (optim.bias_lr_scale if is_bias else 1.0)
        )

    update = rule()
    if optim.frozen_epochs is None or optim.frozen_epochs > 0:
        frozen_first = optax.set_to_zero()
        if optim.frozen_epochs is not None:
            frozen_steps = in_steps(optim.frozen_epochs)
            frozen_first = optax.conditionally_mask(rule(), lambda step: step >= frozen_steps)
        update = optax.partition(
            {BACKBONE: frozen_first, "rest": rule()},
            lambda params: {name: name if name == BACKBONE else "rest" for name in params},
        )
    own_rates = optax.stateless(lambda updates, _: jax.tree.map_with_path(own_rate, updates))
    return optax.chain(update, own_rates, optax.scale_by_learning_rate(schedule)), schedule


def _is_no_bias(path: Any, _: Any) -> bool:
    return not path[-1].key.endswith("bias")


def init_state(config: Config, source: Source, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device. A function of `train.seed`.

    Its weights are random; `restore_or_start` puts in those that `config.model.pretrained` names.
    """
    model = make_model(config, source)
    plan = make_plan(config, source)
    total, _ = _num_steps(config, plan)
    optimizer, _ = make_optimizer(config.optim, plan.steps_per_epoch, total)
    batch = example_batch(config, config.data.clip_length)

    def init() -> TrainState:
        variables = model.init(jax.random.key(config.train.seed), batch)
        params = variables.pop("params")
        state = TrainState(jnp.int32(0), params, variables, optimizer.init(params))
        return state if config.optim.average is None else state._replace(average=state.variables)

    return jax.jit(init, out_shardings=sharding.replicated(mesh))()


def restore_or_start(
    checkpoints: Checkpoints, config: Config, source: Source, mesh: Mesh
) -> TrainState:
    """The newest checkpoint, or the state before the first step; says which weights it has.

    Raises:
        UserError: the pretrained weights cannot be read, or do not fit.
    """
    state = init_state(config, source, mesh)
    restored = checkpoints.restore(state)
    if restored is not None:
        return restored
    path = config.model.pretrained
    if path is None:
        print("starts from scratch: config.model.pretrained is not set", flush=True)
        return state
    variables, report = pretrained.install(state.variables, path, config.model.arch)
    print(f"starts from {report}", flush=True)
    everywhere = sharding.replicated(mesh)
    if state.average is not None:
        state = state._replace(average=sharding.put(variables, everywhere))
    params = sharding.put(variables.pop("params"), everywhere)
    return state._replace(params=params, model_state=sharding.put(variables, everywhere))


def check_model(config: Config, source: Source, mesh: Mesh, *, trains: bool, starts: bool) -> None:
    """Traces the network on the shapes of training and of scoring, without computing anything.

    Args:
        config: the run.
        source: of images.
        mesh: of the devices.
        trains: whether it is to be trained.
        starts: whether the run has no checkpoint, and the weights that it is to start from are
            read and laid beside the network's.

    Raises:
        UserError: the network cannot take such clips or batches, there are no weights to start from
            or they do not fit, or the maps of the backbone cannot be cached since it is trained.
    """
    total, frozen = _num_steps(config, make_plan(config, source))
    if trains and starts and config.model.pretrained is None:
        why = None
        if config.train.from_scratch is False:
            why = "the recipe fine-tunes a network that was trained before"
        elif config.train.from_scratch is None and frozen >= total:
            why = "the backbone is frozen to the end, and would stay random"
        if why:
            raise UserError(
                f"config.model.pretrained=None: expected weights, since {why}"
                " (config.train.from_scratch=True starts without them)"
            )
    if config.data.cache is not None:
        if make_model(config, source).maps is None:
            raise UserError(
                f"config.data.cache={config.data.cache}: this model cannot train on kept maps"
            )
        if frozen < total:
            raise UserError(
                f"config.data.cache={config.data.cache}: the backbone is frozen for {frozen} steps"
                f" of {total} only; expected config.optim.frozen_epochs to cover them all"
            )
    variables = jax.eval_shape(lambda: init_state(config, source, mesh).variables)
    if starts and config.model.pretrained is not None:
        pretrained.install(variables, config.model.pretrained, config.model.arch)
    model = make_model(config, source)
    if trains:
        one, size = example_batch(config, config.data.clip_length), config.data.batch_size
        batch = jax.eval_shape(lambda: jax.tree.map(lambda x: jnp.repeat(x, size, axis=0), one))
        key = jax.eval_shape(lambda: jax.random.key(0))
        jax.eval_shape(model.loss, variables, batch, key, jnp.int32(0))
    scored = {"eval.clip_length": config.scored_clip_length}
    for key, length in [*scored.items(), *(("eval.lengths", n) for n in config.eval.lengths)]:
        try:
            jax.eval_shape(model.features, variables, example_batch(config, length))
        except UserError as error:
            raise UserError(f"config.{key}={length}: {error}") from None


def example_batch(config: Config, clip_length: int | None) -> Batch:
    """One black image or clip: what `ReidModel.init` needs to know of the shapes."""
    frames, one = () if clip_length is None else (clip_length,), jnp.ones(1, jnp.int32)
    images = jnp.zeros((1, *frames, *config.data.image_size, 3), jnp.uint8)
    joints = None if config.data.joints is None else jnp.zeros((1, 18, 3))
    return Batch(images, one, one, joints=joints)


def make_train_step(
    config: Config, model: ReidModel, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Step:
    """The jitted step: augment, loss, gradient, update.

    A step whose loss or gradient is not finite leaves the state as it was, and says so in the
    metric `finite`. So does one that is told that the step before was not `sound`, since it is
    handed to the devices before that is known. The state that is given is used up.
    """
    data = config.data
    crop_and_flip = partial(
        random_crop_and_flip,
        size=data.image_size,
        flip=data.flip,
        enlarged=data.enlarged_size if data.enlarge_probability < 1 else None,
        probability=data.enlarge_probability,
        clip_draw=data.clip_draw,
        shift=data.shift,
        pad=data.pad,
    )

    def augment(key: Key[Array, ""], images: UInt8[Array, "b *t h w 3"]) -> Array:
        images = crop_and_flip(key, images)
        if not data.erase:
            return images
        # Beside what the cropping draws from the key.
        return random_erase(
            jax.random.fold_in(key, 2**16), images, data.erase, data.erase_area, data.clip_draw
        )

    def train_step(state: TrainState, batch: Batch, sound: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        key_augment, key_loss = jax.random.split(key)
        if batch.images.dtype == jnp.uint8:  # else maps from the cache
            batch = batch._replace(images=augment(key_augment, batch.images))
        if data.positives == "cross_camera":
            batch = batch._replace(positives=batch.camids[:, None] != batch.camids[None])

        def loss(params: Any) -> Any:
            variables = {"params": params, **state.model_state}
            return model.loss(variables, batch, key_loss, state.step)

        (value, (model_state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        model_state = {**state.model_state, **model_state}
        after = TrainState(state.step + 1, params, model_state, opt_state)
        if config.optim.average is not None:
            after = after._replace(average=moving_average(config.optim.average, state, after))
        finite = sound & jnp.isfinite(value) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        return kept, {"loss": value, **metrics, "grad_norm": norm, "finite": finite}

    everywhere = sharding.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(everywhere, sharding.split(mesh), everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )


def moving_average(kept: float, before: TrainState, after: TrainState) -> Variables:
    """The average over the steps, the newest included, with weights that fall by `kept` a step.

    It is the exponential moving average without its start: the weights of the steps sum to 1, as
    in Adam (Kingma and Ba 2015, section 3), so the random network is no part of it.
    """
    # 1 - kept^n after n steps, without its cancellation.
    sum_of_weights = -jnp.expm1(after.step * math.log(kept))
    share = (1 - kept) / sum_of_weights
    average: Variables = jax.tree.map(
        lambda mean, new: mean + share * (new - mean), before.scored, after.variables
    )
    return average


def _not_finite(
    metrics: Metrics, step: int, plan: Plan, source: Source, schedule: optax.Schedule
) -> str:
    index = source.data.train
    files = ", ".join(str(index.paths[row]) for row in _first_frames(plan.rows(step)))
    return (
        f"the loss or its gradient is not finite at step {step + 1}"
        f" (loss {float(metrics['loss']):.4g}, gradient norm {float(metrics['grad_norm']):.4g},"
        f" learning rate {float(schedule(step)):.4g}); the state after step {step} is kept."
        f" The batch: {files}"
    )


def _first_frames(rows: Int[np.ndarray, "b *t"]) -> Int[np.ndarray, " b"]:
    """A row for each item: of a clip, its first frame's."""
    return rows.reshape(len(rows), -1)[:, 0]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT, SIGTERM and SIGUSR1, to act on between two steps.

    A second Ctrl-C acts at once. Schedulers may send theirs twice, or one after the other.
    """
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def note(signum: int, _: FrameType | None) -> None:
        caught.append(signum)
        signal.signal(signal.SIGINT, previous[signal.SIGINT])

    try:
        for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            previous[wanted] = signal.signal(wanted, note)
    except ValueError:  # Not in the main thread: whoever owns the signals keeps them.
        previous.clear()
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
