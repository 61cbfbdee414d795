"""Act, store and update without Python between the operations: traced, or as a CUDA graph.

The update of a small network is some seventy tensor operations of a few microseconds; most of its
time is Python, modules and autograd. Agents are unaware of it. `gradients` and a policy's `assess`
are pure functions of tensors, `Learner.step` and `RowStaging.advance` change tensors in place, and
none of them reads a tensor's value. On a CPU the pure functions are traced by TorchScript.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ludus.agents.agent import Searching
from ludus.agents.learner import Learner
from ludus.agents.sampling_policy import SamplingPolicy
from ludus.agents.value_policy import ValuePolicy
from ludus.envs.errors import ConfigError

_OBSERVING_CALLS = 3

Function = Callable[..., Any]  # of tensors
Gradients = Callable[..., Sequence[Tensor]]


class SideStream:
    """A stream of a GPU for work beside that of the current stream, which stays in order."""

    def __init__(self) -> None:
        self._stream, self._ready = torch.cuda.Stream(), torch.cuda.Event()

    def follow(self) -> None:
        """Let later work see what was asked of the current stream up to now, and no more."""
        self._ready.record()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run everything within on this stream."""
        self._stream.wait_event(self._ready)
        with torch.cuda.stream(self._stream):
            yield

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        """Let the current stream use what was made here; `tensors` may be freed after that."""
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)


def capture(agent: object, *, bfloat16: bool = False, compiled: bool = False) -> None:
    """Replace the update and the acting of an agent's `learner` by faster ones.

    An agent without a learner is left as it is, and so are updates that depend on their data, but
    for their precision.

    Args:
        agent: any agent.
        bfloat16: multiply matrices and convolve in bfloat16; weights, losses and the optimizer keep
            float32. Without it and `compiled`, the results are the same as before.
        compiled: compile the update for a CPU, by TorchInductor; its results differ by rounding.

    Raises:
        ConfigError: the update cannot be compiled.
    """
    learner = getattr(agent, "learner", None)
    if not isinstance(learner, Learner):
        return
    if learner.actor is not None:
        _capture_acting(learner.actor)
    if isinstance(agent, Searching) and learner.flat.is_cuda:
        agent.forward = _in_powers_of_two(agent.forward)
        for count, searched in agent.searches.items():
            agent.searches[count] = _recorded_at_first_call(searched, ())
    if bfloat16:
        learner.gradients = _in_bfloat16(learner.gradients, learner.flat.device.type)
    if compiled and (not learner.agent.capturable or learner.flat.device.type != "cpu"):
        raise ConfigError(
            "compile is for a CPU, and not for recurrent updates of more than 32 rows; leave it out"
        )
    if not learner.agent.capturable:
        return
    example = learner.example()
    if example[0].is_cuda:
        changes = learner.changes()
        if not all(tensor.is_cuda for tensor in changes):
            return  # torch's Adagrad counts steps on the CPU
        if learner.ranks.size == 1:
            learner.step = _record(learner.step, example, changes)
        else:  # what ranks exchange lies between the two
            learner.gradients = _record(learner.gradients, example, ())
            learner.apply = _recorded_at_first_call(learner.apply, changes)
    elif compiled or _traces(example[0].device):
        faster = _compile if compiled else _trace
        if learner.ranks.size == 1:
            learner.clipped_gradients = faster(learner.clipped_gradients, example)
        else:
            learner.gradients = faster(learner.gradients, example)


def _traces(device: torch.device) -> bool:
    """Return whether TorchScript may be used, which Python 3.14 and later do not have."""
    return device.type == "cpu" and sys.version_info < (3, 14)


def _capture_acting(actor: ValuePolicy | SamplingPolicy) -> None:
    staging = actor.staging
    if staging.device.type == "cuda":
        actor.assess = _recorded_at_first_call(actor.assess, ())
        for each in (staging, *(staging.halves or ())):
            each.advance = _recorded_at_first_call(each.advance, each.changes())
        staging.store_before = _recorded_at_first_call(staging.store_before, ())
    elif _traces(staging.device):
        actor.assess = _at_first_call(actor.assess, _trace)


def _recorded_at_first_call(function: Function, changes: Sequence[Tensor]) -> Function:
    return _at_first_call(function, lambda f, x: _record(f, x, changes))


def _at_first_call(
    function: Function, faster: Callable[[Function, Sequence[Tensor]], Function]
) -> Function:
    """Replace a function when it is called first, for arguments of the shapes that it gets then."""
    replacement: Function | None = None
    shapes: list[torch.Size] = []

    def call(*x: Tensor) -> Any:
        nonlocal replacement, shapes
        if replacement is None:
            replacement, shapes = faster(function, x), [each.shape for each in x]
        if shapes == [each.shape for each in x]:
            return replacement(*x)
        return function(*x)

    return call


