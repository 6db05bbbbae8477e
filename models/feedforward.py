"""The feed-forward layer of a dense block, and the activations that experts share with it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.collectives import added
from models.config import ModelConfig
from models.parametrization import new_weight
from models.precision import Precision

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swiglu": lambda hidden: jax.nn.silu(hidden[0]) * hidden[1],
    "geglu": lambda hidden: jax.nn.gelu(hidden[0]) * hidden[1],
    "gelu": lambda hidden: jax.nn.gelu(hidden[0]),
    "relu2": lambda hidden: jnp.square(jax.nn.relu(hidden[0])),
    "relu": lambda hidden: jax.nn.relu(hidden[0]),
}


def activate(name: str, hidden_C___: Array) -> Array:
    """The hidden layer from its pre-activations, whose leading axis C holds gate and value of a gated activation, else one array.

    SwiGLU and GeGLU: Shazeer 2020, arXiv 2002.05202 (with the tanh form of GELU); relu2: So et al. 2021, arXiv 2109.08668.
    """
    return ACTIVATIONS[name](hidden_C___)


class MLP(nnx.Module):
    """`y_BTD = mlp(x_BTD)`: one product up (two halves, gate and value, where the activation is gated), the activation, one down."""

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        D, F, C = config.width, config.ffn_width, 2 if config.gated else 1
        self.config, self.precision = config, precision
        self.up_DCF = new_weight(rngs, (D, C, F), "hidden", D, config, precision, inputs=(-3,))
        self.down_FD = new_weight(rngs, (F, D), "hidden", F, config, precision)

    def __call__(self, x_BTD: Array) -> Array:
        D, C, F = self.up_DCF.get_value().shape
        # One matrix product: XLA's CPU backend takes twice the time with C an axis of the einsum.
        hidden_BTX = self.precision.product("BTD,DX->BTX", x_BTD, self.up_DCF[...].reshape(D, C * F))
        hidden_CBTF = jnp.stack(jnp.split(hidden_BTX, C, axis=-1)) if C > 1 else hidden_BTX[None]
        return added(self.precision.product("BTF,FD->BTD", activate(self.config.activation, hidden_CBTF), self.down_FD[...]))
