"""`isoloss data`: list, build and inspect corpora, and list public tables of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling import output
from scaling.output import Json

if TYPE_CHECKING:
    from scaling.data.corpus import Corpus

data = typer.Typer(help="List, build and inspect corpora.", no_args_is_help=True)

SOURCES = (
    "python-source; grm, grm:deep or grm:order=6,seed=1; hf:OWNER/NAME or hf:FOLDER; a text, .jsonl, .parquet, .zip, .tar or token file"
    " (.bin, .npy), or a folder; or a built NAME@HASH"
)
Source = Annotated[str, typer.Argument(metavar="NAME|PATH", help=SOURCES)]


@data.command("list")
def list_(as_json: Json = False) -> None:
    """Corpora built so far, and the names given to them."""
    from scaling.data.corpora import list_corpora, names

    given: dict[str, list[str]] = {}
    for name, identity in names().items():
        given.setdefault(identity, []).append(name)
    rows: list[dict[str, Any]] = [
        {
            "corpus": each.id,
            "names": given.get(each.id, []),
            "train_tokens": each.train_tokens,
            "validation_tokens": each.validation_tokens,
            "vocab_size": each.manifest["vocab_size"],
            "tokenizer": each.manifest["tokenizer"],
            "built": each.manifest["built"],
        }
        for each in list_corpora()
    ]
    if as_json:
        return output.emit({"corpora": rows})
    return output.table([row | {"names": ", ".join(row["names"])} for row in rows], f"{len(rows)} corpora")


@data.command("tables")
def tables(as_json: Json = False) -> None:
    """Public tables of runs, for `isoloss fit --dataset NAME`."""
    from fits.registry import TABLES

    rows = [
        {"name": table.name, "paper": f"{table.title}, arXiv {table.arxiv}", "licence": table.licence, "note": table.remark}
        for table in TABLES.values()
    ]
    output.emit({"tables": rows}) if as_json else output.table(
        [{k: row[k] for k in ("name", "paper", "licence")} for row in rows], f"{len(rows)} public tables"
    )


@data.command("build")
def build(
    source: Source,
    name: Annotated[str | None, typer.Option(help="A name of your own, by which plans may call the corpus.")] = None,
    field: Annotated[str, typer.Option(help="The key of JSON lines, or the column of a table, that holds the text.")] = "text",
    bpe: Annotated[int | None, typer.Option(metavar="VOCAB", help="Train a BPE of so many tokens on the train split and use it.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Stop reading at about so many tokens (bytes of text): 1e9.")] = None,
    as_json: Json = False,
) -> None:
    """Build a corpus, unless it has been built."""
    from scaling.data.corpora import Options, load_corpus
    from scaling.errors import InputError

    if tokens is not None and not 1 <= tokens < 2**62:
        raise InputError(f"--tokens {tokens:g}: a number of tokens, at least 1")
    options = Options(name=name, field=field, bpe=bpe, tokens=None if tokens is None else int(tokens))
    _show(load_corpus(source, options), as_json)


@data.command("inspect")
def inspect(
    source: Source,
    check: Annotated[bool, typer.Option("--check", help="Read all of it and compare it with its hash.")] = False,
    as_json: Json = False,
) -> None:
    """Show a corpus' manifest and where it lies; it is built if it has not been. Of grm: its exact entropies, nats per token."""
    from scaling.data.corpora import load_corpus

    corpus = load_corpus(source)
    if check:
        corpus.check()
        output.note(f"{corpus.id}: as it was built")
    _show(corpus, as_json)


def _show(corpus: Corpus, as_json: bool) -> None:
    answer: dict[str, Any] = {"corpus": corpus.id, "folder": str(corpus.folder)} | corpus.manifest
    if as_json:
        return output.emit(answer)
    if answer.get("entropy_ladder"):  # a line for each
        answer["entropy_ladder"] = {f"{back} symbols back": nats for back, nats in enumerate(answer["entropy_ladder"])}
    return output.listing(answer)
