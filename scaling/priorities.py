"""Which runs of a plan to make first when there is no time for all: those that tell most about losses at larger scale, per second.

Every arm is taken to follow a law L = E + A N^-alpha + B D^-beta of its own. A run adds g g' / sigma^2 to the information on its constants,
g being the derivative of its log loss (`fits.planning`, `fits.designs`), and lowers the variance of the log loss on the arm's optimal
frontier at BEYOND times the plan's largest budget. Runs are taken one by one, the greatest fall of the mean (over arms) log variance
per second of training first; what is in the store already counts as made.

Before any run the constants are not known: exponents are those of Besiroglu et al. 2024, and the three terms are equal at the geometric
mean of the plan's sizes and tokens. So the order says what such a law needs, not what these runs will show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import fits
import models
from fits import designs
from scaling.plan import Job

BEYOND = 10.0
NOISE = 0.005  # of a run's log loss
PRIOR_SD = 10.0  # of every constant (logarithms and exponents): keeps open directions finite


def in_order(jobs: Sequence[Job], seconds: dict[Job, float], made: Sequence[Job] = ()) -> list[Job]:
    """The jobs, the most information per second first, given those that were `made`."""
    arms = list(dict.fromkeys(job.config.arm for job in (*jobs, *made)))
    width = 5 * len(arms)
    done, rows = (np.zeros((len(part), width)) for part in (made, jobs))
    slopes = np.zeros((len(arms), width))
    for place, arm in enumerate(arms):
        block = slice(5 * place, 5 * place + 5)
        own = [job for job in (*jobs, *made) if job.config.arm == arm]
        sizes, tokens = (np.array([pick(job) for job in own]) for pick in (_size, _tokens))
        middle = np.log([sizes, tokens]).mean(axis=1)
        for table, part in ((done, made), (rows, jobs)):
            chosen = [index for index, job in enumerate(part) if job.config.arm == arm]
            points = np.log([[_size(part[i]), _tokens(part[i])] for i in chosen]).reshape(-1, 2)
            table[chosen, block] = _gradients(points - middle) / NOISE
        slopes[place, block] = _gradients(_goal(own, middle)[None])[0]
    members = [np.broadcast_to(table, (len(arms), *table.shape)) for table in (done, rows)]
    model = designs.Linear(*members, slope=slopes, ridge=PRIOR_SD**-2)
    cost = np.array([seconds[job] if math.isfinite(seconds[job]) else job.flops for job in jobs])
    return [jobs[index] for index in model.in_order(range(len(jobs)), cost)]


def _size(job: Job) -> float:
    return float(models.count_params(job.config.model).active * job.config.handicap_structure)


def _tokens(job: Job) -> float:
    return float(job.config.tokens_trained)


def _exponents() -> tuple[float, float]:
    constants = fits.load("besiroglu2024").constants
    return constants["alpha"], constants["beta"]


def _gradients(points: np.ndarray) -> np.ndarray:
    """Derivatives of the log loss by log E, log A, log B, alpha and beta, at log sizes and tokens relative to where the terms are equal."""
    alpha, beta = _exponents()
    by_size, by_tokens = np.exp(-alpha * points[:, 0]), np.exp(-beta * points[:, 1])
    terms = np.stack([np.ones(len(points)), by_size, by_tokens, -by_size * points[:, 0], -by_tokens * points[:, 1]], axis=1)
    return terms / (1 + by_size + by_tokens)[:, None]


def _goal(jobs: Sequence[Job], middle: np.ndarray) -> np.ndarray:
    """Log size and tokens, relative to `middle`, on the frontier at BEYOND times the largest budget: there alpha a = beta b, a and b being the terms."""
    alpha, beta = _exponents()
    cost = max(jobs, key=lambda job: job.flops)
    product = math.log(BEYOND * _size(cost) * _tokens(cost)) - middle.sum()
    size = (beta * product + math.log(alpha / beta)) / (alpha + beta)
    return np.array([size, product - size])
