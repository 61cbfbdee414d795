"""Cores: memory between encoder and head, [T, B, dim] to [T, B, units].

The state is a tuple of tensors [B, ...]: () without memory, (h, c) for an LSTM, (h,) for a GRU, and
the past rows in its window for a transformer. It is reset where an episode begins.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ludus.envs.errors import ConfigError
from ludus.networks.names import CoreName
from ludus.networks.transformer import State, Transformer


def state_on_device(saved: Sequence[Tensor], like: State) -> State:
    """Return a saved state on the devices of the tensors of another one."""
    return tuple(kept.to(new.device) for kept, new in zip(saved, like, strict=True))


_MOST_ROWS = 32  # that a recurrent core on a CPU maps one by one


class NoCore(nn.Module):
    """Identity core without memory, so that feed-forward networks take the same path."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def initial_state(self, batch: int) -> State:
        """Return the empty state."""
        return ()

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """Return x [T, B, dim] unchanged."""
        return x, state


def same_operations(core: CoreName, rows: int, device: torch.device) -> bool:
    """Return whether a core maps [T = rows, B, dim] by the same operations, whatever the data.

    A recurrent core then goes row by row, and its state is reset by a mask. Otherwise one fused
    operation maps the rows between two resets: on a CPU that is faster for long sequences, whose
    operations also take long to trace (128 rows 14 s).
    """
    return core not in ("lstm", "gru") or device.type == "cuda" or rows <= _MOST_ROWS


def _segments(first: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the segments [start, end) of T between rows where any env begins an episode.

    Args:
        first: [T, B] bool, the row begins an episode.
    """
    starts = first.any(dim=1)
    starts[0] = True
    edges = [*torch.nonzero(starts).flatten().tolist(), len(first)]
    yield from pairwise(edges)


class RecurrentCore(nn.Module):
    """LSTM or GRU core, run row by row or segment by segment between resets.

    Biases are initialised to 0, except at the gate that keeps the state: 1 for an LSTM (Gers et al.
    2000; Jozefowicz et al. 2015) and 2 for a GRU. With PyTorch's initialisation an LSTM forgets a
    symbol within 20 steps and does not learn to keep it; so does a GRU with 1.

    Args:
        kind: "lstm" or "gru".
        dim: input features.
        units: size of the state and output features.
    """

    def __init__(self, kind: Literal["lstm", "gru"], dim: int, units: int) -> None:
        super().__init__()
        self.cell: nn.LSTM | nn.GRU = (nn.LSTM if kind == "lstm" else nn.GRU)(dim, units)
        biases = {n: p for n, p in self.cell.named_parameters() if n.startswith("bias")}
        with torch.no_grad():
            for bias in biases.values():
                bias.zero_()
            # The second gate: forget of (in, forget, cell, out), update of (reset, update, new).
            biases["bias_ih_l0"][units : 2 * units] = 1.0 if kind == "lstm" else 2.0
        self._kind, self._parts = kind, 2 if kind == "lstm" else 1
        self.dim = units

    def initial_state(self, batch: int) -> State:
        """Return zeros, [B, units] each."""
        weight = next(self.cell.parameters())
        return tuple(weight.new_zeros(batch, self.dim) for _ in range(self._parts))

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """Map [T, B, dim] to [T, B, units]; the state of env b is zeroed where first[t, b]."""
        if same_operations(self._kind, len(x), x.device):
            return self._row_by_row(x, state, first)
        outs = []
        # The fused kernels cannot zero a state within a sequence, so each segment is one call. With
        # few episode ends in T this is much faster than one call per row.
        for start, end in _segments(first):
            begins = first[start].unsqueeze(-1)  # [B, 1]
            before = tuple(s.masked_fill(begins, 0).unsqueeze(0) for s in state)  # [1, B, units]
            hidden = before if self._parts == 2 else before[0]
            out, hidden = self.cell(x[start:end], hidden)
            outs.append(out)
            after = hidden if self._parts == 2 else (hidden,)
            state = tuple(s.squeeze(0) for s in after)
        return torch.cat(outs), state

    def _row_by_row(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """Do the same as `forward`, see `same_operations`."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w_in, w_hidden, b_in, b_hidden = (self.cell.get_parameter(name) for name in names)
        outs = []
        for row, begins in zip(x.unbind(0), first.unsqueeze(-1).unbind(0), strict=True):
            before = tuple(s.masked_fill(begins, 0) for s in state)  # [B, units] each
            if self._kind == "lstm":
                state = torch.lstm_cell(row, before, w_in, w_hidden, b_in, b_hidden)
            else:
                state = (torch.gru_cell(row, before[0], w_in, w_hidden, b_in, b_hidden),)
            outs.append(state[0])
        return torch.stack(outs), state


class TwoCores(nn.Module):
    """Two cores, one for each half of the features: the policy's and the value's.

    Args:
        first: core of the first half.
        second: core of the second half.
    """

    def __init__(self, first: "Core", second: "Core") -> None:
        super().__init__()
        self.first, self.second = first, second
        self.dim: int = first.dim + second.dim
        self._parts = len(first.initial_state(1))

    def initial_state(self, batch: int) -> State:
        """Return the states of both cores, concatenated."""
        return (*self.first.initial_state(batch), *self.second.initial_state(batch))

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """Map [T, B, 2 * dim] to [T, B, 2 * units]."""
        halves = x.chunk(2, dim=-1)
        one, after_one = self.first(halves[0], state[: self._parts], first)
        two, after_two = self.second(halves[1], state[self._parts :], first)
        return torch.cat([one, two], dim=-1), (*after_one, *after_two)


Core = NoCore | RecurrentCore | Transformer | TwoCores


def make_core(
    name: CoreName, dim: int, units: int = 512, *, layers: int = 1, heads: int = 4, window: int = 32
) -> NoCore | RecurrentCore | Transformer:
    """Build a core by name.

    Args:
        name: kind of core.
        dim: input features.
        units: output features and size of the state; "none" keeps dim.
        layers: layers of a transformer.
        heads: attention heads of a transformer.
        window: past rows that each layer of a transformer attends to.

    Raises:
        ConfigError: the heads do not divide the units.
    """
    match name:
        case "none":
            return NoCore(dim)
        case "gtrxl":
            if heads < 1 or units % heads:
                raise ConfigError(f"{heads} heads do not divide {units} units; choose others")
            return Transformer(dim, units, layers, heads, window)
        case _:
            return RecurrentCore(name, dim, units)
