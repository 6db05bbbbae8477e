"""Several forms of law at once: curves with weights, their draws side by side, so that one compiled call answers for all of them.

Laws that depend monotonically on two power terms are one law here, L = E + (A N^-alpha + B D^-beta)^k: Chinchilla's has k = 1, tied
exponents alpha = beta, and Kaplan's joint law is beta = 1, k = alpha_D with no E. Other laws are asked one by one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fits
from fits.curve import Curve
from fits.laws.base import Inputs
from fits.laws.outer_exponent import OUTER_EXPONENT
from scaling import equal_loss
from scaling.equal_loss import Form, Lab
from scaling.errors import InputError
from scaling.penalty_batch import Penalties, form_of, penalties

DEFAULT = (
    "besiroglu2024",
    "hoffmann2022",
    "chinchilla-epoch-outer-exponent",
    "beck2025-transformer",
    "chinchilla-epoch-kaplan-joint-on-params",
    "muennighoff2023",
)
FORMS = {
    "chinchilla": "additive",
    "chinchilla-tied": "additive",
    "outer-exponent": "outer exponent",
    "kaplan-joint": "no irreducible loss",
    "data-constrained": "data-capped",
    "data-constrained-tied": "data-capped",
}
DRAWS = 96  # of each curve; with five curves on one law and 33 scales a call fills a power of two
NO_FLOOR = 1e-12  # nats; stands for an irreducible loss of zero


class Optimum(NamedTuple):
    """Sizes, tokens, and losses (nats/token) above the irreducible one."""

    params: Any
    tokens: Any
    reducible: Any
    irreducible: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A curve, the form of its law, the corpus of its losses (empty where that is not known), and its weight among the others."""

    curve: Curve
    form: str
    corpus: str
    weight: float


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Members that share a law, as one curve whose draws are theirs: `rows` each, a member's own constants first."""

    curve: Curve
    members: tuple[int, ...]
    rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Forms of law. Arrays that it returns have the axes (members, 1 + DRAWS, ...): a member's own constants, then its draws.

    Forms weigh the same, and so do the curves of a form: no measurement says how a law errs seven decades beyond its runs. Over the two decades that the
    Chinchilla points allow, `fits.ensemble` gives additive laws 94%, an outer exponent 6% and a law without irreducible loss 0.5%. A member
    without draws repeats its constants.
    """

    members: tuple[Member, ...]
    groups: tuple[Group, ...]

    @property
    def names(self) -> list[str]:
        """The members' names, in their order."""
        return [member.curve.name for member in self.members]

    @property
    def weights(self) -> np.ndarray:
        """The members' weights; they sum to one."""
        return np.array([member.weight for member in self.members])

    def penalties(self, follower: Callable[[Curve], Curve] | None, **settings: Any) -> Penalties:
        """`scaling.penalties` of every member and draw; `follower` makes the follower's curve of the leader's."""
        found = []
        for group in self.groups:
            other = follower(group.curve) if follower else None
            found.append(penalties(group.curve, follower=other, draws=True, **settings))
        names = [field.name for field in dataclasses.fields(Penalties) if field.name != "elasticities"]
        return Penalties(**{name: self._joined([getattr(each, name) for each in found]) for name in names}, elasticities={})

    def optimum(self, flops: Any, unique: Any = math.inf) -> Optimum:
        """The optimal runs of `flops` where there are `unique` tokens, and repetition beyond; the two broadcast to the last axes."""
        flops, unique = np.broadcast_arrays(np.asarray(flops, float), np.asarray(unique, float))
        found = []
        for group in self.groups:
            rows = group.curve.draws_or_error()
            constants = rows.reshape(len(rows), *(1,) * flops.ndim, -1)
            with jax.enable_x64(True):
                found.append(_optimum(form_of(group.curve), constants, group.curve.flops_per_param_token, flops, unique))
        return Optimum(*(self._joined([np.asarray(each[place]) for each in found]) for place in range(len(Optimum._fields))))

    def on_one_corpus(self) -> tuple[int, ...]:
        """The members whose losses may be compared with the first's: those of its corpus; the first alone where that is not known."""
        corpus = self.members[0].corpus
        return tuple(place for place, member in enumerate(self.members) if place == 0 or (corpus and member.corpus == corpus))

    def _joined(self, found: Sequence[np.ndarray]) -> np.ndarray:
        parts: dict[int, np.ndarray] = {}
        for group, values in zip(self.groups, found, strict=True):
            for place, own in zip(group.members, values.reshape(len(group.members), group.rows, *values.shape[1:]), strict=True):
                parts[place] = np.broadcast_to(own, (1 + DRAWS, *own.shape[1:]))
        return np.stack([parts[place] for place in range(len(self.members))])


