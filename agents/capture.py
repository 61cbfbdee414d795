"""Run an update without Python between its operations: traced on a CPU, a CUDA graph on a GPU.

The update of a small network is some seventy tensor operations of a few microseconds; most of its
time is Python, modules and autograd. Agents are unaware of it: `gradients` is a pure function of
tensors, `Learner.step` changes tensors in place, and neither reads a tensor's value.
"""

import sys
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ludus.agents.learner import Learner

Gradients = Callable[..., Sequence[Tensor]]


def capture(agent: object, *, bfloat16: bool = False) -> None:
    """Replace the update of an agent's `learner` by a faster one.

    An agent without a learner is left as it is, and so are updates that depend on their data, but
    for their precision.

    Args:
        agent: any agent.
        bfloat16: multiply matrices and convolve in bfloat16; weights, losses and the optimizer keep
            float32. Without it, the results are the same as before.
    """
    learner = getattr(agent, "learner", None)
    if not isinstance(learner, Learner):
        return
    if bfloat16:
        learner.gradients = _in_bfloat16(learner.gradients, learner.flat.device.type)
    if not learner.agent.capturable:
        return
    example = learner.agent.example()
    if example[0].is_cuda:
        changes = learner.changes()
        if all(tensor.is_cuda for tensor in changes):  # torch's Adagrad counts steps on the CPU
            learner.step = _record(learner.step, example, changes)
    elif example[0].device.type == "cpu" and sys.version_info < (3, 14):  # for TorchScript
        learner.gradients = _trace(learner.gradients, example)


def _in_bfloat16(gradients: Gradients, device: str) -> Gradients:
    """Run the forward pass, and so the backward pass, with torch's automatic mixed precision."""

    def mixed(*randomness: Tensor) -> Sequence[Tensor]:
        # A graph must not keep the cast weights of its first run: no cache.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return gradients(*randomness)

    return mixed


def _trace(gradients: Gradients, example: Sequence[Tensor]) -> Gradients:
    """Flatten forward and backward pass to ATen operations and run them by TorchScript.

    A function that reinterprets bytes as floats is returned unchanged. Writes to a list of tensors,
    as in optimizers, must stay outside: TorchScript removes them as dead code.
    """
    graph = make_fx(lambda *x: tuple(gradients(*x)))(*example)
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            _refuse_list_writes(node.target)
            if node.target is torch.ops.aten.view.dtype:  # in packed dictionaries
                return gradients  # TorchScript does not support it
            node.target = node.target.overloadpacket  # TorchScript resolves the overload
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach:  # the graph runs without autograd
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about empty lists in torch's GraphModule
        traced = torch.jit.script(graph)
    return torch.no_grad()(traced.forward)


def _refuse_list_writes(operation: torch._ops.OpOverload) -> None:
    for argument in operation._schema.arguments:
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(argument.type, torch.ListType):
            raise TypeError(f"{operation} writes to a list of tensors and cannot be traced")


def _record(
    step: Callable[..., None], example: Sequence[Tensor], changes: Sequence[Tensor]
) -> Callable[..., None]:
    """Record the kernels of a step to launch them together; restore what the recording changed."""
    before = [tensor.detach().clone() for tensor in changes]
    static = [x.clone() for x in example]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuBLAS and cuDNN select their kernels before the recording
        for _ in range(3):
            step(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*static)
    with torch.no_grad():
        for tensor, value in zip(changes, before, strict=True):
            tensor.copy_(value)

    def replay(*randomness: Tensor) -> None:
        for held, x in zip(static, randomness, strict=True):
            held.copy_(x)
        graph.replay()

    return replay
