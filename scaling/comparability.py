"""Whether the losses of two curves may be compared: they must be of one corpus and one tokenizer."""

from __future__ import annotations

from fits.curve import Curve
from scaling.errors import InputError

KINDS = ("corpus", "tokenizer")  # keys of a curve's `about`


def check_same_text(curve: Curve, follower: Curve, *, force: bool = False) -> list[str]:
    """Notes on what two curves were fitted on: what is not known of either, and what is forced.

    Raises InputError where corpora or tokenizers are known to differ, unless `force`: a nat a token of one text is no nat a token of another.
    """
    notes = []
    for kind in KINDS:
        known = [each.about.get(kind) for each in (curve, follower)]
        if known[0] == known[1] and known[0] is not None:
            continue
        if None in known:
            if follower is not curve and kind == "corpus":
                unknown = " and ".join(repr(each.name) for each, value in zip((curve, follower), known, strict=True) if value is None)
                notes.append(
                    f"the corpus of {unknown} is not known: the penalty stands only if both curves are of one corpus and tokenizer"
                )
            continue
        reason = (
            f"curve {curve.name!r} is of {kind} {known[0]!r} and {follower.name!r} of {known[1]!r}; losses on different texts or tokens are not comparable,"
            " so that equal loss would mean nothing"
        )
        if not force:
            raise InputError(f"penalty: {reason}; use curves of one {kind}, or force it (ratios of a curve with itself need no follower)")
        notes.append(f"forced: {reason}")
    return notes
