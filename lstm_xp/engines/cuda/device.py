"""Devices: which one is current, and what each has, which is asked for once."""

from functools import cache
from typing import NamedTuple

from .memory import cuda


class Chip(NamedTuple):
    """What a device has."""

    name: str
    capability: int  # for computing, times ten
    processors: int
    shared_bytes: int  # that one block can have
    cooperates: bool  # whether all blocks of a launch can be made to run at once


def current():
    """The number of the current device."""
    return cuda().Device().id


@cache
def chip(number):
    """What a device has, by its number."""
    from cupy.cuda import Device, runtime

    device, name = Device(number), runtime.getDeviceProperties(number)["name"].decode()
    has = device.attributes
    sizes = has["MultiProcessorCount"], has["MaxSharedMemoryPerBlockOptin"]
    return Chip(name, int(device.compute_capability), *sizes, bool(has["CooperativeLaunch"]))
