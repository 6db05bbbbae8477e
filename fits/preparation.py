"""What is done to runs before a fit, each step said in a sentence (units, the best or the mean of a cell), and what looks doubtful in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from fits.errors import InputError

# A unit of a file in the package's: counts, FLOP, nats per token.
UNITS: dict[str, dict[str, float]] = {
    "count": {"thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12},
    "flops": {"petaflop_days": 8.64e19, "exaflops": 1e18, "zettaflops": 1e21},
    "loss": {"nats": 1.0, "bits": math.log(2)},
}
# Inputs of one cell may differ by rounding; more than this and the cell mixes different runs.
SAME_INPUT = 0.01


def convert(frame: pd.DataFrame, units: Mapping[str, str | float], where: str) -> tuple[pd.DataFrame, list[str]]:
    """`frame` with the columns of `units` in the package's units, and what was done. `loss_se` follows `loss` unless it has its own.

    A unit is a name of UNITS for that kind of column, or a positive number: the factor to the package's unit.
    """
    chosen = dict(units)
    if "loss" in chosen and "loss_se" in frame and "loss_se" not in chosen:
        chosen["loss_se"] = chosen["loss"]
    frame, said = frame.copy(), []
    for name, unit in chosen.items():
        if name not in frame:
            raise InputError(f"{where}: units: no column {name!r}; there are {', '.join(map(str, frame.columns))}")
        factor = _factor(name, unit)
        frame[name] = _times(frame[name], factor)
        said.append(f"{name}: {unit} read as times {factor:.6g}" if isinstance(unit, str) else f"{name}: times {factor:.6g}")
    return frame, said


def numbers(values: pd.Series) -> pd.Series:
    """`values` as floats, with NaN for all that is no number. Dates and complex numbers are none, though pandas would make some."""
    if values.dtype.kind in "Mmc":
        return pd.Series(np.nan, index=values.index)
    try:
        return pd.to_numeric(values, errors="coerce").astype(float)
    except OverflowError:  # whole numbers beyond the largest float
        return pd.to_numeric(values.map(_at_most_infinite), errors="coerce").astype(float)


def _at_most_infinite(value: object) -> object:
    if not isinstance(value, int):
        return value
    return math.inf if value > 0 else -math.inf if abs(value) >= 2**1023 else float(value)


def best(frame: pd.DataFrame, cell: str | Sequence[str], output: str, where: str) -> tuple[pd.DataFrame, str]:
    """The row of least `output` of every cell (the first of equals), in the old order, and what was done."""
    columns = _cell(frame, cell, output, "best", where)
    kept = extreme(frame, columns, output)
    return kept, f"best of each ({', '.join(columns)}): the row of least {output}, {len(kept)} of {len(frame)} rows"


def extreme(frame: pd.DataFrame, cell: Sequence[str], by: str, greatest: bool = False) -> pd.DataFrame:
    """The row of least (or greatest) `by` of every cell, the first of equals, in the old order. Missing values come last."""
    values = numbers(frame[by]).to_numpy()
    order = np.argsort(-values if greatest else values, kind="stable")
    first = ~frame.iloc[order].duplicated(list(cell)).to_numpy()
    return frame.iloc[np.sort(order[first])]


def average(frame: pd.DataFrame, cell: str | Sequence[str], inputs: Sequence[str], output: str, where: str) -> tuple[pd.DataFrame, str]:
    """One row a cell: the arithmetic mean of `output`, its standard error `loss_se`, and `rows_in_cell`.

    The error is the rows' scatter / sqrt(rows); a cell of one row keeps the row's own `loss_se`, or has none. `inputs` of a cell must
    agree (within rounding); any other column that differs within a cell is empty there. Rows are numbered from 1.
    """
    columns = _cell(frame, cell, output, "aggregate", where)
    groups = frame.groupby(columns, sort=False, dropna=False)
    first = ~frame.duplicated(columns)
    means = frame[first].copy()
    for name in [column for column in frame if column not in (*columns, output, "loss_se", "rows_in_cell")]:
        means[name] = _common(frame, name, name in inputs, columns, where)
    rows = groups.size().to_numpy()
    means[output] = groups[output].mean().to_numpy()
    own = means["loss_se"].to_numpy(float) if "loss_se" in means else np.full(len(means), np.nan)
    means["loss_se"] = np.where(rows > 1, groups[output].std(ddof=1).to_numpy() / np.sqrt(rows), own)
    means["rows_in_cell"] = rows
    means.index = pd.RangeIndex(1, len(means) + 1)
    return means, f"mean of each ({', '.join(columns)}): {len(frame)} rows become {len(means)}, of {rows.min()} to {rows.max()} rows each"


def _common(frame: pd.DataFrame, name: Hashable, is_input: bool, cell: list[str], where: str) -> np.ndarray | ExtensionArray:
    """The value that the rows of a cell share in a column; missing where they differ."""
    keys = [frame[column] for column in cell]
    values = frame[name]
    if is_input and pd.api.types.is_numeric_dtype(values):
        by_cell = values.groupby(keys, sort=False, dropna=False)
        low, high = by_cell.min(), by_cell.max()
        apart = (high - low) > SAME_INPUT * high.abs()
        if apart.any():
            raise InputError(
                f"{where}: aggregate: column {name!r} runs from {low[apart].iloc[0]:.6g} to {high[apart].iloc[0]:.6g} within one cell of"
                f" ({', '.join(cell)}); rows of different {name} have no common loss, add {name!r} to the cell"
            )
        return by_cell.mean().to_numpy()
    # Nested values of a JSON file cannot be compared as they are.
    comparable = values.map(repr) if values.dtype == object else values
    differs = comparable.groupby(keys, sort=False, dropna=False).nunique(dropna=False).to_numpy() > 1
    shared = values[~frame.duplicated(cell)]
    return shared.mask(differs).array if differs.any() else shared.array


def _cell(frame: pd.DataFrame, cell: str | Sequence[str], output: str, option: str, where: str) -> list[str]:
    columns = [cell] if isinstance(cell, str) else list(cell)
    problem = "" if columns else "no columns are named"
    for name in columns:
        if name not in frame:
            problem = f"no column {name!r}"
        elif name == output or _nested(frame[name]):
            problem = f"column {name!r} cannot define a cell"
    if problem:
        raise InputError(f"{where}: {option}: {problem}; name those that define a cell, among {', '.join(map(str, frame.columns))}")
    return columns


def _nested(values: pd.Series) -> bool:
    """Whether some value is itself a list or an object, as JSON and Parquet allow: such values cannot be compared."""
    return values.dtype == object and bool(values.map(lambda value: isinstance(value, (list, dict, np.ndarray))).any())


def _factor(name: str, unit: str | float) -> float:
    kind = _kind(name)
    known = UNITS.get(kind, {})
    if isinstance(unit, str):
        if unit in known:
            return known[unit]
        if kind == "loss" and unit == "bits_per_byte":
            raise InputError(
                f"units: {name} in bits_per_byte becomes nats per token only by the tokenizer's bytes per token: give the number 0.6931 * bytes per token"
            )
        names = f"one of {', '.join(known)}, or " if known else ""
        raise InputError(f"units: {unit!r} is not a unit of {name}; it is {names}a positive number (the factor to the package's unit)")
    if isinstance(unit, bool) or not (math.isfinite(unit) and unit > 0):
        raise InputError(f"units: the factor of {name} must be positive and finite, got {unit!r}")
    return float(unit)


def _kind(name: str) -> str:
    if name.endswith("flops"):
        return "flops"
    if name.startswith("loss"):
        return "loss"
    return "count" if name.endswith(("params", "tokens", "characters", "examples")) else ""


def _times(values: pd.Series, factor: float) -> pd.Series:
    """Numbers times `factor`; what is no number stays, for the check of the table to name its row."""
    converted = numbers(values) * factor
    text = converted.isna() & values.notna()
    return converted.astype(object).where(~text, values) if text.any() else converted


# Columns that tell runs of equal size apart.
LABELS = ("corpus", "arm", "precision", "unique_tokens")
SIZES = ("params", "active_params", "non_embedding_params", "tokens", "unique_tokens", "flops")
# Pairs that are rightly equal: dense models, and one epoch.
EQUAL_BY_NATURE = ({"params", "active_params"}, {"tokens", "unique_tokens"})


@dataclass(frozen=True)
class Doubt:
    """One thing that a table rarely means: what to look for (figures, or None), why it is doubtful, and how to mend it."""

    find: Callable[[pd.DataFrame, Sequence[str], str], str | None]
    reason: str
    mend: str


def doubts(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> list[str]:
    """What looks wrong in checked runs, one sentence each. `inputs` are the columns a law would read, `output` the one it predicts."""
    found = [(doubt, doubt.find(frame, inputs, output)) for doubt in DOUBTS]
    return [f"{what}: {doubt.reason}; {doubt.mend}" for doubt, what in found if what]


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    return numbers(frame[name]).to_numpy() if name in frame else np.array([])


def _all_below(names: Sequence[str], limit: float) -> Callable[[pd.DataFrame, Sequence[str], str], str | None]:
    def find(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
        for name in names:
            if frame.attrs.get("derived", "").startswith(f"{name} "):
                continue  # it is as odd as what it was computed from
            values = _numbers(frame, name)
            values = values[np.isfinite(values)]
            if values.size and values.max() < limit:
                return f"{name} are all below {limit:g} (largest {values.max():.6g})"
        return None

    return find


def _tokens_per_param(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    size = next((name for name in ("params", "active_params", "non_embedding_params") if name in frame), "params")
    params, tokens = _numbers(frame, size), _numbers(frame, "tokens")
    if not (params.size and tokens.size):
        return None
    with np.errstate(all="ignore"):
        ratio = tokens / params
    ratio = ratio[np.isfinite(ratio)]
    if not ratio.size or 1e-4 <= np.median(ratio) <= 1e6:
        return None
    return f"the median of tokens / {size} is {np.median(ratio):.2g}"


def _flops_law(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    size = "active_params" if "active_params" in frame else "params"
    params, tokens, flops = (_numbers(frame, name) for name in (size, "tokens", "flops"))
    if not (params.size and tokens.size and flops.size):
        return None
    with np.errstate(all="ignore"):
        ratio = flops / (6 * params * tokens)
    ratio = ratio[np.isfinite(ratio)]
    if not ratio.size or 1 / 3 <= np.median(ratio) <= 3:
        return None
    return f"flops / (6 {size} tokens) is {np.median(ratio):.3g} in the median"


def _above_uniform(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    loss = _numbers(frame, output) if output == "loss" else np.array([])
    limit = math.log(300_000)
    return f"every loss is above {limit:.1f} (least {loss.min():.6g})" if loss.size and loss.min() > limit else None


def _odd_losses(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    loss = _numbers(frame, output) if output == "loss" else np.array([])
    odd = (loss > 20) | (loss < 0.05)
    return (
        f"{odd.sum()} of {loss.size} losses are above 20 or below 0.05 (first: row {frame.index[int(np.argmax(odd))]})"
        if odd.any()
        else None
    )


def _same_data(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    names = [name for name in dict.fromkeys([*inputs, *SIZES, output]) if name in frame]
    values = {name: _numbers(frame, name) for name in names}
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            varies = len(frame) >= 3 and np.ptp(values[one]) > 0
            if varies and {one, other} not in EQUAL_BY_NATURE and np.array_equal(values[one], values[other]):
                return f"columns {one!r} and {other!r} hold the same numbers"
    return None


def _keys(frame: pd.DataFrame, inputs: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys([*inputs, *LABELS]) if name in frame and not _nested(frame[name])]


def _copies(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    if not inputs:
        return None
    copies = frame.duplicated([*_keys(frame, inputs), output]).to_numpy()
    if not copies.any():
        return None
    return f"{copies.sum()} rows repeat another row's {', '.join(inputs)} and {output} (first: row {frame.index[int(np.argmax(copies))]})"


def _contradictions(frame: pd.DataFrame, inputs: Sequence[str], output: str) -> str | None:
    keys = _keys(frame, inputs)
    if output != "loss" or not inputs or not frame.duplicated(keys).any():
        return None
    by_cell = frame.groupby(keys, sort=False, dropna=False)[output]
    low, high = by_cell.min(), by_cell.max()
    apart = (high > 1.2 * low).to_numpy()
    if not apart.any():
        return None
    worst = int(np.argmax((high / low).to_numpy()))
    return f"at {apart.sum()} points equal {', '.join(keys)} have losses more than 20% apart (worst: {low.iloc[worst]:.6g} and {high.iloc[worst]:.6g})"


_UNITS_MEND = "if so, say so with units, as in units = {params = 'billions'}"
DOUBTS = [
    Doubt(
        _all_below(("params", "active_params", "non_embedding_params"), 1e3),
        "no language model is that small, so they look like millions or billions",
        _UNITS_MEND,
    ),
    Doubt(
        _all_below(("tokens", "unique_tokens"), 1e5), "that trains nothing, so they look like millions, billions or trillions", _UNITS_MEND
    ),
    Doubt(
        _all_below(("flops",), 1e9),
        "even tiny runs take more, so they look like petaflop-days or multiples of 1e18 or 1e21 FLOP",
        "if so, say so with units, as in units = {flops = 'petaflop_days'}",
    ),
    Doubt(
        _tokens_per_param,
        "known runs lie between 0.01 and 1e5, so one of the two looks off by a power of ten",
        "give its unit with units, or check columns",
    ),
    Doubt(
        _flops_law,
        "C = 6 N D should hold, and conventions on head and attention explain up to about 2",
        "check units and columns (a mixture of experts needs active_params)",
    ),
    Doubt(
        _above_uniform,
        "guessing among 300,000 tokens already gives that many nats, so they look like perplexities or sums over a text",
        "give nats per token (the logarithm of a perplexity)",
    ),
    Doubt(
        _odd_losses,
        "losses in nats per token rarely are, so these rows may have diverged, or hold accuracies or another unit",
        "leave such rows out with where, or give units = {loss = 'bits'}",
    ),
    Doubt(_same_data, "two quantities are rarely equal in every row, so one looks mapped twice", "check columns"),
    Doubt(_copies, "copies of a run weigh double in a fit", "drop them, or keep one row a cell with best or aggregate"),
    Doubt(
        _contradictions,
        "a law gives one loss a point, so the rows mix settings (learning rate, corpus, checkpoint) or hold an error",
        "select with where, or use best or aggregate over these columns",
    ),
]
