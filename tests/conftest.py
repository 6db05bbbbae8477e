"""Settings for all tests: CPU, a cache of their own, no silent rank promotion, and real data where its folders are named."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Corpora and compiled programs of the tests go to a folder of this session."""
    os.environ["ISOLOSS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def strict_ranks():
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """About a megabyte of real text: some modules of this Python's standard library."""
    folder = tmp_path_factory.mktemp("text")
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for name in ("email", "json", "asyncio", "logging", "http", "xml"):
        for path in (stdlib / name).rglob("*.py"):
            target = folder / path.relative_to(stdlib)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def _shared(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} does not name a folder: the public data of this test are not here")
    return Path(folder)


@pytest.fixture
def data_folder() -> Path:
    """Public run tables."""
    return _shared("ISOLOSS_DATA")


@pytest.fixture
def corpora_folder() -> Path:
    """Public-domain prose."""
    return _shared("ISOLOSS_CORPORA")
