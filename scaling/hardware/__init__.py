"""Chips and what becomes of a model on them: figures with their grade, export rules by date, measurement of this machine."""
