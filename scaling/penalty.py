"""The compute penalty: how much more training compute a follower needs for the leader's loss.

The follower's law is the leader's with N / structure for the parameters and D_eff / data for the tokens, D_eff being the tokens
after repetition. If N and D are free and cost is proportional to N D, the penalty is structure * data exactly, for any law and
at any scale: the follower's problem is the leader's with N = structure * n, D = data * d. What departs from that is what this module
is for: fixed tokens or size, finite unique data, over-training, misallocation, serving, another law.

Everything is solved in logs and on the two terms of the reducible loss, so that 1e29 FLOP is as exact as 1e19. Chinchilla's law is solved here
by closed forms and one search; other laws, and many questions at once, by `scaling.penalty_batch`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from scipy.optimize import brentq, minimize_scalar

from fits import frontier
from fits.curve import Allocation, Curve
from fits.laws.chinchilla import CHINCHILLA
from scaling.comparability import check_same_text
from scaling.errors import InputError
from scaling.repetition import REPETITION_HALF_LIFE, effective_tokens, tokens_with_effect

FIXED = (None, "tokens", "params", "tokens_per_param")


@dataclasses.dataclass(frozen=True)
class Penalty:
    """`value` = follower's compute / leader's, at equal loss; infinite and `feasible = False` where no compute suffices.

    With served tokens both computes include 2 N per served token. `decades_outside` says by how far the computes lie
    beyond the range of compute that the curve was fitted on, serving left out. `hours` is the ratio in hours of as many chips, and in dollars at one price.
    """

    value: float
    leader: Allocation
    follower: Allocation
    feasible: bool
    reason: str
    decades_outside: float
    hours: float = math.nan


@dataclasses.dataclass(frozen=True)
class _Lab:
    """One side's law: E + a N^-alpha + b D_eff^-beta with its handicaps in a and b, and its supply of unique tokens."""

    curve: Curve
    structure: float
    data: float
    unique_tokens: float

    @property
    def irreducible(self) -> float:
        return self.curve.constants["E"]

    def params_term(self, params: float) -> float:
        return self.curve.constants["A"] * (params / self.structure) ** -self.curve.constants["alpha"]

    def tokens_term(self, tokens: float) -> float:
        return self.curve.constants["B"] * (effective_tokens(tokens, self.unique_tokens) / self.data) ** -self.curve.constants["beta"]

    def params_for(self, term: float) -> float:
        """Parameters whose term is `term`; infinite where that is not positive."""
        if term <= 0:
            return math.inf
        return self.structure * (self.curve.constants["A"] / term) ** (1 / self.curve.constants["alpha"])

    def tokens_for(self, term: float) -> float:
        """Tokens, repetition counted, whose term is `term`; infinite where no amount suffices."""
        if term <= 0:
            return math.inf
        return tokens_with_effect(self.data * (self.curve.constants["B"] / term) ** (1 / self.curve.constants["beta"]), self.unique_tokens)

    def loss(self, params: float, tokens: float) -> float:
        return self.irreducible + self.params_term(params) + self.tokens_term(tokens)

    def least_tokens_term(self) -> float:
        """The tokens' term if every unique token is repeated without end."""
        if math.isinf(self.unique_tokens):
            return 0.0
        most = self.unique_tokens * (1 + REPETITION_HALF_LIFE)
        return self.curve.constants["B"] * (most / self.data) ** -self.curve.constants["beta"]

    def cost(self, params: float, tokens: float, served: float) -> float:
        return params * (self.curve.flops_per_param_token * tokens + 2 * served)

    def allocation(self, params: float, tokens: float, served: float) -> Allocation:
        return Allocation(params, tokens, self.loss(params, tokens), self.cost(params, tokens, served))

    def optimal_params(self, product: float) -> float:
        """The size of least loss where params * tokens = product, repetition counted."""
        free = self.structure * float(frontier.optimal_size(self.curve.law, self.curve.vector, product / (self.structure * self.data)))
        if product / free <= self.unique_tokens:
            return free
        search = minimize_scalar(
            lambda log_n: self.params_term(math.exp(log_n)) + self.tokens_term(product / math.exp(log_n)),
            bounds=(math.log(free), math.log(product)),
            method="bounded",
            options={"xatol": 1e-11},
        )
        return math.exp(search.x)