@functools.partial(jax.jit, static_argnums=0)
def _optimum(form: Form, constants: Any, cost: float, flops: Any, unique: Any) -> Optimum:
    lab = Lab(jnp.asarray(constants), 1.0, 1.0, jnp.asarray(unique), cost, {})
    product = jnp.broadcast_to(jnp.log(flops) - jnp.log(cost), jnp.broadcast_shapes(constants.shape[:-1], flops.shape))
    n = equal_loss.optimal_log_params(lambda n, d: equal_loss.log_reducible(form, lab, n, d), product, form.law, lab)
    reducible = jnp.exp(equal_loss.log_reducible(form, lab, n, product - n))
    return Optimum(jnp.exp(n), jnp.exp(product - n), reducible, jnp.broadcast_to(equal_loss.irreducible(form, lab), n.shape))


def ensemble(names: Sequence[str | Curve] | None = None) -> Ensemble:
    """The curves of these names (published, refitted, or files) as an ensemble of forms; `DEFAULT` without any. Raises InputError."""
    curves = [each if isinstance(each, Curve) else fits.load(each) for each in (DEFAULT if names is None else names)]
    if not curves:
        raise InputError("frontier: give at least one curve")
    curves = [curve if curve.name else dataclasses.replace(curve, name=f"curve {place + 1}") for place, curve in enumerate(curves)]
    for curve in curves:
        _check(curve, [each.name for each in curves])
    forms = [FORMS.get(_family(curve), _family(curve)) for curve in curves]
    shares = [1 / (len(set(forms)) * forms.count(form)) for form in forms]
    members = (Member(curve, form, _corpus(curve), share) for curve, form, share in zip(curves, forms, shares, strict=True))
    return Ensemble(tuple(members), _grouped(curves))


def _check(curve: Curve, names: list[str]) -> None:
    if names.count(curve.name) > 1:
        raise InputError(f"frontier: curve {curve.name!r} is named twice")
    if curve.law.size is None or curve.law.output != "loss":
        raise InputError(f"frontier: law {curve.law.name} of curve {curve.name!r} does not divide compute between a size and tokens")
    known = {curve.law.size, "tokens", "unique_tokens", *dict(curve.law.typical)}
    missing = [name for name in curve.law.inputs if name not in known]
    if missing:
        raise InputError(f"frontier: law {curve.law.name} of curve {curve.name!r} also takes {missing[0]}, which no frontier can know")


def _family(curve: Curve) -> str:
    """The law's name without the count of parameters it is fitted on."""
    return re.sub("-(non-embedding|on-params)$", "", curve.law.name)


def _corpus(curve: Curve) -> str:
    stated = re.search(r"nats/token on ([^;(]+)", str(curve.about.get("units", "")))
    return str(curve.about.get("corpus") or (stated[1].strip() if stated else ""))


def _grouped(curves: Sequence[Curve]) -> tuple[Group, ...]:
    rows = [_thinned(curve) for curve in curves]
    stacked: dict[float, list[int]] = {}
    groups = []
    for place, curve in enumerate(curves):
        if _family(curve) in ("chinchilla", "chinchilla-tied", "outer-exponent", "kaplan-joint"):
            stacked.setdefault(curve.flops_per_param_token, []).append(place)
        else:
            groups.append(Group(dataclasses.replace(curve, draws=rows[place]), (place,), len(rows[place])))
    for cost, places in stacked.items():
        draws = [np.broadcast_to(as_two_terms(curves[place], rows[place]), (1 + DRAWS, 6)) for place in places]
        first = dict(zip(OUTER_EXPONENT.constants, map(float, draws[0][0]), strict=True))
        curve = Curve(OUTER_EXPONENT, first, "forms", draws=np.concatenate(draws), flops_per_param_token=cost)
        groups.append(Group(curve, tuple(places), 1 + DRAWS))
    return tuple(groups)


def _thinned(curve: Curve) -> np.ndarray:
    """The constants, and DRAWS of the draws, taken evenly (again and again where there are fewer)."""
    if curve.draws is None:
        return curve.vector[None]
    count = len(curve.draws)
    places = np.linspace(0, count - 1, DRAWS).round().astype(int) if count >= DRAWS else np.arange(DRAWS) % count
    return np.concatenate([curve.vector[None], curve.draws[places]])


def as_two_terms(curve: Curve, rows: np.ndarray) -> np.ndarray:
    """Constants of a law of two power terms as those of E + (A N^-alpha + B D^-beta)^k, in the order E, A, B, alpha, beta, k."""
    named = dict(zip(curve.law.constants, rows.T, strict=True))
    assert curve.law.terms is not None
    terms = curve.law.terms(named, Inputs({}))
    floor = named.get("E", np.full(len(rows), NO_FLOOR))
    outer = named.get("k", named.get("alpha_D", np.ones(len(rows))))
    parts = {"E": floor, "A": terms.a, "B": terms.b, "alpha": terms.alpha, "beta": terms.beta, "k": outer}
    return np.stack([np.broadcast_to(np.asarray(parts[name], float), len(rows)) for name in OUTER_EXPONENT.constants], axis=-1)
