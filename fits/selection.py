"""Row filters: `loss < 3.43 and arm = "dense"`, parsed and never evaluated."""

from __future__ import annotations

import operator
import re

import pandas as pd

from fits import preparation
from fits.errors import InputError

_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_QUOTED = r'"[^"]*"'
_CONDITION = re.compile(rf"\s*(?P<column>[^<>=!]+?)\s*(?P<operator><=|>=|!=|==|=|<|>)\s*(?P<value>{_QUOTED}|\S+)\s*")
_AND = re.compile(rf"({_QUOTED})|\band\b")


def select(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows of `frame` for which every condition holds. A condition is COLUMN OP NUMBER, COLUMN OP "text" or COLUMN = true."""
    keep = pd.Series(True, index=frame.index)
    for condition in _split(where):
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise InputError(f'where: cannot read {condition.strip()!r}; write COLUMN OP NUMBER or COLUMN OP "text", joined by and')
        column, value = match["column"].strip('`"'), match["value"]
        if column not in frame:
            raise InputError(f"where: no column {column!r}; there are {', '.join(map(str, frame.columns))}")
        keep &= _compare(frame[column], match["operator"], value)
    return frame[keep]


def _split(where: str) -> list[str]:
    """The conditions between the words `and`, of which those inside quotes do not count."""
    parts, last = [], 0
    for match in _AND.finditer(where):
        if match[1] is None:
            parts.append(where[last : match.start()])
            last = match.end()
    return [*parts, where[last:]]


def _compare(values: pd.Series, symbol: str, text: str) -> pd.Series:
    if text.startswith('"'):
        if symbol not in ("=", "==", "!="):
            raise InputError(f"where: text is compared by = or !=, not {symbol}")
        return _OPERATORS[symbol](values.astype(str), text.strip('"'))
    if text.lower() in ("true", "false"):
        return _OPERATORS[symbol](values.astype(str).str.lower(), text.lower())
    try:
        number = float(text)
    except ValueError:
        raise InputError(f'where: {text!r} is not a number; text stands in double quotes: "{text}"') from None
    return _OPERATORS[symbol](preparation.numbers(values), number)