def _in_powers_of_two(forward: Function) -> Function:
    """Record a forward pass for batches of 1, 2, 4... positions; others are padded."""
    recorded: dict[int, Function] = {}

    def call(x: Tensor) -> Sequence[Tensor]:
        size = 1 << (len(x) - 1).bit_length()
        padded = x.new_zeros(size, *x.shape[1:])
        padded[: len(x)] = x
        if size not in recorded:
            recorded[size] = _record(forward, (padded,), ())
        return [out[: len(x)].clone() for out in recorded[size](padded)]

    return torch.no_grad()(call)


def _in_bfloat16(gradients: Gradients, device: str) -> Gradients:
    """Run the forward pass, and so the backward pass, with torch's automatic mixed precision."""

    def mixed(*randomness: Tensor) -> Sequence[Tensor]:
        # A graph must not keep the cast weights of its first run: no cache.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return gradients(*randomness)

    return mixed


def _flatten(gradients: Gradients, example: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Return forward and backward pass as ATen operations.

    Torch notes the shape of each result by a fake tensor. One mode for all of them, in place of one
    for each, halves the time.

    Raises:
        ConfigError: a network asks for a number of the batch.
    """
    context = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    try:
        with tracing(context):
            return make_fx(lambda *x: tuple(gradients(*x)))(*example)
    except RuntimeError as error:
        if "value out of a tracing tensor" not in str(error):
            raise
        raise ConfigError(
            "the network decides by a number of the batch (an `if`, or `.item()`), and updates are "
            "traced; use torch.where"
        ) from error


def _trace(gradients: Gradients, example: Sequence[Tensor]) -> Gradients:
    """Flatten forward and backward pass to ATen operations and run them by TorchScript.

    A function that reinterprets bytes as floats is returned unchanged. Writes to a list of tensors,
    as in optimizers, must stay outside: TorchScript removes them as dead code.
    """
    graph = _flatten(gradients, example)
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
        traced = torch.no_grad()(torch.jit.script(graph).forward)
    # The first calls observe shapes; those after them may fuse a product with a sum, and round
    # otherwise. A resumed training must not begin with other numbers than it ended with.
    for _ in range(_OBSERVING_CALLS):
        traced(*example)
    return traced


def _compile(gradients: Gradients, example: Sequence[Tensor]) -> Gradients:
    """Compile forward and backward pass as one function, without torch.compile's guards.

    Raises:
        ConfigError: there is no C++ compiler, or it failed.
    """
    import torch._inductor  # takes a second

    graph = _flatten(gradients, example)
    # TorchInductor would write small tensors into its code as numbers: weights become arguments.
    weights, arguments = list[Tensor](), dict[str, torch.fx.Node]()
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            if node.target not in arguments:
                with graph.graph.inserting_before(first):
                    arguments[node.target] = graph.graph.placeholder(f"weight_{len(weights)}")
                weights.append(getattr(graph, node.target).detach())
            node.replace_all_uses_with(arguments[node.target])
            graph.graph.erase_node(node)
        elif node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    try:
        with torch.no_grad():
            function = torch._inductor.compile(graph, [*weights, *example])
            function(*weights, *example)
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the update was not compiled ({reason}); install a C++ compiler or leave out compile"
        ) from error
    return torch.no_grad()(lambda *x: function(*weights, *x))


def _refuse_list_writes(operation: torch._ops.OpOverload) -> None:
    for argument in operation._schema.arguments:
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(argument.type, torch.ListType):
            raise TypeError(f"{operation} writes to a list of tensors and cannot be traced")


def _record(function: Function, example: Sequence[Tensor], changes: Sequence[Tensor]) -> Function:
    """Record the kernels of a function to launch them together.

    What the recording changed in `changes` is restored; all else that the function changes must be
    the same after a second call. The recorded function reads and overwrites the tensors of
    `example`, and returns the same tensors at each call.
    """
    before = [tensor.detach().clone() for tensor in changes]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuBLAS and cuDNN select their kernels before the recording
        for _ in range(3):
            function(*example)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*example)
    with torch.no_grad():
        for tensor, value in zip(changes, before, strict=True):
            tensor.copy_(value)

    def replay(*arguments: Tensor) -> Any:
        for held, x in zip(example, arguments, strict=True):
            if held is not x:
                held.copy_(x)
        graph.replay()
        return results

    return replay
