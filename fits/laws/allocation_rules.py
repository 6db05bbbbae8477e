"""Rules for the optimal size and tokens of a budget, and the count of parameters between two conventions.

A rule n C^a summarises minima of iso-FLOP curves without a law of the loss behind it. `flops_per_token` is the count of DeepSeek LLM
(non-embedding, attention included), for which C = flops_per_token * tokens.
"""

from __future__ import annotations

from typing import Any

from fits.laws.base import Constants, Inputs, Law, Parameter
from fits.laws.powers import power_law

_OF_COMPUTE = "minima of iso-FLOP curves; Hoffmann et al. 2022, arXiv 2203.15556; Porian et al. 2024, 2406.19146; "


def _total(c: Constants, x: Inputs) -> Any:
    return x["non_embedding_params"] + c["omega"] * x.power("non_embedding_params", 1 / 3)


TOTAL_PARAMS = Law(
    name="total-params",
    formula="non_embedding_params + omega * non_embedding_params^(1/3)",
    function=_total,
    parameters=(Parameter("omega", low=1e-6, high=1e12, log=True, starts=(1e3, 1e6)),),
    inputs=("non_embedding_params",),
    output="params",
    source="Pearce, Song 2024, arXiv 2406.12907: the embedding as a cube root of the rest",
)

LAWS = (
    power_law("params-for-flops", "params", "n", {"flops": "a"}, _OF_COMPUTE + "Pearce, Song 2024, 2406.12907"),
    power_law("tokens-for-flops", "tokens", "n", {"flops": "a"}, _OF_COMPUTE + "Llama 3, 2407.21783"),
    power_law("active-params-for-flops", "active_params", "n", {"flops": "a"}, "Hunyuan-Large, arXiv 2411.02265"),
    power_law("flops-per-token-for-flops", "flops_per_token", "n", {"flops": "a"}, "DeepSeek LLM, arXiv 2401.02954"),
    power_law("non-embedding-params-for-pf-days", "non_embedding_params", "n", {"pf_days": "a"}, "Kaplan et al. 2020, arXiv 2001.08361"),
    power_law("tokens-for-pf-days", "tokens", "n", {"pf_days": "a"}, "Kaplan et al. 2020, arXiv 2001.08361, equation 6.7"),
    power_law("tokens-for-non-embedding-params", "tokens", "n", {"non_embedding_params": "a"}, "Kaplan et al. 2020, arXiv 2001.08361"),
    TOTAL_PARAMS,
)
