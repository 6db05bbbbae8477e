"""Token files: whole numbers in a .bin or .npy file, what they are in a JSON sidecar beside it (PATH.json), memory-mapped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from scaling.data.sidecars import Sidecar, read_sidecar
from scaling.errors import InputError
from scaling.toml_files import validated

SUFFIXES = (".bin", ".npy")
_HEADER = re.compile(rb"\{'descr': '[<|]u([124])', 'fortran_order': (?:False|True), 'shape': \(\d+,\), \} *\n")
_LONGEST_HEADER = 2**16


@dataclasses.dataclass(frozen=True)
class TokenFile:
    """A token file that agrees with its sidecar in length and kind."""

    path: Path
    sidecar: Sidecar
    offset: int  # of the first token in the file, bytes

    def tokens(self) -> np.ndarray:
        """All tokens, memory-mapped."""
        return np.memmap(self.path, dtype=_stored(self.sidecar.dtype), mode="r", offset=self.offset, shape=(self.sidecar.count,))

    def pieces(self, tokens: int) -> Iterator[tuple[int, np.ndarray]]:
        """(place, tokens) of consecutive pieces, read one after another."""
        dtype, left, place = _stored(self.sidecar.dtype), self.sidecar.count, 0
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while left > 0:
                piece = np.frombuffer(file.read(min(tokens, left) * dtype.itemsize), dtype)
                yield place, piece
                place, left = place + tokens, left - tokens

    def check(self) -> None:
        """Reads all of it; InputError where it is not what its sidecar says."""
        sha = hashlib.sha256()
        for _, piece in self.pieces(2**20):
            sha.update(piece.tobytes())
        self.same_hash(sha.hexdigest())

    def same_hash(self, found: str) -> None:
        if found != self.sidecar.sha256:
            raise InputError(
                f"{self.path}: its tokens have sha256 {found}, its sidecar says {self.sidecar.sha256}; one of the two is of another file"
            )


def sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def open_tokens(path: str | Path) -> TokenFile:
    """The token file at `path`, without reading its tokens; InputError where its sidecar is missing or contradicts it."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a token file is a {' or '.join(SUFFIXES)} file")
    if path.is_file() and not sidecar_path(path).exists():
        raise InputError(
            f"{path}: there is no sidecar {sidecar_path(path).name}; write one with the keys dtype, count, vocab_size, tokenizer, sha256"
        )
    sidecar = read_sidecar(sidecar_path(path))
    try:
        size = path.stat().st_size
        offset, dtype = (0, sidecar.dtype) if path.suffix == ".bin" else _npy_header(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if dtype != sidecar.dtype:
        raise InputError(f"{path}: holds {dtype}, its sidecar says {sidecar.dtype}")
    wide = np.dtype(dtype).itemsize
    if size - offset != sidecar.count * wide:
        raise InputError(
            f"{path}: holds {(size - offset) // wide} tokens ({size - offset} bytes of {dtype}),"
            f" its sidecar says count = {sidecar.count} ({sidecar.count * wide} bytes); copy the whole file again, or mend the sidecar"
        )
    return TokenFile(path, sidecar, offset)


def write_tokens(
    path: str | Path,
    tokens: np.ndarray | Iterable[np.ndarray],
    *,
    vocab_size: int,
    tokenizer: str,
    bytes_per_token: float | None = None,
) -> TokenFile:
    """Writes a token file and its sidecar. `tokens`: an array, or pieces of one, which need not fit in memory together.

    The narrowest of uint8, uint16 and uint32 that holds `vocab_size` symbols is used. InputError for a token beyond it.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a token file is a {' or '.join(SUFFIXES)} file")
    dtype = np.min_scalar_type(max(0, vocab_size - 1)).name
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    sha, count = hashlib.sha256(), 0
    try:
        with open(temporary, "wb") as file:
            start = _write_npy_header(file, dtype, 0) if path.suffix == ".npy" else 0
            for piece in [tokens] if isinstance(tokens, np.ndarray) else tokens:
                if piece.size and not 0 <= piece.min() <= piece.max() < vocab_size:
                    raise InputError(f"{path}: tokens from {piece.min()} to {piece.max()} do not fit vocab_size = {vocab_size}")
                data = piece.astype(_stored(dtype)).tobytes()
                sha.update(data)
                file.write(data)
                count += piece.size
            if start:
                file.seek(0)
                assert _write_npy_header(file, dtype, count) == start  # numpy leaves room for a longer first axis
        fields = {"dtype": dtype, "count": count, "vocab_size": vocab_size, "tokenizer": tokenizer, "sha256": sha.hexdigest()}
        sidecar = validated(Sidecar, fields | {"bytes_per_token": bytes_per_token}, str(path))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sidecar_path(path).write_text(json.dumps(sidecar.model_dump(), indent=1))
    return open_tokens(path)


def _stored(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def _write_npy_header(file, dtype: str, count: int) -> int:
    header = {"descr": np.lib.format.dtype_to_descr(_stored(dtype)), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _npy_header(path: Path) -> tuple[int, str]:
    """Where the tokens of a .npy file start, and their kind. numpy writes the header in one way; its own reader of others is less strict."""
    with open(path, "rb") as file:
        start = file.read(10)
        wide = 2 if start[6:7] == b"\x01" else 4
        start += file.read(wide - 2)
        header = file.read(min(int.from_bytes(start[8:], "little"), _LONGEST_HEADER))
        found = _HEADER.fullmatch(header)
        if start[:6] != b"\x93NUMPY" or found is None:
            says = header.strip().decode("latin-1")[:100]
            raise InputError(f"{path}: not a .npy file of one axis of little-endian unsigned numbers; its header says {says!r}")
        return file.tell(), f"uint{8 * int(found[1])}"
