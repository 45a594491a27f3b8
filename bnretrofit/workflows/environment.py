"""What `bnretrofit env` prints."""

import os
import platform
from pathlib import Path

import torch
from torch import nn

from bnretrofit.identity import kernel_is_exact
from bnretrofit.workflows.header import versions

__all__ = ["describe_environment"]


def describe_environment() -> dict[str, str]:
    """Versions, processor and devices, and for each device whether its kernel admits an exact identity."""
    found = dict(versions())
    found["platform"] = platform.platform()
    found["processor"] = _processor()
    found["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        name = torch.cuda.get_device_name(device) if device != "cpu" else torch.backends.cpu.get_cpu_capability()
        exact = "exact" if kernel_is_exact(nn.BatchNorm1d(1, device=device)) else "close, not exact"
        found[device] = f"{name}; an inserted identity is {exact}"
    return found


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
