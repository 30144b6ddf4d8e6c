"""Accelerators by name: peak, memory, and how many of them a named machine has."""

import dataclasses
import re
from typing import Literal

Compute = Literal["parameters", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What JAX calls one device, by the vendor's data sheet. (A chip of TPU v2 and v3 is two devices.)

    Attributes:
        kind: the beginning of `device_kind`.
        peak: dense 16-bit products, FLOP/s.
        single: float32 products at full precision, FLOP/s: six passes of bfloat16 on a TPU, no tensor cores on a GPU.
        memory: bytes.
    """

    kind: str
    peak: float
    single: float
    memory: float

    def flops(self, compute: Compute) -> float:
        """FLOP/s of a decoder's products in this `compute`, with parameters in float32."""
        return self.peak if compute == "bfloat16" else self.single


def _tpu(kind: str, peak: float, gigabytes: int) -> Accelerator:
    # jax.lax.Precision.HIGHEST splits a float32 into three bfloat16 and multiplies the six pairs that matter.
    return Accelerator(kind, peak, peak / 6, float(gigabytes * 2**30))


def _gpu(kind: str, peak: float, single: float, gigabytes: int) -> Accelerator:
    return Accelerator(kind, peak, single, gigabytes * 1e9)


ACCELERATORS: dict[str, Accelerator] = {
    "v2": _tpu("TPU v2", 22.5e12, 8),
    "v3": _tpu("TPU v3", 61.5e12, 16),
    "v4": _tpu("TPU v4", 275e12, 32),
    "v5e": _tpu("TPU v5 lite", 197e12, 16),
    "v5p": _tpu("TPU v5p", 459e12, 95),
    "v6e": _tpu("TPU v6 lite", 918e12, 32),
    "t4": _gpu("Tesla T4", 65e12, 8.1e12, 16),
    "v100": _gpu("Tesla V100", 125e12, 15.7e12, 32),
    "l4": _gpu("NVIDIA L4", 121e12, 30.3e12, 24),
    "a10g": _gpu("NVIDIA A10G", 70e12, 31.2e12, 24),
    "a100": _gpu("NVIDIA A100", 312e12, 19.5e12, 80),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 756e12, 51e12, 80),
    "h100": _gpu("NVIDIA H100", 989e12, 67e12, 80),
    "h200": _gpu("NVIDIA H200", 989e12, 67e12, 141),
}
"""By the names that machines are called after; 80 GB of the A100 and 32 of the V100, which exist with less."""

_CORES_A_DEVICE = {"v4": 2, "v5p": 2}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A machine of equal devices.

    Attributes:
        name: as given, such as v5e-256.
        accelerator: each of its devices.
        devices: as JAX counts them.
    """

    name: str
    accelerator: Accelerator
    devices: int


def hardware(name: str) -> Hardware:
    """KIND-COUNT, or KIND for one. TPU v2 to v4 and v5p are counted in cores, as the clouds do, all others in chips.

    Raises:
        ValueError: an unknown kind or an odd count; lists the known ones.

    >>> [hardware(name).devices for name in ("v2-8", "v5e-256", "v5p-8", "h100")]
    [8, 256, 4, 1]
    >>> round(hardware("v5e-1").accelerator.flops("bfloat16") / 1e12)
    197
    """
    found = re.fullmatch(r"(.+?)(?:-(\d+))?", name.lower())
    kind, count = (found[1], int(found[2] or 1)) if found else ("", 0)
    cores = _CORES_A_DEVICE.get(kind, 1)
    if kind not in ACCELERATORS or count < 1 or (count % cores and found and found[2]):
        raise ValueError(
            f"no hardware {name!r}; give KIND or KIND-COUNT (v5e-8, h100-8), of {', '.join(ACCELERATORS)}"
            f"{'; the count of ' + kind + ' is in cores, ' + str(cores) + ' a device' if cores > 1 else ''}"
        )
    return Hardware(name.lower(), ACCELERATORS[kind], max(1, count // cores))


def accelerator_of(device_kind: str) -> Accelerator | None:
    """The accelerator whose kind is the longest beginning of what JAX calls a device; None for one not in the table.

    >>> accelerator_of("NVIDIA H100 80GB HBM3") == ACCELERATORS["h100"], accelerator_of("cpu")
    (True, None)
    """
    known = [one for one in ACCELERATORS.values() if device_kind.startswith(one.kind)]
    return max(known, key=lambda one: len(one.kind), default=None)
