"""Files of vision transformers with the names and shapes of the released ones."""

import numpy as np

from jaxreid.models import vit


def arrays(config=None, places=128, persons=5, seed=0):
    """A network's state by its published names; of TransReID, or of CLIP-ReID.

    Without a seed, zeros that take no memory.
    """
    config = vit.Config() if config is None else config
    rng = None if seed is None else np.random.default_rng(seed)
    width, patch, depth = config.backbone_width, config.backbone_patch, config.backbone_depth
    found = {}

    def put(name, *shape, positive=False):
        if rng is None:
            found[name] = np.broadcast_to(np.float32(0), shape)
        else:
            drawn = rng.uniform(0.5 if positive else -0.5, 1, shape)
            found[name] = drawn.astype(np.float32)

    def layer(name, inputs, outputs):
        put(f"{name}.weight", outputs, inputs)
        put(f"{name}.bias", outputs)

    def norm(name, features=width):
        put(f"{name}.weight", features)
        put(f"{name}.bias", features)

    def block(name):
        norm(f"{name}.norm1")
        layer(f"{name}.attn.qkv", width, 3 * width)
        layer(f"{name}.attn.proj", width, width)
        norm(f"{name}.norm2")
        layer(f"{name}.mlp.fc1", width, 4 * width)
        layer(f"{name}.mlp.fc2", 4 * width, width)

    def heads(name, features=width):
        norm(f"bottleneck{name}", features)
        found[f"bottleneck{name}.bias"] = np.zeros(features, np.float32)
        put(f"bottleneck{name}.running_mean", features)
        put(f"bottleneck{name}.running_var", features, positive=True)
        found[f"bottleneck{name}.num_batches_tracked"] = np.zeros((), np.int64)
        put(f"classifier{name}.weight", persons, features)

    if config.form == "clip":
        if config.sie:
            put("cv_embed", config.cameras, width)
        heads("")
        heads("_proj", config.backbone_projection)
        put("image_encoder.class_embedding", width)
        put("image_encoder.positional_embedding", places + 1, width)
        put("image_encoder.proj", width, config.backbone_projection)
        put("image_encoder.conv1.weight", width, 3, patch, patch)
        norm("image_encoder.ln_pre")
        for index in range(depth):
            name = f"image_encoder.transformer.resblocks.{index}"
            put(f"{name}.attn.in_proj_weight", 3 * width, width)
            put(f"{name}.attn.in_proj_bias", 3 * width)
            layer(f"{name}.attn.out_proj", width, width)
            norm(f"{name}.ln_1")
            layer(f"{name}.mlp.c_fc", width, 4 * width)
            layer(f"{name}.mlp.c_proj", 4 * width, width)
            norm(f"{name}.ln_2")
        norm("image_encoder.ln_post")
        put("prompt_learner.cls_ctx", persons, 4, 8)
        put("prompt_learner.token_prefix", 1, 5, 8)
        put("text_encoder.positional_embedding", 7, 8)
        put("text_encoder.text_projection", 8, 8)
        norm("text_encoder.transformer.resblocks.0.ln_1", 8)
        norm("text_encoder.ln_final", 8)
        return found
    put("base.cls_token", 1, 1, width)
    put("base.pos_embed", 1, places + 1, width)
    if config.sie:
        put("base.sie_embed", config.cameras, 1, width)
    put("base.patch_embed.proj.weight", width, 3, patch, patch)
    put("base.patch_embed.proj.bias", width)
    for index in range(depth):
        block(f"base.blocks.{index}")
    norm("base.norm")
    layer("base.fc", width, 10)
    if config.jpm:
        for branch in ("b1", "b2"):
            block(f"{branch}.0")
            norm(f"{branch}.1")
    for name in ["", *([f"_{part}" for part in range(1, 5)] if config.jpm else [])]:
        heads(name)
    return found


def of_imagenet(state):
    """timm's names of a transformer of TransReID, with two classes."""
    names = {name: name.removeprefix("base.") for name in state if name.startswith("base.")}
    return {
        ours.replace("fc.", "head.") if ours.startswith("fc.") else ours: state[name]
        for name, ours in names.items()
        if ours != "sie_embed"
    }


def of_openai(state):
    """OpenAI's names of an image encoder of CLIP-ReID, and some of those of its texts."""
    found = {
        name.replace("image_encoder.", "visual."): array
        for name, array in state.items()
        if name.startswith("image_encoder.")
    }
    some = np.ones((4, 4), np.float32)
    return {
        **found,
        "positional_embedding": some,
        "text_projection": some,
        "logit_scale": np.ones((), np.float32),
        "token_embedding.weight": some,
        "transformer.resblocks.0.attn.in_proj_weight": some,
        "ln_final.bias": some[0],
    }