def compute_penalty(
    curve: Curve,
    *,
    flops: float,
    structure: float = 1.0,
    data: float = 1.0,
    follower: Curve | None = None,
    unique_tokens: float | None = None,
    follower_unique_tokens: float | None = None,
    fixed: str | None = None,
    overtraining: float = 1.0,
    allocation_error: float = 1.0,
    served_tokens: float = 0.0,
    throughput: float = 1.0,
    inputs: Mapping[str, float] | None = None,
    force: bool = False,
) -> Penalty:
    """The follower's compute over the leader's at the loss that `flops` of training buy the leader.

    structure, data: the follower's gaps, dividing its parameters and its effective tokens (below 1: it leads). follower: its own curve.
    unique_tokens: of the leader, and of the follower too unless follower_unique_tokens is given. fixed: what the follower
    cannot change against the leader's run: "tokens", "params" or "tokens_per_param". overtraining: the leader trains on this
    multiple of the optimal tokens per parameter; a follower with nothing fixed is free to allocate afresh. allocation_error: the
    follower's N is this multiple of its optimum at the same compute. served_tokens: each lab serves so many, at 2 N FLOP
    each, and allocates for the least sum of training and serving. throughput: the leader's FLOP per chip and hour over the follower's (chip,
    utilisation, links), which costs hours and dollars and no FLOP. inputs: what a law takes beside size and tokens (experts, bits, ...), of
    both sides. force: compare curves of different corpora or tokenizers, which is refused otherwise. Raises InputError.
    """
    check_same_text(curve, follower or curve, force=force)
    values = {"flops": flops, "structure": structure, "data": data, "overtraining": overtraining, "allocation_error": allocation_error}
    values |= {"throughput": throughput}
    unique = math.inf if unique_tokens is None else unique_tokens
    follower_unique = unique if follower_unique_tokens is None else follower_unique_tokens
    values |= {"unique_tokens": unique, "follower_unique_tokens": follower_unique}
    for name, value in values.items():
        if not value > 0 or (math.isinf(value) and "unique" not in name):
            raise InputError(f"penalty: {name} must be positive{'' if 'unique' in name else ' and finite'}, got {value}")
    if not (served_tokens >= 0 and math.isfinite(served_tokens)):
        raise InputError(f"penalty: served_tokens must be 0 or more, got {served_tokens}")
    if fixed not in FIXED:
        raise InputError(f"penalty: fixed must be tokens, params or tokens_per_param, got {fixed!r}")
    if allocation_error != 1 and (fixed or served_tokens):
        raise InputError("penalty: allocation_error is the follower's own choice of N: it goes neither with fixed nor with served_tokens")
    if served_tokens and overtraining != 1:
        raise InputError("penalty: served_tokens already decides how long the leader trains; leave overtraining at 1")

    if any(each.law is not CHINCHILLA for each in (curve, follower or curve)):
        settings: dict[str, Any] = {
            "structure": structure,
            "data": data,
            "unique_tokens": unique,
            "follower_unique_tokens": follower_unique,
        }
        settings |= {"overtraining": overtraining, "allocation_error": allocation_error, "served_tokens": served_tokens}
        found = _by_any_law(curve, follower or curve, flops, fixed, inputs or {}, settings)
    elif inputs:
        raise InputError(f"penalty: {next(iter(inputs))!r} is no further input of law {curve.law.name}; it has none")
    else:
        lead, follow = _Lab(curve, 1.0, 1.0, unique), _Lab(follower or curve, structure, data, follower_unique)
        found = _by_closed_forms(
            lead, follow, _leader(lead, flops, overtraining, served_tokens), flops, fixed, allocation_error, served_tokens
        )
    return dataclasses.replace(found, hours=found.value * throughput)


def overtraining_for(curve: Curve, tokens_per_param: float, otherwise: float, **settings: Any) -> float:
    """The over-training of a leader that trains on so many tokens per parameter; `settings` (flops, unique_tokens, inputs) are `compute_penalty`'s.

    With fixed="tokens_per_param" this makes the rule of both labs. Raises InputError.
    """
    if not (tokens_per_param > 0 and math.isfinite(tokens_per_param)):
        raise InputError(f"penalty: tokens_per_param must be positive and finite, got {tokens_per_param}")
    if otherwise != 1:
        raise InputError("penalty: overtraining and tokens_per_param both say how long the leader trains; give one")
    optimum = compute_penalty(curve, **settings).leader
    return tokens_per_param * optimum.params / optimum.tokens


def _by_closed_forms(lead: _Lab, follow: _Lab, leader: Allocation, flops: float, fixed: str | None, error: float, served: float) -> Penalty:
    outside = lead.curve.decades_outside(flops=flops)
    params, tokens = _follower(follow, leader, fixed, error, served)
    if not math.isfinite(params * tokens):
        reason = _why_impossible(follow, leader, fixed)
        return Penalty(math.inf, leader, Allocation(params, tokens, math.nan, math.inf), False, reason, outside)
    reached = follow.allocation(params, tokens, served)
    trained = follow.cost(params, tokens, 0.0)
    return Penalty(reached.flops / leader.flops, leader, reached, True, "", max(outside, follow.curve.decades_outside(flops=trained)))


