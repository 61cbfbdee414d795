"""A simulated CUDA device for a CPU build of torch, or one of Apple's.

Tensors report the device cuda:0 and compute on the CPU. The simulator raises `SimulatedError` where
CUDA would fail: for tensors of both devices in one operation, for NumPy arrays of the device's
tensors, for a generator of another device, and for a copy from the host or a wait within the
recording of a graph. It counts the kernels, graph launches, copies and waits of a program, and
names their lines. Within `streams.watch()` it raises `RaceError` where two streams use the same
memory in no certain order, one of them to write, and where memory is freed that another stream may
still use. It cannot show the time that anything takes, races with the host's memory, or
the rounding of cuBLAS and cuDNN.

Within `device(MPS)` tensors report the device mps:0, and what Apple's devices have not is refused:
numbers in float64, and all of torch.cuda.

`load` must be called before torch is imported, `install` after it. Both change torch for the whole
process. All other code runs within `device()`.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from streams import Clock, Stream, Streams

ROOT = Path(__file__).parents[2]
_SOURCE = Path(__file__).with_name("guard.cpp")


def load() -> ctypes.CDLL:
    """Compile the guard, once for each version of torch, load and return it."""
    version = importlib.metadata.version("torch")
    made_from = hashlib.sha256(_SOURCE.read_bytes() + version.encode()).hexdigest()[:16]
    library = ROOT / "build" / f"simulated_cuda-{made_from}.so"
    if not library.exists():
        found = importlib.util.find_spec("torch")
        assert found is not None
        assert found.origin is not None
        torch_folder = Path(found.origin).parent
        library.parent.mkdir(exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-shared", "-fPIC", "-std=c++20", str(_SOURCE), "-o", str(part)]
        for folder in ("include", "include/torch/csrc/api/include"):
            command.append(f"-I{torch_folder / folder}")
        command += [f"-L{torch_folder / 'lib'}", f"-Wl,-rpath,{torch_folder / 'lib'}"]
        subprocess.run([*command, "-ltorch_cpu", "-lc10"], check=True)
        part.replace(library)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_GUARD = load()

import torch  # noqa: E402  # after `load`, as all of torch
from torch import Tensor  # noqa: E402  # after `load`
from torch.overrides import TorchFunctionMode  # noqa: E402  # after `load`
from torch.utils._python_dispatch import (  # noqa: E402  # after `load`
    TorchDispatchMode,
    _disable_current_modes,
)
from torch.utils._pytree import tree_flatten, tree_map  # noqa: E402  # after `load`

CUDA, MPS = torch.device("cuda:0"), torch.device("mps:0")
_aten = torch.ops.aten

# Views and allocations, which launch no kernel.
_FREE = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal"),
    *("empty", "empty_like", "empty_strided", "expand", "flatten", "is_same_size", "lift_fresh"),
    *("movedim", "narrow", "new_empty", "new_empty_strided", "permute", "resize_", "select"),
    *("set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind"),
    *("unfold", "unsqueeze", "view", "view_as_real"),
}
# Operations that return a value to the host, or whose result's size depends on the data.
_WAITING = {
    *("_assert_async", "_local_scalar_dense", "_unique2", "allclose", "bincount", "equal"),
    *("is_nonzero", "isin", "masked_select", "nonzero", "unique", "unique_consecutive"),
    "unique_dim",
}
# Operations of several kernels; all others count as one.
_KERNELS = {
    "convolution": 2,
    "convolution_backward": 4,
    "cumsum": 2,
    "native_group_norm_backward": 4,
    "native_layer_norm_backward": 3,
    "randperm": 6,
    "sort": 4,
}
_BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")


class SimulatedError(RuntimeError):
    """What CUDA or torch's CUDA build would raise."""


