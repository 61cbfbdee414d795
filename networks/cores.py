"""Cores: memory between encoder and head, [T, B, dim] to [T, B, dim], reset where an episode opens.

The state is a tuple of tensors [B, units]: () for no memory, (h, c) for an LSTM, (h,) for a GRU.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
CoreName = Literal["none", "lstm", "gru"]


class NoCore(nn.Module):
    """No memory: features pass through."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def initial_state(self, batch: int) -> State:
        """The empty state."""
        return ()

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """[T, B, dim] to itself."""
        return x, state


def _segments(first: Tensor) -> Iterator[tuple[int, int]]:
    """Stretches [start, end) of T between rows where some env opens an episode; first [T, B]."""
    starts = first.any(dim=1)
    starts[0] = True
    edges = [*torch.nonzero(starts).flatten().tolist(), len(first)]
    yield from pairwise(edges)


class RecurrentCore(nn.Module):
    """An LSTM or a GRU, one call per segment between resets.

    Biases start at 0, but 1 at the gate that keeps the state (Gers et al. 2000; Jozefowicz et al.
    2015): with torch's own start an LSTM forgets a symbol within 20 steps and does not learn to
    keep it.

    Args:
        kind: which of the two.
        dim: features in.
        units: size of the state, and features out.
    """

    def __init__(self, kind: Literal["lstm", "gru"], dim: int, units: int) -> None:
        super().__init__()
        self.cell: nn.LSTM | nn.GRU = (nn.LSTM if kind == "lstm" else nn.GRU)(dim, units)
        biases = {n: p for n, p in self.cell.named_parameters() if n.startswith("bias")}
        with torch.no_grad():
            for bias in biases.values():
                bias.zero_()
            # the second gate: forget of (in, forget, cell, out), update of (reset, update, new)
            biases["bias_ih_l0"][units : 2 * units] = 1.0
        self._parts = 2 if kind == "lstm" else 1
        self.dim = units

    def initial_state(self, batch: int) -> State:
        """Zeros, [B, units] each."""
        weight = next(self.cell.parameters())
        return tuple(weight.new_zeros(batch, self.dim) for _ in range(self._parts))

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """[T, B, dim] to [T, B, units]; the state of env b is zeroed where first[t, b]."""
        outs = []
        for start, end in _segments(first):
            opens = first[start].unsqueeze(-1)  # [B, 1]
            inside = tuple(s.masked_fill(opens, 0).unsqueeze(0) for s in state)  # [1, B, units]
            hidden = inside if self._parts == 2 else inside[0]
            out, hidden = self.cell(x[start:end], hidden)
            outs.append(out)
            after = hidden if self._parts == 2 else (hidden,)
            state = tuple(s.squeeze(0) for s in after)
        return torch.cat(outs), state


def make_core(name: CoreName, dim: int, units: int = 512) -> NoCore | RecurrentCore:
    """The core of that name for features [T, B, dim]."""
    return NoCore(dim) if name == "none" else RecurrentCore(name, dim, units)
