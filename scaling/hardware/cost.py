"""From tokens per second to hours, energy and dollars, with what is assumed on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

from scaling.hardware.chips import Chip

GOODPUT = (0.85, 0.875, 0.90)  # share of wall-clock time that trains: low, middle, high (hardware.md, 8: BLOOM 0.91, Llama 3.1 405B 0.89)
POWER_SHARE = 0.8  # of the chip's design power that training draws on average
NODE_SHARE = 0.4  # host, network and fans on top of the chips' draw (a DGX H100 is rated 10.2 kW for chips of 5.6 kW)
PUE = 1.2  # facility over IT power
ELECTRICITY_USD_PER_KWH = 0.08
AMORTISATION_YEARS = 4.0
BUSY_SHARE = 0.8  # of those years that the chips are in use
NODE_PRICE_SHARE = 0.5  # servers, network and building on top of the chips' price


@dataclasses.dataclass(frozen=True)
class Cost:
    """Hours, energy and dollars of a run; a figure is None where the chip's price, rent or power is not known.

    `usd_buy` is the share of the chips' life that the run takes, with servers and network, and its electricity; `usd_rent` at the chip's on-demand rent.
    """

    hours: float
    hours_band: tuple[float, float]
    chip_hours: float
    energy_kwh: float | None
    usd_rent: float | None
    usd_rent_band: tuple[float, float] | None
    usd_buy: float | None
    usd_buy_band: tuple[float, float] | None
    assumed: dict[str, Any]


def cost(chip: Chip, chips: int, tokens: float, speed: tuple[float, float, float], goodput: float | None = None) -> Cost:
    """The Cost of `tokens` at so many tokens per second and chip (low, middle, high). `goodput` replaces the usual band of it."""
    useful = (goodput,) * 3 if goodput else GOODPUT
    hours, longest, shortest = (
        tokens / (each * chips * share) / 3600 for each, share in ((speed[1], useful[1]), (speed[0], useful[0]), (speed[2], useful[2]))
    )
    kilowatts = chips * chip.tdp_w / 1000 * POWER_SHARE * (1 + NODE_SHARE) * PUE if chip.tdp_w else None
    rate = None
    if chip.price_usd:
        rate = chip.price_usd * (1 + NODE_PRICE_SHARE) * chips / (AMORTISATION_YEARS * 8766 * BUSY_SHARE)
        rate += (kilowatts or 0.0) * ELECTRICITY_USD_PER_KWH
    rent = chip.rent_usd_per_h * chips if chip.rent_usd_per_h else None
    band = (shortest, longest)
    return Cost(
        hours=hours,
        hours_band=band,
        chip_hours=hours * chips,
        energy_kwh=kilowatts * hours if kilowatts else None,
        usd_rent=rent * hours if rent else None,
        usd_rent_band=(rent * shortest, rent * longest) if rent else None,
        usd_buy=rate * hours if rate else None,
        usd_buy_band=(rate * shortest, rate * longest) if rate else None,
        assumed={
            "goodput": useful[1],
            "share of design power": POWER_SHARE,
            "host and network over chips' power": NODE_SHARE,
            "PUE": PUE,
            "electricity USD/kWh": ELECTRICITY_USD_PER_KWH,
            "amortisation years": AMORTISATION_YEARS,
            "share of them in use": BUSY_SHARE,
            "servers and network over chips' price": NODE_PRICE_SHARE,
            "rent USD/h": chip.rent_usd_per_h,
            "price USD": chip.price_usd,
        },
    )
