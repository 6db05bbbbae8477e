"""The mixture-of-experts feed-forward layer: a router (`models.routing`), a dispatch (`models.dispatch`), experts and shared experts."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.collectives import added
from models.config import ModelConfig
from models.dispatch import DISPATCHES, Experts
from models.expert_rows import expert_capacity
from models.parametrization import new_weight
from models.precision import Precision
from models.routing import RouterBias, RouterStats, route


class MoE(nnx.Module):
    """`experts` MLPs of which each token visits `experts_per_token`, and `shared_experts` that all visit: `y_BTD, stats = moe(x_BTD)`.

    The sum of a token's routed experts, weighted by the router, plus the plain sum of the shared ones (DeepSeekMoE, Dai et al. 2024,
    arXiv 2401.06066, eq. 9), which are kept as one MLP of their joint width.
    """

    def __init__(self, config: ModelConfig, precision: Precision, *, rngs: nnx.Rngs):
        D, F, E, S = config.width, config.expert_width, config.experts, config.shared_experts
        C = 2 if config.gated else 1
        self.config, self.precision = config, precision
        self.router_DE = new_weight(rngs, (D, E), "router", D, config, precision)
        self.up_EDCF = new_weight(rngs, (E, D, C, F), "hidden", D, config, precision, inputs=(-3,))
        self.down_EFD = new_weight(rngs, (E, F, D), "hidden", F, config, precision)
        if config.balance == "bias":
            self.bias_E = RouterBias(jnp.zeros((E,), jnp.float32))
        if S:  # side by side they are one MLP of S times the width
            self.shared_up_DCF = new_weight(rngs, (D, C, S * F), "hidden", D, config, precision, inputs=(-3,))
            self.shared_down_FD = new_weight(rngs, (S * F, D), "hidden", S * F, config, precision)

    def __call__(self, x_BTD: Array) -> tuple[Array, RouterStats]:
        """The layer's output in the dtype of x, and what the router did."""
        x_RD = x_BTD.reshape(-1, x_BTD.shape[-1])
        bias_E = self.bias_E[...] if self.config.balance == "bias" else None
        routing, stats = route(x_RD, self.router_DE[...], self.config, bias_E)
        experts = Experts(self.up_EDCF[...], self.down_EFD[...], self.config.activation, self.precision)
        dispatch = DISPATCHES[self.config.dispatch]
        y_RD, dropped = dispatch(x_RD, routing, experts, expert_capacity(self.config, x_RD.shape[0]))
        if self.config.shared_experts:
            shared = Experts(self.shared_up_DCF[...][None], self.shared_down_FD[...][None], self.config.activation, self.precision)
            y_RD = y_RD + shared(x_RD[None])[0]
        return added(y_RD).reshape(x_BTD.shape), stats._replace(dropped=dropped)
