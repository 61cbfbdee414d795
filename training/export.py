"""A trained network as one file that other programs run: ONNX, or a program of `torch.export`.

The file holds one step of the network, from observations [B, *obs] to actions, for any B, with what
the network does to an observation (scaling, normalisation) inside. The state of a recurrent network
is an input and an output, and `first` [B] resets it. A search is not part of the file.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ludus.agents.agent import AnyAgent, HasNetwork
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import RunError
from ludus.networks.encoders import DictEncoder
from ludus.networks.heads import mask_illegal
from ludus.networks.network import Network
from ludus.networks.policies import (
    ActionKind,
    Categorical,
    Gaussian,
    MultiCategorical,
    PolicyOut,
)
from ludus.training.agent_file import save_agent
from ludus.training.checkpoint import write_atomically
from ludus.training.provenance import ludus_version
from ludus.training.run import RunConfig

Format = Literal["onnx", "torch", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
_TRACED_BATCH = 2  # 0 and 1 would be taken for constants
_METADATA = "ludus"


class Array(NamedTuple):
    """An input or an output of an exported network, without the dimension of the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class _ByKey:
    """Stands in for a `PackedDict` where an observation is a mapping of arrays."""

    def part(self, obs: Mapping[str, Tensor], key: str) -> Tensor:
        """Return one key's array."""
        return obs[key]


class _FixedMaxPool(nn.Module):
    """`nn.AdaptiveMaxPool2d`, for which ONNX has no operation, of images of one size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self._side = side

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, side, side]."""
        for dim in (-2, -1):
            size, side = x.shape[dim], self._side
            edges = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
            parts = [x.narrow(dim, start, end - start).amax(dim) for start, end in edges]
            x = torch.stack(parts, dim)
        return x


class OneStep(nn.Module):
    """One step of a network as a function of plain tensors.

    The inputs are the observation, or each key of a dictionary; of a recurrent network also `first`
    and the state. The outputs are the greedy action, the numbers that it is chosen by, and the next
    state.

    Args:
        network: the network, which is copied.
        space: of one observation.
        action_space: of the env.
    """

    def __init__(
        self, network: Network[Any], space: spaces.Box, action_space: spaces.Space[Any]
    ) -> None:
        super().__init__()
        self._network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        for layer in list(self._network.modules()):
            for name, child in layer.named_children():
                side = child.output_size if isinstance(child, nn.AdaptiveMaxPool2d) else None
                if isinstance(side, int):  # not one of a user's network that makes a pair of it
                    setattr(layer, name, _FixedMaxPool(side))
        self._kind = ActionKind(action_space)
        self._keys = {"observation": space}
        self._by_key = False
        if isinstance(space, PackedDict):
            seen = [*space.observed, *((MASK,) if MASK in space.parts else ())]
            self._keys = {key: space.parts[key].space for key in seen}
            for layer in self._network.modules():
                if isinstance(layer, DictEncoder):
                    self._by_key = True
                    layer.space = _ByKey()  # type: ignore[assignment]  # has what is used of it
        self._state = self._network.initial_state(1)

    def inputs(self) -> list[Array]:
        """Return the inputs in their order."""
        found = [Array(name, str(box.dtype), box.shape) for name, box in self._keys.items()]
        if self._state:
            found.append(Array("first", "bool", ()))
        return [*found, *(_array(f"state_{i}", s) for i, s in enumerate(self._state))]

    def outputs(self) -> list[Array]:
        """Return the outputs in their order."""
        given = self(*self.example())
        names = ["action", "q"]
        if len(given) - len(self._state) > 2:
            parameters = ["mean", "std"] if self._kind.continuous else ["log_probability"]
            names = ["action", *parameters, "value"]
        names += [f"next_state_{i}" for i in range(len(self._state))]
        return [_array(name, tensor) for name, tensor in zip(names, given, strict=True)]

    def example(self) -> tuple[Tensor, ...]:
        """Return inputs of ones: every action is legal, and every row begins an episode."""
        return tuple(
            torch.ones(_TRACED_BATCH, *each.shape, dtype=getattr(torch, each.dtype))
            for each in self.inputs()
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Map the inputs to the outputs, each [B, ...]."""
        obs = dict(zip(self._keys, inputs, strict=False))
        first_and_state = inputs[len(obs) :]
        legal = obs.pop(MASK).flatten(1) > 0 if MASK in obs else None  # [B, P]
        out, state = self._step(obs, *first_and_state)
        if not isinstance(out, PolicyOut):
            q = out.q[0] if legal is None else mask_illegal(out.q[0], legal)
            return q.argmax(-1) + int(self._kind.start), q, *state
        row = PolicyOut(out.logits[0], out.log_std, out.value[0])
        policy = self._kind.distribution(row, legal)
        if isinstance(policy, Gaussian):
            low, high = torch.tensor(self._kind.low), torch.tensor(self._kind.high)
            std = policy.log_std.exp().expand_as(policy.mean)
            return policy.mean.clamp(low, high), policy.mean.clone(), std, row.value, *state
        assert isinstance(policy, Categorical | MultiCategorical)
        parts = (policy,) if isinstance(policy, Categorical) else policy.parts
        log_p = torch.cat([part.log_p for part in parts], -1)  # [B, P]
        return policy.mode() + torch.as_tensor(self._kind.start), log_p, row.value, *state

    def _step(
        self, obs: Mapping[str, Tensor], *first_and_state: Tensor
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """Return the head's output [1, B, ...] and the next state, as `Network.forward` does."""
        encoder: Any = self._network.encoder
        x = encoder(obs if self._by_key else next(iter(obs.values()))).unsqueeze(0)  # [1, B, dim]
        state: tuple[Tensor, ...] = ()
        if first_and_state:
            first, *before = first_and_state
            x, state = self._network.core(x, tuple(before), first.unsqueeze(0))
        return self._network.head(x), state


def _array(name: str, tensor: Tensor) -> Array:
    return Array(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape[1:]))


