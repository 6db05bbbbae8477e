"""The Whack-a-Chip ledger: what each of chip, architecture, format, memory and network does to the time and the dollars of equal loss."""

from scaling.ledger.ledger import Ledger, ledger
from scaling.ledger.scenario import Scenario, read_scenario, scenarios

__all__ = ["Ledger", "Scenario", "ledger", "read_scenario", "scenarios"]