class SimulatedTensor(Tensor):
    """A tensor of the device, whose numbers are those of the CPU tensor `held`."""

    held: Tensor
    __slots__ = ("held",)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type, held: Tensor, requires_grad: bool = False) -> "SimulatedTensor":
        """Wrap a CPU tensor."""
        if SIMULATOR.device == MPS and held.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the MPS framework doesn't support {held.dtype}, {_line()}")
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=SIMULATOR.device,
            requires_grad=requires_grad,
        )
        made.held = held
        SIMULATOR.streams.hold(made, _address(held))
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the simulated device."""
        return SIMULATOR.run(func, args, kwargs or {})

    def __repr__(self) -> str:
        """Show the numbers without counting a copy."""
        return f"SimulatedTensor({self.held!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse, as CUDA's tensors do."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        """Copy to the host and wait."""
        SIMULATOR.note("wait", "tolist")
        return self.held.tolist()

    def record_stream(self, stream: "_Stream") -> None:
        """Keep the memory from being used again until the stream has used it."""
        SIMULATOR.streams.record(_address(self.held), stream)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SimulatedTensor":
        """Copy a parameter or a buffer of a module."""
        if id(self) not in memo:
            copy = self.held.detach().clone(memory_format=torch.preserve_format)
            made = SimulatedTensor(copy, self.requires_grad)
            if getattr(self, "_is_param", False):
                made._is_param = True
            memo[id(self)] = made
        return memo[id(self)]


def _held(x: Any) -> Any:
    return x.held if isinstance(x, SimulatedTensor) else x


class _Stream(Stream):
    def is_capturing(self) -> bool:
        """Return whether a graph is being recorded."""
        return SIMULATOR.graph is not None

    def wait_stream(self, other: "_Stream") -> None:
        """Put later work after what the other stream was asked for."""
        self.clock |= other.clock

    def wait_event(self, event: "_Event") -> None:
        """Put later work after what the event marks."""
        self.clock |= event.clock

    def synchronize(self) -> None:
        """Count a wait."""
        SIMULATOR.note("wait", "synchronize")


class _Event:
    def __init__(self) -> None:
        self._waits = -1  # of the host for the device, until it was recorded
        self.clock = Clock()

    def record(self) -> None:
        """Mark what the current stream has been asked for so far."""
        self._waits = SIMULATOR.waited
        self.clock = Clock(SIMULATOR.streams.current.clock)

    def synchronize(self) -> None:
        """Count a wait, unless the host has waited for the device since."""
        if self._waits == SIMULATOR.waited:
            SIMULATOR.note("wait", "event")
        SIMULATOR.streams.host_waits(self.clock)


@contextlib.contextmanager
def _in_stream(stream: _Stream) -> Iterator[None]:
    streams = SIMULATOR.streams
    before, streams.current = streams.current, stream
    try:
        yield
    finally:
        streams.current = before


class Simulator(TorchDispatchMode):
    """Runs operations, checks them, and counts what they would cost.

    `counts` has the keys kernel, launch (of a graph), wait, upload (asynchronous copy to the
    device), waiting upload, download and asynchronous download. `lines` counts all but kernels by
    line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph: Graph | None = None  # that is being recorded
        self.counts = Counter[str]()
        self.lines = Counter[str]()
        self.recorded = 0  # operations of the newest graph
        self.waited = 0  # waits of the host for the device since the start
        self.streams = Streams(_Stream)
        self.device = CUDA

    def reset(self) -> None:
        """Forget all counts."""
        self.counts.clear()
        self.lines.clear()

    def note(self, kind: str, what: str, count: int = 1) -> None:
        """Count something; refuse what cannot be recorded.

        Raises:
            SimulatedError: a graph is being recorded, and this is no kernel.
        """
        if self.graph is not None:
            if kind != "kernel":
                raise SimulatedError(f"operation not permitted when stream is capturing: {what}")
            return
        self.counts[kind] += count
        self.waited += kind in ("wait", "download")
        if kind in ("wait", "download", "waiting upload") and what != "event":
            self.streams.host_waits(None if what == "synchronize" else self.streams.current.clock)
        if kind != "kernel":
            self.lines[f"{kind}, {what}, {_line()}"] += count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation that any tensor takes part in."""
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation on the device that its arguments or `device` name."""
        name = func._schema.name.split("::")[1]
        everything, _ = tree_flatten((args, kwargs))
        ours = any(isinstance(x, SimulatedTensor) for x in everything)
        wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if name == "_to_copy":
            return self._to(args[0], wanted or args[0].device.type, kwargs)
        if name == "copy_":
            return self._copy(args[0], args[1], *args[2:], **kwargs)
        if not ours and wanted != self.device.type:
            return func(*args, **kwargs)
        if ours and wanted == "cpu":
            raise SimulatedError(f"{name} of the device's tensors cannot make one of the CPU")
        self._check(name, args, everything)
        if name in _WAITING:
            self.note("wait", name)
        if name not in _FREE:
            self.note("kernel", name, _KERNELS.get(name, 1))
        if wanted is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        return self._execute(func, name, args, kwargs)

    def _check(self, name: str, args: Any, everything: list[Any]) -> None:
        """Refuse operations with tensors or generators of the CPU."""
        for x in everything:
            if isinstance(x, torch.Generator) and x.device != self.device:
                raise SimulatedError(f"{name} expected a generator of {self.device}, found cpu")
        if name in _BY_INDEX:
            indices = [i for i in args[1] if i is not None]
            if any(not isinstance(i, SimulatedTensor) for i in indices):
                self.note("waiting upload", f"{name} with an index of the CPU")
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.note("wait", f"{name} with a mask")
            if name != "index" and not isinstance(args[2], SimulatedTensor):
                if args[2].ndim:
                    raise SimulatedError(f"{name} of a tensor of the CPU")
                self.note("waiting upload", f"{name} of a Python number")
            return
        for x in everything:
            if isinstance(x, Tensor) and not isinstance(x, SimulatedTensor) and x.ndim:
                raise SimulatedError(
                    f"Expected all tensors to be on the same device, but {name} found "
                    f"{self.device} and cpu, {_line()}"
                )

    def _to(self, source: Tensor, to: str, kwargs: dict[str, Any]) -> Tensor:
        """Copy to another device or type."""
        kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
        waits = not kwargs.pop("non_blocking", False)
        here = isinstance(source, SimulatedTensor)
        copy = _aten._to_copy(_held(source), **kwargs)
        if not here and to == "cpu":
            return copy
        made = copy if to == "cpu" else SimulatedTensor(copy)
        self._use([source] if here else [], [] if to == "cpu" else [copy])
        if to == "cpu":
            self.note("download", "to cpu")
        elif not here:
            self._note_upload(source, waits)
        else:
            self.note("kernel", "_to_copy")
            self._record(_aten._to_copy.default, (_held(source),), kwargs, copy)
        return made

    def _copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """Copy into a tensor."""
        here, there = isinstance(target, SimulatedTensor), isinstance(source, SimulatedTensor)
        self._use([source] if there else [], [target] if here else [])
        if here and not there:
            self._note_upload(source, not non_blocking)
        elif there and not here:
            pinned = non_blocking and getattr(target, "simulated_pin", False)
            self.note("download", "copy_") if not pinned else self.note("asynchronous download", "")
        elif here:
            self.note("kernel", "copy_")
            self._record(_aten.copy_.default, (_held(target), _held(source)), {}, _held(target))
        _held(target).copy_(_held(source))
        return target

    def _note_upload(self, source: Tensor, waits: bool) -> None:
        """Count a copy to the device, which waits unless it is of pinned memory."""
        pinned = getattr(source, "simulated_pin", False)
        kind = "upload" if pinned and not waits else "waiting upload"
        self.note(kind, f"of {source.nbytes} bytes")

    def _execute(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation on the held tensors and wrap its results."""
        inner, inner_kwargs = tree_map(_held, (args, kwargs))
        results = func(*inner, **inner_kwargs)
        written = _written(func, args, kwargs)  # an operation in place returns its own argument

        def wrap(x: Any) -> Any:
            if not isinstance(x, Tensor) or isinstance(x, SimulatedTensor):
                return x
            return written[id(x)] if id(x) in written else SimulatedTensor(x)

        wrapped = tree_map(wrap, results)
        if name not in _FREE:
            self._record(func, inner, inner_kwargs, results)
            made = [x for x in tree_flatten(results)[0] if isinstance(x, Tensor)]
            given = tree_flatten((args, kwargs))[0]
            reads = [x for x in given if isinstance(x, SimulatedTensor)]
            self._use(reads, [*made, *written.values()])
        return wrapped

    def _use(self, reads: Iterable[Tensor], writes: Iterable[Tensor]) -> None:
        """Note what one piece of work reads and writes, unless it is being recorded."""
        if self.streams.watched and self.graph is None:
            of_reads, of_writes = map(_address, reads), map(_address, writes)
            self.streams.use(of_reads, of_writes, _line)

    def _record(self, func: Any, args: Any, kwargs: dict[str, Any], results: Any) -> None:
        if self.graph is not None:
            self.graph.operations.append((func, args, kwargs, results))


def _address(x: Tensor) -> int:
    return int(_held(x).untyped_storage().data_ptr())


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[int, SimulatedTensor]:
    """Return the arguments that an operation writes to, by the identity of what they hold."""
    changed = _changed(func, args, kwargs)
    return {id(x.held): x for x in changed if isinstance(x, SimulatedTensor)}


def _changed(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the arguments that an operation writes to."""
    changed = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            several = value if isinstance(value, list | tuple) else (value,)
            changed += [x for x in several if isinstance(x, Tensor)]
    return changed


def _line() -> str:
    """Return the innermost line of the package on the stack."""
    for frame in reversed(traceback.extract_stack()):
        # an editable installation is a link, below .venv
        _, found, path = frame.filename.rpartition("/src/ludus/")
        if not found and frame.filename.startswith(f"{ROOT}/"):
            path = frame.filename.removeprefix(f"{ROOT}/")
        if path != frame.filename and not path.startswith((".venv", "tests")):
            return f"{path}:{frame.lineno}"
    return "?"


SIMULATOR = Simulator()


def _numbered(device: torch.device) -> torch.device:
    """Return the device with its number, if it is the simulated one."""
    return SIMULATOR.device if device.type == SIMULATOR.device.type else device


class _Functions(TorchFunctionMode):
    """Handles what torch decides above its dispatcher."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(
            lambda x: _numbered(x) if isinstance(x, torch.device) else x,
            (args, kwargs or {}),
        )
        name = getattr(func, "__name__", "")
        pinned = kwargs.pop("pin_memory", False)
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if name in ("lstm_cell", "gru_cell") and isinstance(args[0], SimulatedTensor):
            return _recurrent_cell(name, args[0], args[1], args[2:])
        if pinned:
            made = func(*args, **kwargs)
            made.simulated_pin = True
            return made
        if func == Tensor.data.__set__ and isinstance(args[0], SimulatedTensor):
            SIMULATOR.streams.let_go(_address(args[0]))
            args[0].held = args[1].held.detach()
            SIMULATOR.streams.hold(args[0], _address(args[0]))
        return func(*args, **kwargs)


def _recurrent_cell(kind: str, row: Tensor, before: Any, weights: Any) -> Any:
    """Run an LSTM's or a GRU's cell by its equations, for which the CPU has another kernel."""
    w_in, w_hidden, b_in, b_hidden = weights
    h = before[0] if kind == "lstm_cell" else before
    of_input, of_hidden = row @ w_in.t() + b_in, h @ w_hidden.t() + b_hidden
    if kind == "lstm_cell":
        enter, keep, new, out = (of_input + of_hidden).chunk(4, -1)
        c = keep.sigmoid() * before[1] + enter.sigmoid() * new.tanh()
        return out.sigmoid() * c.tanh(), c
    reset, update, new = of_input.chunk(3, -1)
    reset_h, update_h, new_h = of_hidden.chunk(3, -1)
    keep = (update + update_h).sigmoid()
    return (1 - keep) * (new + (reset + reset_h).sigmoid() * new_h).tanh() + keep * h


class _Generator(torch.Generator):
    """A generator of the device, with the CPU's numbers and a state of another size."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        """Make a generator of the CPU that names another device."""
        made = super().__new__(cls, "cpu")
        made._names = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        """Return the device that it was made for."""
        return _numbered(self._names)

    def get_state(self) -> Tensor:
        """Return the state; that of a device's generator is one number longer than the CPU's."""
        state = super().get_state()
        return torch.cat([state, state[:1]]) if self.device == SIMULATOR.device else state

    def set_state(self, state: Tensor) -> "_Generator":
        """Set a state that `get_state` returned."""
        super().set_state(state[:-1] if self.device == SIMULATOR.device else state)
        return self

    def manual_seed(self, seed: int) -> "_Generator":
        """Seed, and return this object, which torch's own method does not."""
        super().manual_seed(seed)
        return self


class Graph:
    """A CUDA graph: operations that are done again on the same memory."""

    def __init__(self) -> None:
        self.operations: list[tuple[Callable[..., Any], Any, dict[str, Any], Any]] = []
        self._reads, self._writes = set[int](), set[int]()  # addresses

    def seal(self) -> None:
        """Collect what the operations read and write; the graph keeps that memory."""
        for func, args, kwargs, results in self.operations:
            given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
            made = [x for x in tree_flatten(results)[0] if isinstance(x, Tensor)]
            self._reads |= set(map(_address, given))
            self._writes |= set(map(_address, [*made, *_changed(func, args, kwargs)]))
        for address in self._reads | self._writes:
            SIMULATOR.streams.keep(address)

    def replay(self) -> None:
        """Do the recorded operations again."""
        SIMULATOR.note("launch", "replay")
        SIMULATOR.streams.use(self._reads, self._writes, _line)
        with torch.no_grad(), _disable_current_modes():
            for func, args, kwargs, results in self.operations:
                again, _ = tree_flatten(func(*args, **kwargs))
                kept, _ = tree_flatten(results)
                for new, old in zip(again, kept, strict=True):
                    if isinstance(new, Tensor) and new.data_ptr() != old.data_ptr():
                        old.copy_(new)


@contextlib.contextmanager
def _recording(graph: Graph) -> Iterator[None]:
    """Record operations; their effects on memory are undone, for a recording does not run them."""
    import gc

    assert SIMULATOR.graph is None, "graphs are not recorded within each other"
    with torch.no_grad(), _disable_current_modes():
        tensors = [x.held for x in gc.get_objects() if type(x) is SimulatedTensor]
        before = [(held, held.clone()) for held in tensors]
    SIMULATOR.graph = graph
    try:
        yield
    finally:
        SIMULATOR.graph, SIMULATOR.recorded = None, len(graph.operations)
        graph.seal()
        with torch.no_grad(), _disable_current_modes():
            for held, value in before:
                held.copy_(value)


def install() -> None:
    """Let torch see one GPU of each kind."""
    from torch.optim import optimizer as torch_optimizer

    cuda = torch.cuda
    changes: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda *_: SIMULATOR.streams.current,
        "stream": _in_stream,
        "synchronize": lambda *_: SIMULATOR.note("wait", "synchronize"),
        "is_current_stream_capturing": lambda: SIMULATOR.graph is not None,
        "get_device_name": lambda *_: "simulated",
        "mem_get_info": lambda *_: (64 << 30, 64 << 30),
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "manual_seed": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "Stream": _Stream,
        "Event": _Event,
        "CUDAGraph": Graph,
        "graph": _recording,
    }
    for name, value in changes.items():
        setattr(cuda, name, value)
    torch.Generator = _Generator
    torch.backends.cuda.is_built = lambda: True
    torch.backends.mps.is_available = lambda: True
    torch.accelerator.current_accelerator = lambda check_available=False: SIMULATOR.device
    torch.accelerator.current_stream = lambda *_: SIMULATOR.streams.current
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    supported = torch_optimizer._foreach_supported_types
    torch_optimizer._foreach_supported_types = [*supported, SimulatedTensor]


@contextlib.contextmanager
def device(kind: torch.device = CUDA) -> Iterator[Simulator]:
    """Run everything within on a torch that has a GPU; backward passes in this thread."""
    SIMULATOR.device = kind
    _GUARD.simulate_mps(kind == MPS)
    try:
        with torch.autograd.set_multithreading_enabled(False), _Functions(), SIMULATOR:
            yield SIMULATOR
    finally:
        SIMULATOR.device = CUDA
        _GUARD.simulate_mps(False)
