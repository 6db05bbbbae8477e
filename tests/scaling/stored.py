"""Records for tests of the store, with ids that are the hash of what they hold, and the store as version 1 wrote it."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import models
from scaling.run import NUMERICS_VERSION, RunConfig, RunRecord, run_id

CORPUS = "python-source@1a2b3c4d"
OWNER, OTHER = "host 11 at 1", "host 12 at 2"


def made(seed: int = 0, **changes: Any) -> RunRecord:
    """The record of a small run of this seed; `changes` as in dataclasses.replace."""
    config = RunConfig(models.ladder(16, context=32), 100_000, CORPUS, seed=seed)
    record = RunRecord(
        run_id=run_id(config, CORPUS, 1),
        corpus=CORPUS,
        arm=config.arm,
        precision=config.precision,
        seed=seed,
        params=5000,
        active_params=5000,
        non_embedding_params=900,
        tokens=config.tokens_trained,
        unique_tokens=config.tokens_trained,
        flops=3.1e9 + 0.1,
        loss=2.0 + 1 / (3 + seed),
        loss_se=0.01,
        status="done",
        reason="",
        width=16,
        layers=config.model.layers,
        experts=0,
        batch=config.sequences,
        steps=config.steps,
        learning_rate=config.peak,
        flops_causal=3e9,
        train_seconds=1.25,
        compile_seconds=0.5,
        evaluation_seconds=0.1,
        tokens_per_second=8e4,
        flops_per_second=2e9,
        threads=1,
        device="cpu",
        versions={"isoloss": "0.1.0", "numerics": str(NUMERICS_VERSION)},
        config=config.as_dict(),
        train_loss=[5 - math.log1p(part) / 3 for part in range(20)],
        expert_load_max=None,
    )
    return dataclasses.replace(record, **changes)


def planned(record: RunRecord, **labels: Any) -> dict[str, Any]:
    """The row of a plan that asks for the run of this record."""
    return {"run_id": record.run_id, "config": record.config, "arm": record.arm, "budget": 3e9, "holdout": False} | labels


def version_1(path: Path, rows: list[dict[str, Any]]) -> None:
    """A store as the first version of isoloss wrote it, by its own statements."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, status TEXT NOT NULL, ended REAL NOT NULL, record TEXT NOT NULL)"
        )
        connection.execute("PRAGMA application_id=1376517")
        connection.execute("PRAGMA user_version=1")
        for number, row in enumerate(rows):
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE"
                " SET status = excluded.status, ended = excluded.ended, record = excluded.record WHERE runs.status = 'failed'",
                (row["run_id"], row["status"], 1000.0 + number, json.dumps(row)),
            )
