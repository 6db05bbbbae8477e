"""Figures and the numbers behind them, one file per family; `benchmarks/reproduce.py` writes them."""
