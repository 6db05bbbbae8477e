"""What is trained: decoder-only Flax transformers, dense and mixture-of-experts, with exact accounting.

Public names: ModelConfig, ConfigError, ladder, Transformer, count_params, training_flops. They load on first use, so that
reading a configuration does not import Flax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.accounting import count_params as count_params
    from models.accounting import training_flops as training_flops
    from models.config import ConfigError as ConfigError
    from models.config import ModelConfig as ModelConfig
    from models.config import ladder as ladder
    from models.transformer import Transformer as Transformer

_HOME = {
    "ConfigError": "models.config",
    "ModelConfig": "models.config",
    "ladder": "models.config",
    "Transformer": "models.transformer",
    "count_params": "models.accounting",
    "training_flops": "models.accounting",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
