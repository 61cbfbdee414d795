"""Run an update without Python between its operations: traced on a CPU, as a CUDA graph on a GPU.

A small network's update is some seventy tensor operations of a few microseconds, and most of its
time is Python, modules and autograd. The agent knows nothing of it: its `gradients` is a pure
function of tensors, its `update` changes tensors in place, and neither asks for a tensor's value.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Gradients = Callable[..., Sequence[Tensor]]
Update = Callable[..., None]


@runtime_checkable
class Capturable(Protocol):
    """An agent whose update can be captured."""

    capturable: bool  # False where an update's operations depend on its data
    gradients: Gradients  # pure: from the draw's tensors to tensors
    update: Update  # calls `gradients` and changes tensors in place

    def example(self) -> Sequence[Tensor]:
        """An input of both; later ones have its shapes, dtypes and device."""

    def changes(self) -> Sequence[Tensor]:
        """Every tensor that `update` changes."""


def capture(agent: Capturable) -> None:
    """Replace the agent's update by something faster that does the same, where that can be."""
    if not agent.capturable:
        return
    example = agent.example()
    if example[0].is_cuda:
        if all(tensor.is_cuda for tensor in agent.changes()):  # torch's Adagrad counts on the host
            agent.update = _record(agent.update, example, agent.changes())
    elif sys.version_info < (3, 14):  # beyond it TorchScript is not supported
        agent.gradients = _trace(agent.gradients, example)


def _trace(gradients: Gradients, example: Sequence[Tensor]) -> Gradients:
    """Forward and backward flattened to ATen operations and run by TorchScript.

    What reads bytes as floats is left as it is. Writes to a list of tensors, as the optimizers do
    them, must stay outside: TorchScript takes them for dead code.
    """
    graph = make_fx(lambda *x: tuple(gradients(*x)))(*example)
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            _refuse_list_writes(node.target)
            if node.target is torch.ops.aten.view.dtype:  # of packed dictionaries
                return gradients  # TorchScript does not know it
            node.target = node.target.overloadpacket  # TorchScript chooses the overload itself
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach:  # nothing to detach from: it runs without autograd
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty lists in torch's own GraphModule
        traced = torch.jit.script(graph)
    return torch.no_grad()(traced.forward)


def _refuse_list_writes(operation: torch._ops.OpOverload) -> None:
    for argument in operation._schema.arguments:
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(argument.type, torch.ListType):
            raise TypeError(f"{operation} writes to a list of tensors and cannot be traced")


def _record(update: Update, example: Sequence[Tensor], changes: Sequence[Tensor]) -> Update:
    """Kernels recorded once and launched together; what the recording changed is put back."""
    before = [tensor.detach().clone() for tensor in changes]
    static = [x.clone() for x in example]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuBLAS and cuDNN choose their kernels before the recording
        for _ in range(3):
            update(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update(*static)
    with torch.no_grad():
        for tensor, value in zip(changes, before, strict=True):
            tensor.copy_(value)

    def run(*draw: Tensor) -> None:
        for held, x in zip(static, draw, strict=True):
            held.copy_(x)
        graph.replay()

    return run