def _by_any_law(
    curve: Curve, follower: Curve, flops: float, fixed: str | None, inputs: Mapping[str, float], settings: dict[str, Any]
) -> Penalty:
    from scaling.penalty_batch import penalties  # compiles, which takes seconds

    found = penalties(curve, flops=flops, follower=follower, fixed=fixed, inputs=inputs, **settings)
    sides = []
    for side, each in (("leader", curve), ("follower", follower)):
        params, tokens, cost = (float(getattr(found, f"{side}_{name}")) for name in ("params", "tokens", "flops"))
        loss = _loss(each, settings, side, params, tokens, inputs) if math.isfinite(params * tokens) else math.nan
        sides.append(Allocation(params, tokens, loss, cost))
    value, outside = float(found.value), curve.decades_outside(flops=flops)
    if not math.isfinite(value):
        return Penalty(
            math.inf, sides[0], sides[1], False, f"no compute brings the follower to the leader's loss {sides[0].loss:.4g}", outside
        )
    trained = follower.flops_per_param_token * sides[1].params * sides[1].tokens
    return Penalty(value, sides[0], sides[1], True, "", max(outside, follower.decades_outside(flops=trained)))


def _loss(curve: Curve, settings: dict[str, Any], side: str, params: float, tokens: float, inputs: Mapping[str, float]) -> float:
    """The loss of one side's run, its handicaps counted."""
    structure, data = (settings["structure"], settings["data"]) if side == "follower" else (1.0, 1.0)
    unique = settings["unique_tokens" if side == "leader" else "follower_unique_tokens"]
    known = {str(curve.law.size): params / structure, "tokens": tokens / data, **inputs}
    if "unique_tokens" in curve.law.inputs:  # the law repeats data by itself
        known |= {} if math.isinf(unique) else {"unique_tokens": unique / data}
    else:
        known["tokens"] = effective_tokens(tokens, unique) / data
    return float(curve.evaluate(**known))


def _leader(lab: _Lab, flops: float, overtraining: float, served: float) -> Allocation:
    product = flops / lab.curve.flops_per_param_token
    params = lab.optimal_params(product) / math.sqrt(overtraining)
    trained = lab.allocation(params, product / params, 0.0)
    if not served:
        return trained
    return lab.allocation(*_cheapest(lab, trained.loss, served), served)


def _follower(lab: _Lab, leader: Allocation, fixed: str | None, error: float, served: float) -> tuple[float, float]:
    """Params and tokens of the follower's cheapest way to the leader's loss; one of them infinite where there is none."""
    reducible = leader.loss - lab.irreducible
    if fixed == "tokens":
        return lab.params_for(reducible - lab.tokens_term(leader.tokens)), leader.tokens
    if fixed == "params":
        return leader.params, lab.tokens_for(reducible - lab.params_term(leader.params))
    if fixed == "tokens_per_param":
        ratio = leader.tokens / leader.params
        return _on_path(lab, leader, lambda log_p: (math.exp(log_p / 2) / math.sqrt(ratio), math.exp(log_p / 2) * math.sqrt(ratio)))
    if error != 1:

        def misallocated(log_product: float) -> tuple[float, float]:
            params = error * lab.optimal_params(math.exp(log_product))
            return params, math.exp(log_product) / params

        return _on_path(lab, leader, misallocated)
    return _cheapest(lab, leader.loss, served)


def _on_path(lab: _Lab, leader: Allocation, path: Callable[[float], tuple[float, float]]) -> tuple[float, float]:
    """The point of a path through (params, tokens), given by the log of their product, where the leader's loss is met."""

    def excess(log_product: float) -> float:
        return lab.loss(*path(log_product)) - leader.loss

    middle = math.log(leader.params * leader.tokens)
    if excess(middle + 60) >= 0:
        return math.inf, math.inf
    root = brentq(excess, middle - 60, middle + 60, xtol=1e-13, rtol=1e-14)
    return path(root)


def _cheapest(lab: _Lab, loss: float, served: float) -> tuple[float, float]:
    """Params and tokens of least cost that reach `loss`.

    One number describes every way there: the share q of the reducible loss (less what no repetition can remove) that is
    left to the parameters' term. The search is over logit q.
    """
    spare = loss - lab.irreducible - lab.least_tokens_term()
    if spare <= 0:
        return math.inf, math.inf

    def way(logit: float) -> tuple[float, float]:
        # Both shares are formed without cancellation, so that the ends are exact too.
        params_share, tokens_share = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
        return lab.params_for(params_share * spare), lab.tokens_for(tokens_share * spare + lab.least_tokens_term())

    def log_cost(logit: float) -> float:
        return math.log(lab.cost(*way(logit), served))

    search = minimize_scalar(log_cost, bounds=(-30, 30), method="bounded", options={"xatol": 1e-11})
    return way(search.x)


def _why_impossible(lab: _Lab, leader: Allocation, fixed: str | None) -> str:
    reducible = leader.loss - lab.irreducible
    if reducible <= 0:
        return f"the follower's irreducible loss {lab.irreducible:.4g} is not below the leader's loss {leader.loss:.4g}"
    if fixed == "tokens":
        return f"on the leader's {leader.tokens:.3g} tokens the follower's data term alone exceeds the leader's reducible loss, whatever the model's size"
    if fixed == "params":
        return f"at the leader's {leader.params:.3g} parameters the follower cannot reach the loss, whatever the tokens"
    return f"{lab.unique_tokens:.3g} unique tokens, however often repeated, leave the follower above the leader's loss"
