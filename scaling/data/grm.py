"""`grm`: corpora drawn from a random Markov source (`scaling.data.markov`), as long as a run asks for, with a known entropy.

Written `grm`, `grm:deep` (order 14) or with parameters, `grm:order=6,rho=0.54,seed=1`. What is kept is the tables, the validation tokens and the
entropy; training tokens are drawn as they are read, from a stream of their own for each seed of a run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import markov
from scaling.data.building import new_folder, publish
from scaling.data.corpus import Corpus, digest
from scaling.errors import InputError

NAME = "grm"
DEEP_ORDER = 14
VALIDATION_TOKENS = 2**20
MOST_TOKENS = 2**40  # what is called the length of a training stream
_SIGNATURE_TOKENS = 2**18  # of the training stream, in the hash
_CHECKS: dict[str, tuple[Callable[[float], bool], str]] = {
    "order": (lambda k: 0 <= k <= 20, "from 0 to 20"),
    "vocab": (lambda v: 2 <= v <= 256, "from 2 to 256"),
    "rho": (lambda r: 0 < r <= 1, "above 0, at most 1"),
    "s0": (lambda s: 0 <= s <= 5, "from 0 to 5"),
    "s1": (lambda s: 0 <= s <= 5, "from 0 to 5"),
    "seed": (lambda s: 0 <= s < 2**31, "from 0 to 2^31 - 1"),
}


class MarkovCorpus(Corpus):
    """A corpus whose training stream has no end: it is drawn, not stored."""

    @property
    def resident(self) -> bool:
        return False

    def train(self) -> np.ndarray:
        raise InputError(f"corpus {self.id} is drawn as it is read and has no stored training stream; ask for sequences")

    def sequences(self, context: int, seed: int, count: int) -> np.ndarray:
        """The first `count` sequences of the stream of `seed`, one after another."""
        tokens = self.source().tokens(_training(seed), 0, count * context + 1)
        return np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::context].copy()

    @property
    def parameters(self) -> markov.Parameters:
        return checked(self.manifest["source"], f"corpus {self.folder}: source")

    def source(self) -> markov.Source:
        """The source itself: its probabilities and, for any tokens, the oracle's loss."""
        hashed = self.folder / "hashed.npy"
        table = np.load(self.folder / "table.npy", mmap_mode="r")
        return markov.Source(self.parameters, table, np.load(hashed, mmap_mode="r") if hashed.exists() else None)

    def bytes_of(self, tokens: np.ndarray) -> None:
        """None: a symbol stands for no text."""

    def check(self) -> None:
        found = digest(_sums(self.source()), _tokenizer(self.parameters))
        if found != self.manifest["sha256"]:
            raise InputError(
                f"corpus {self.id}: its tables give sha256 {found}, its manifest says {self.manifest['sha256']}; delete {self.folder} and build it again"
            )


def is_grm(name: str) -> bool:
    return name == NAME or name.startswith(NAME + ":")


def parse(name: str) -> markov.Parameters:
    """The parameters that a name of a source gives; InputError for one that there is not, or out of range."""
    parts = [f"order={DEEP_ORDER}" if part == "deep" else part for part in name[len(NAME) + 1 :].split(",") if part]
    return checked(dict(part.partition("=")[::2] for part in parts), f"corpus {name!r}")


def checked(given: Any, where: str) -> markov.Parameters:
    """Parameters from numbers, or texts of numbers, by their names."""
    if not isinstance(given, dict):
        raise InputError(f"{where}: {given!r} does not give the parameters of a source")
    found: dict[str, Any] = {}
    for key, text in given.items():
        if key not in _CHECKS:
            raise InputError(f"{where}: {key!r} is no parameter of the source; it has {', '.join(_CHECKS)}, and deep")
        fits, says = _CHECKS[key]
        try:
            found[key] = int(str(text)) if key in ("order", "vocab", "seed") else float(str(text))
        except ValueError:
            raise InputError(f"{where}: {key} = {text!r} is not a number {says}") from None
        if not fits(found[key]):
            raise InputError(f"{where}: {key} = {text} must be {says}")
    parameters = markov.Parameters(**found)
    if parameters.vocab**parameters.order >= 2**62:
        raise InputError(f"{where}: {parameters.vocab}^{parameters.order} contexts are too many to count; lower order or vocab")
    return parameters


def label(parameters: markov.Parameters) -> str:
    """`grm`, with the parameters that are not the default: grm-order6-rho0.54."""
    given, usual = dataclasses.asdict(parameters), dataclasses.asdict(markov.Parameters())
    return "-".join([NAME, *(f"{key}{value:g}" for key, value in given.items() if value != usual[key])])


def build_grm(parameters: markov.Parameters, shelf: Path) -> Path:
    """Builds `shelf/grm...@HASH`; returns the folder."""
    source = markov.build_source(parameters)
    entropy = markov.entropy(source)
    folder = new_folder(shelf)
    try:
        np.save(folder / "table.npy", source.table)
        if source.hashed is not None:
            np.save(folder / "hashed.npy", source.hashed)
        validation = source.tokens(0, 0, VALIDATION_TOKENS)
        validation.tofile(folder / "validation.bin")
        oracle = source.oracle_losses(validation)
        blocks = oracle[: oracle.size // 4096 * 4096].reshape(-1, 4096).mean(axis=1)
        fields = {
            "train_tokens": MOST_TOKENS,
            "validation_tokens": VALIDATION_TOKENS,
            "dtype": "uint8",
            "vocab_size": parameters.vocab,
            "tokenizer": "symbols",
            "source": dataclasses.asdict(parameters),
            "entropy": entropy.rate,
            "entropy_se": entropy.rate_se,
            "entropy_ladder": entropy.ladder,
            "oracle_validation_loss": float(oracle.mean()),
            "oracle_validation_loss_se": float(blocks.std(ddof=1) / math.sqrt(blocks.size)),
        }
        return publish(folder, label(parameters), digest(_sums(source), _tokenizer(parameters)), fields)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _training(seed: int) -> int:
    """The stream of a run's seed; stream 0 is the validation's."""
    return seed + 1


def _sums(source: markov.Source) -> list[str]:
    """sha256 of the validation tokens and of the first training tokens."""
    streams = ((_training(0), _SIGNATURE_TOKENS), (0, VALIDATION_TOKENS))
    return [hashlib.sha256(source.tokens(stream, 0, count).tobytes()).hexdigest() for stream, count in streams]


def _tokenizer(parameters: markov.Parameters) -> str:
    return hashlib.sha256(json.dumps(dataclasses.asdict(parameters), sort_keys=True).encode()).hexdigest()