def export(
    agent: AnyAgent,
    config: RunConfig,
    env_steps: int,
    space: spaces.Box,
    action_space: spaces.Space[Any],
    path: Path,
    form: Format,
) -> OneStep:
    """Write an agent's network to a file, in place of one of that name.

    Args:
        agent: the agent.
        config: of its training.
        env_steps: that it has learned from.
        space: of one observation of its env.
        action_space: of its env.
        path: of the file.
        form: onnx; torch for `torch.export.load`; safetensors for the weights alone, with the
            configuration in the header, for `ludus.load`.

    Returns:
        What the file does.

    Raises:
        RunError: the agent has no network of Ludus, packages for ONNX are missing, or the network
            has an operation that the format lacks.
    """
    if not isinstance(agent, HasNetwork) or not isinstance(agent.network, Network):
        raise RunError(f"{config.agent} has no network of Ludus to export; choose another run")
    step = OneStep(agent.network, space, action_space)
    if form == "safetensors":
        save_agent(path, config, agent.weights(), env_steps)
        return step
    if form == "onnx":
        _require_onnx()
    description = json.dumps(
        {
            "agent": config.agent,
            "env": config.env,
            "env_steps": env_steps,
            "protocol": config.protocol,
            "version": ludus_version(),
        }
    )
    try:
        with torch.no_grad(), _quietly():
            program = _trace(step)
            content = _onnx(step, program, description) if form == "onnx" else None
            if content is None:
                buffer = io.BytesIO()
                torch.export.save(program, buffer, extra_files={_METADATA: description})
                content = buffer.getvalue()
    except Exception as error:  # whatever the exporter raises on a user's network
        text = " ".join(str(error).split())[:300]
        raise RunError(f"the network cannot be exported to {form}: {text}") from error
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    return step


def _require_onnx() -> None:
    """Import what torch's exporter to ONNX needs.

    Raises:
        RunError: one of the packages, or what it imports, is not installed.
    """
    try:
        import onnx  # noqa: F401  # these are imported only to see whether they can be
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RunError(
            "onnx needs the packages onnx and onnxscript; install them with pip install onnx "
            f"onnxscript: {error}"
        ) from error


def _trace(step: OneStep) -> torch.export.ExportedProgram:
    """Return the step as a program for any batch size."""
    batch = torch.export.Dim("batch", min=1)
    example = step.example()
    shapes = (tuple({0: batch} for _ in example),)
    program = torch.export.export(step, example, dynamic_shapes=shapes)
    for node in program.graph.nodes:  # lines of our code, with this machine's paths
        node.meta.pop("stack_trace", None)
    program.example_inputs = None  # they would be pickled
    return program


def _onnx(step: OneStep, program: torch.export.ExportedProgram, description: str) -> bytes:
    """Return the file's content."""
    made = torch.onnx.export(
        program,
        input_names=[each.name for each in step.inputs()],
        output_names=[each.name for each in step.outputs()],
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props[_METADATA] = description
    for node in made.model.graph.all_nodes():  # names of our modules, larger than small weights
        node.metadata_props.clear()
    return made.model_proto.SerializeToString()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress what the exporters print and warn about their own progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
