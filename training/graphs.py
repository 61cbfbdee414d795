"""Capture an update once and replay it: as a CUDA graph on a GPU, as a traced graph on a CPU.

A small network's update is some seventy tensor operations of a few microseconds, and most of its
time is Python, modules and autograd. Captured, the same operations run without them. The function
knows nothing of it: it must take its randomness as input, read and change tensors in place, and
never ask for a tensor's value.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Update = Callable[[Tensor], None]


def capture(update: Update, example: Tensor, changes: Sequence[Tensor]) -> Update:
    """`update` as a captured graph that does the same to the same tensors.

    Args:
        update: reads its input and changes tensors in place.
        example: an input; later ones have its shape, dtype and device.
        changes: every tensor that update changes; they are put back after the capture.
    """
    before = [tensor.detach().clone() for tensor in changes]
    try:
        return (_capture_cuda if example.is_cuda else _trace)(update, example)
    finally:
        with torch.no_grad():
            for tensor, value in zip(changes, before, strict=True):
                tensor.copy_(value)


def _trace(update: Update, example: Tensor) -> Update:
    """Forward, backward and optimizer flattened to ATen operations, run by TorchScript."""

    def returning(unit: Tensor) -> Tensor:
        update(unit)
        return unit

    graph = make_fx(returning)(example)
    for node in graph.graph.nodes:  # TorchScript chooses among an operation's overloads itself
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty lists in torch's own GraphModule
        traced = torch.jit.script(graph)

    @torch.no_grad()
    def run(unit: Tensor) -> None:
        traced(unit)

    return run


def _capture_cuda(update: Update, example: Tensor) -> Update:
    """Kernels recorded once and launched together."""
    static = example.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuBLAS and cuDNN choose their kernels before the capture
        for _ in range(3):
            update(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update(static)

    def run(unit: Tensor) -> None:
        static.copy_(unit)
        graph.replay()

    return run
