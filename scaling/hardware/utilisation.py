"""The utilisation of this project's own runs: FLOP/s of a record over the peak of the chip it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scaling.errors import InputError
from scaling.hardware.chips import Chip
from scaling.hardware.library import chip as find_chip

if TYPE_CHECKING:
    from scaling.run import RunRecord

NATIVE = {"fp32": "fp32", "tf32": "tf32", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "int8": "int8", "int4": "int8"}
EMULATED = {"fp8": "bf16", "int8": "bf16", "int4": "bf16"}  # what carries the codes; all other formats are emulated in fp32


def utilisation(record: RunRecord | Mapping[str, Any], chip: str | Chip | None = None) -> float:
    """The run's FLOP/s by the exact count, over the peak of its devices in the format that its products were multiplied in.

    `chip`: by default the one that the record's device names, a chip of the table or the measured machine. A CPU counts as
    one chip: a run on some of its threads has that share of the peak. Raises InputError where the chip or its rate is not known.
    """
    fields = record if isinstance(record, Mapping) else record.as_dict()
    missing = [name for name in ("flops_per_second", "precision", "device") if fields.get(name) is None]
    if missing:
        raise InputError(f"utilisation: the record has no {missing[0]}; runs that failed have none")
    if chip is None:
        chip = _chip_of(fields["device"])
    chip = find_chip(chip)
    name = multiplied_in(fields["precision"], bool(fields.get("emulated")))
    peak = chip.peak(name)
    if peak is None:
        raise InputError(f"utilisation: the {name} rate of {chip.name} is not known; it has {', '.join(chip.formats) or 'no rate'}")
    return fields["flops_per_second"] / (peak * _share(fields, chip))


def multiplied_in(precision: str, emulated: bool) -> str:
    """The format that a run's products are multiplied in: its own, or, where the device has no units for it, the one that carries it."""
    return EMULATED.get(precision, "fp32") if emulated else NATIVE.get(precision, "fp32")


def _share(fields: Mapping[str, Any], chip: Chip) -> float:
    """How many chips the run had: devices, or on a CPU the part of its threads."""
    devices = fields.get("devices") or 1
    if chip.cores is None:
        return devices
    return min(devices * (fields.get("threads") or chip.cores), chip.cores) / chip.cores


def _chip_of(device: str) -> Chip:
    try:
        return find_chip(device)
    except InputError:
        raise InputError(
            f"utilisation: device {device!r} is no chip of the table; name one, or measure it: isoloss chips --measure"
        ) from None
