"""The JSON files beside tokens: the sidecar of a token file and the manifest of a corpus, read strictly and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from scaling.errors import InputError
from scaling.toml_files import PositiveFloat, PositiveInt, validated

Sha256 = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, pydantic.Field(ge=0, strict=True)]
Dtype = Literal["uint8", "uint16", "uint32"]
VOCABULARIES = {"uint8": 2**8, "uint16": 2**16, "uint32": 2**32}


class Sidecar(pydantic.BaseModel):
    """What PATH.json says of the token file PATH. Other keys may stand beside these.

    `tokenizer` names what made the tokens (and belongs to the identity of the corpus); `sha256` is that of the tokens, little-endian;
    `bytes_per_token` the mean length of a token in bytes of text, from which bits per byte follow.
    """

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    dtype: Dtype
    count: Count
    vocab_size: PositiveInt
    tokenizer: str
    sha256: Sha256
    bytes_per_token: PositiveFloat | None = None

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Sidecar:
        if self.vocab_size > VOCABULARIES[self.dtype]:
            raise ValueError(
                f"vocab_size = {self.vocab_size} does not fit dtype {self.dtype}, which holds {VOCABULARIES[self.dtype]} symbols"
            )
        return self


class _Manifest(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    name: Annotated[str, pydantic.Field(pattern=r"^[^/\\@]+$")]
    sha256: Sha256
    dtype: Dtype
    train_tokens: Count
    validation_tokens: Count
    vocab_size: PositiveInt
    tokenizer: str
    built: str


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar at `path`; InputError where it is missing, malformed or says what cannot be."""
    return validated(Sidecar, read_json(path), str(path))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest at `path` as a dict. One of a byte corpus of an older version, which counted bytes only, gets its token counts."""
    fields = read_json(path)
    if "dtype" not in fields and fields.get("tokenizer") == "bytes":
        fields |= {"dtype": "uint8"} | {f"{stream}_tokens": fields.get(f"{stream}_bytes") for stream in ("train", "validation")}
    validated(_Manifest, fields, str(path))
    return fields


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; InputError where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of JSON, of UTF-8, and of numbers of thousands of digits
        raise InputError(f"{path}: cannot be read as JSON: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a JSON {type(found).__name__}, not an object")
    return found
