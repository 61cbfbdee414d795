"""The choice of a device and of its arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ludus.envs.errors import RunError

Precision = Literal["float32", "tf32", "bfloat16"]


def check_device(name: str) -> None:
    """Raise `RunError` for a name that is no device."""
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise RunError(f"device is {name}; it must be auto, cpu, cuda or mps")


def device_of(name: str) -> torch.device:
    """Return the torch device for auto, cpu, cuda or mps; auto is cuda or cpu.

    Raises:
        RunError: there is no such device, or torch does not see it here.
    """
    check_device(name)
    if name == "mps":  # Apple's GPUs, which have been simulated only
        if not torch.backends.mps.is_available():
            raise RunError("device is mps, but torch has no mps here; use --device cpu")
        return torch.device("mps")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunError("device is cuda, but torch sees no GPU here; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextmanager
def arithmetic(device: str, precision: Precision, *, deterministic: bool) -> Iterator[None]:
    """Set torch's options for matrix products and algorithms, and restore them on exit.

    bfloat16 is not among them: it is part of an update, see `capture`.

    Args:
        device: of the training: cpu, cuda or mps.
        precision: tf32 rounds the factors of float32 products to 10 bits on Nvidia's GPUs. With the
            other two, cuDNN's convolutions may still do so, as is torch's default.
        deterministic: on a GPU the same numbers each time; on a CPU they are anyway.

    Raises:
        RunError: the device has no TF32, or an operation no deterministic algorithm.
    """
    if precision == "tf32" and device != "cuda":
        raise RunError(f"precision is tf32, which {device} has not; use float32 or bfloat16 there")
    products = torch.get_float32_matmul_precision()
    algorithms = torch.are_deterministic_algorithms_enabled()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if deterministic and device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS's first call
        torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if not deterministic or "deterministic implementation" not in str(error):
            raise
        operation = str(error).split()[0]
        raise RunError(
            f"{operation} has no deterministic algorithm on a GPU; leave out deterministic"
        ) from error
    finally:
        torch.set_float32_matmul_precision(products)
        torch.use_deterministic_algorithms(algorithms)
