"""Named machines: how many devices they have, and what is refused."""

import pytest

from pmpjax.costs.hardware import ACCELERATORS, accelerator_of, hardware


@pytest.mark.parametrize(
    ("name", "devices", "memory"),
    [
        ("v2-8", 8, 8 * 2**30),  # 4 chips of two cores, which are devices of their own
        ("v4-8", 4, 32 * 2**30),  # named after its cores too, but a chip is one device
        ("v5p-8", 4, 95 * 2**30),
        ("v5e-1", 1, 16 * 2**30),
        ("V5e-256", 256, 16 * 2**30),
        ("a100", 1, 80e9),
        ("h100-pcie-2", 2, 80e9),
    ],
)
def test_machines_have_the_devices_that_jax_would_see(name, devices, memory):
    found = hardware(name)
    assert (found.devices, found.accelerator.memory) == (devices, memory)


@pytest.mark.parametrize("name", ["v7-8", "", "v5e-0", "v5p-7", "8", "h100-x"])
def test_unknown_machines_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"no hardware .*v5e, v5p.*h200"):
        hardware(name)


def test_full_precision_is_slower_everywhere_and_six_times_on_a_tpu():
    for one in ACCELERATORS.values():
        assert one.flops("parameters") < one.flops("bfloat16")
        assert not one.kind.startswith("TPU") or one.flops("bfloat16") == pytest.approx(6 * one.flops("parameters"))


def test_the_kind_of_a_device_is_found_by_its_longest_beginning():
    assert accelerator_of("NVIDIA H100 PCIe") == ACCELERATORS["h100-pcie"]
    assert accelerator_of("TPU v5 lite") == ACCELERATORS["v5e"]
    assert accelerator_of("Graphcore") is None
