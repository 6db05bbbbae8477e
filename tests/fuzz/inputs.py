"""What the readers are given: valid files with spans of bytes or parts of their structure changed, and things that were never valid."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

# Spans that parsers stumble over, to be put where something else stood.
SNAGS = (
    b"", b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b"\t", b" ", b'"', b"'", b'""', b"\\", b"\\u0000", b"\\ud800",
    b",", b"=", b"==", b"[", b"]", b"[[", b"{", b"}", b"#", b"nan", b"-nan", b"inf", b"-inf", b"NaN", b"Infinity", b"null", b"true", b"false",
    b"0", b"-0", b"-1", b"1e400", b"-1e400", b"1e-400", b"1e308", b"0x10", b"1_000", b"9" * 20, b"9" * 400, b"9" * 5000, b"." * 3,
    b"1979-05-27T07:32:00Z", b"[" * 3000, b"{\"a\":" * 2000, b"a." * 2000, b"and", b"and and", b"../../etc/passwd", b"=cmd()",
)  # fmt: skip

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 0.0, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30, 10**400]),
    st.integers(-(10**6), 10**6),
    st.floats(),
)
TEXTS = st.one_of(st.sampled_from(["", " ", "a\nb", "\x00", "../..", "nan", "1e400", "é" * 100, "x" * 2000]), st.text(max_size=12))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def edited(draw: st.DrawFn, valid: bytes) -> bytes:
    """`valid` with one to four spans replaced by snags, random bytes, or copies of other spans; sometimes cut short."""
    data = valid
    for _ in range(draw(st.integers(1, 4))):
        # Half of the time where a value or a key begins, so that the rest of the file stays what it was.
        begins = [place for place, byte in enumerate(data, start=1) if byte in b"=,:[{ \n"] if len(valid) < 2000 else []
        start = draw(st.one_of(st.integers(0, len(data)), st.sampled_from(begins)) if begins else st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 4, 8, 40, 400])))
        origin = draw(st.integers(0, len(data)))
        put = draw(st.one_of(st.sampled_from(SNAGS), st.binary(max_size=8), st.just(data[origin : origin + 40])))
        data = data[:start] + put + data[stop:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


# (place as a share of the file, span, what is put there, whether the file ends there): for files too large to be drawn as bytes.
WOUNDS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.integers(0, 200)),
        st.sampled_from([0, 1, 1, 2, 4, 40, 400]),
        st.binary(max_size=8),
        st.integers(0, 15),
    ),
    min_size=1,
    max_size=4,
)


def wounded(valid: bytes, wounds: list[tuple[float, int, bytes, int]]) -> bytes:
    """`valid` with these changes made to it. A whole number is a place in the file's header."""
    for place, span, put, last in wounds:
        start = place if isinstance(place, int) else int(place * len(valid))
        same = put if span == 0 else (put * span)[:span]  # as long as what it replaces, unless it is put in
        valid = valid[:start] + same + (b"" if last == 0 else valid[start + span :])
    return valid


def either(valid: bytes) -> st.SearchStrategy[bytes]:
    """Mostly an edited valid file, sometimes noise."""
    return st.one_of(
        edited(valid), edited(valid), edited(valid), st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode())
    )


@st.composite
def altered(draw: st.DrawFn, valid: Any) -> Any:
    """A copy of a tree of dicts and lists in which one to three nodes are replaced, removed, renamed or doubled."""
    tree = {"root": copy.deepcopy(valid)}
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_nodes(tree))))
        deed = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "double"]))
        if deed == "replace" or parent is tree:
            parent[key] = draw(VALUES)
        elif deed == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[draw(TEXTS)] = copy.deepcopy(parent[key]) if deed == "double" else parent.pop(key)
    return tree["root"]


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in the tree, as its container and the key or index in it."""
    places = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [place for key, value in places for place in [(tree, key), *_nodes(value)]]
