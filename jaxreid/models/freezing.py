"""A backbone that stays as it is while what is around it learns."""

import jax

from jaxreid.types import Variables


def freeze_backbone(variables: Variables) -> Variables:
    """The same variables, without a gradient to the backbone's parameters.

    Not to its output: modules that stand between its blocks learn through it.
    """
    params = variables["params"]
    fixed = jax.lax.stop_gradient(params["backbone"])
    return {**variables, "params": {**params, "backbone": fixed}}
