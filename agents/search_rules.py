"""The rules by which a tree search selects actions: PUCT, and Gumbel with sequential halving."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from ludus.agents.search import Edges
from ludus.networks.heads import ILLEGAL
from ludus.networks.policies import gumbel

_NEVER = -torch.inf


class Puct(NamedTuple):
    """PUCT, the rule of AlphaZero (https://arxiv.org/abs/1712.01815): Q + c P sqrt(N) / (1 + n).

    c = log((1 + N + 19,652) / 19,652) + `c_puct`. The Q of an unvisited action is the node's mean.
    The action to play is the most visited one; the policy is the fraction of visits.
    """

    c_puct: float = 1.25
    noise: Tensor | None = None  # [B, A] Dirichlet sample over the legal moves
    noise_share: float = 0.25  # fraction of noise in the root's prior

    def prepare(self, logits: Tensor) -> Tensor:
        """Mix noise into the prior."""
        if self.noise is None:
            return logits
        prior = (1 - self.noise_share) * logits.softmax(-1) + self.noise_share * self.noise
        return prior.log().maximum(logits.min())  # illegal moves stay finite

    def judge(self, edges: Edges) -> Tensor:
        """Return the mean returns, -inf of illegal actions, and the prior."""
        mean = torch.where(edges.visits > 0, edges.mean(), edges.value().unsqueeze(-1))
        mean = torch.where(_legal(edges.logits), mean, _NEVER)
        return torch.stack([mean, edges.logits.softmax(-1)], -2)

    def inside(self, judged: Tensor, visits: Tensor) -> Tensor:
        """Return the actions of the highest score."""
        mean, prior = judged.unbind(-2)
        visited = visits.sum(-1, keepdim=True) + 1
        rate = ((1 + visited + 19_652) / 19_652).log() + self.c_puct
        return (mean + rate * prior * visited.sqrt() / (1 + visits)).argmax(-1)

    def at_root(
        self, judged: Tensor, visits: Tensor, done: Tensor, simulations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the action of the highest score in each game."""
        first, taken = self.inside(judged, visits).unsqueeze(1), (done < simulations).unsqueeze(1)
        return first, taken, torch.full_like(done, simulations)

    def widths(self, simulations: int) -> Sequence[int]:
        """Return 1 for each simulation."""
        return [1] * simulations

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fractions of visits and the most visited action; the mean breaks ties."""
        policy = edges.visits / edges.visits.sum(-1, keepdim=True).clamp(min=1)
        rank = edges.visits + 0.25 * edges.mean().clamp(-1, 1)
        action = torch.where(_legal(edges.logits), rank, _NEVER).argmax(-1)
        return policy, action, edges.value()


class Gumbel(NamedTuple):
    """Policy improvement by planning with Gumbel (https://openreview.net/forum?id=bERaNdoegnO).

    Root: sequential halving among the actions of the highest logit plus Gumbel noise. Below: visits
    in proportion to the improved policy, softmax(logits + sigma(completed Q)), equation 11.
    """

    noise: Tensor | None = None  # [B, A] Gumbel sample; None to play greedily
    considered: int = 16  # maximum number of actions at the root
    c_visit: float = 50.0
    c_scale: float = 1.0

    def prepare(self, logits: Tensor) -> Tensor:
        """Return the logits unchanged."""
        return logits

    def _completed(self, edges: Edges) -> Tensor:
        """Return mean returns [..., A]; those of unvisited actions as in appendix D."""
        prior = edges.logits.softmax(-1)
        tried = edges.visits > 0
        known = (prior * tried).sum(-1)
        mean, visited = edges.mean(), edges.visits.sum(-1)
        share = (prior * mean).sum(-1) / known.clamp(
            min=1e-12
        )  # of the visited actions under the prior
        mixed = (edges.raw + visited * share) / (1 + visited)
        return torch.where(tried, mean, mixed.unsqueeze(-1))

    def _improved(self, edges: Edges, completed: Tensor) -> Tensor:
        """Return the logits of the improved policy [..., A]."""
        most = edges.visits.amax(-1, keepdim=True)
        unit = (completed + 1) / 2  # in [0, 1], the scale of the constants
        return edges.logits + (self.c_visit + most) * self.c_scale * unit

    def judge(self, edges: Edges) -> Tensor:
        """Return the logits of the improved policy."""
        return self._improved(edges, self._completed(edges)).unsqueeze(-2)

    def inside(self, judged: Tensor, visits: Tensor) -> Tensor:
        """Return the actions furthest below their share of the improved policy (equation 14)."""
        policy = judged.squeeze(-2).softmax(-1)
        # positive for a legal action, because the policy sums to 1, and not for any other
        return (policy - visits / (1 + visits.sum(-1, keepdim=True))).argmax(-1)

    def at_root(
        self, judged: Tensor, visits: Tensor, done: Tensor, simulations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best of the actions whose visits equal those of this round of the halving."""
        logits = judged.squeeze(-2)
        legal = _legal(logits)
        table = rounds(self.considered, simulations, done.device)
        due, length, until = table[legal.sum(-1).clamp(max=self.considered), done].unbind(-1)
        allowed = legal & (visits == due.unsqueeze(-1))
        score = logits if self.noise is None else logits + self.noise
        order = torch.where(allowed, score, _NEVER).argsort(dim=-1, descending=True, stable=True)
        rank = torch.arange(order.shape[1], device=order.device)
        return order, rank < length.unsqueeze(-1), until

    def widths(self, simulations: int) -> Sequence[int]:
        """Return the widest round of sequential halving with as many actions, or fewer."""
        return widths(self.considered, simulations)

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Return the improved policy, the best of the most visited actions, and the policy's value.

        The mean over the root's visits would be far below that value: sequential halving spreads
        visits over bad actions too.
        """
        completed = self._completed(edges)
        logits = self._improved(edges, completed)
        most = edges.visits.amax(-1, keepdim=True)
        allowed = _legal(edges.logits) & (edges.visits == most)
        score = logits if self.noise is None else logits + self.noise
        action = torch.where(allowed, score, _NEVER).argmax(-1)
        policy = logits.softmax(-1)
        return policy, action, (policy * completed).sum(-1)


def gumbel_noise(legal: Tensor, generator: torch.Generator) -> Tensor:
    """Sample the Gumbel distribution, [B, A]."""
    return gumbel(torch.rand(legal.shape, generator=generator, device=legal.device))


def dirichlet_noise(legal: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """Sample a Dirichlet distribution over the legal moves [B, A]; alpha over their number."""
    each = alpha / legal.sum(-1, keepdim=True).clamp(min=1) * legal.to(torch.float32)
    sampled = torch._standard_gamma(each.clamp(min=1e-6), generator=generator) * legal
    return sampled / sampled.sum(-1, keepdim=True).clamp(min=1e-20)


def sample_move(policy: Tensor, legal: Tensor, generator: torch.Generator) -> Tensor:
    """Sample a move [B] by its probability."""
    score = policy.clamp(min=1e-20).log() + gumbel_noise(legal, generator)
    return score.masked_fill(~legal, ILLEGAL).argmax(-1)


def _legal(logits: Tensor) -> Tensor:
    return logits > -1e8


@cache
def rounds(considered: int, simulations: int, device: torch.device) -> Tensor:
    """Return the rounds of sequential halving, [considered + 1, simulations + 1, 3] int64.

    The first index is the number of actions, the second that of the simulations done. The numbers
    are the visits of the actions that are next, how many of these are left, and the simulations
    after the last round that follows with as many actions, which are the same ones. All are 0 after
    the end.
    """
    table = torch.zeros(considered + 1, simulations + 1, 3, dtype=torch.int64)
    for count in range(considered + 1):
        start = 0
        each = [(due, len(list(same))) for due, same in groupby(halving(count, simulations))]
        for size, alike in groupby(each, key=lambda round_: round_[1]):
            first = start
            for due, _ in alike:
                table[count, start : start + size, 0] = due
                table[count, start : start + size, 1] = torch.arange(size, 0, -1)
                start += size
            table[count, first:start, 2] = start
    return table.to(device)


@cache
def widths(considered: int, simulations: int) -> Sequence[int]:
    """Return the lengths of the rounds, the largest for up to `considered` actions."""
    each = [
        [len(list(same)) for _, same in groupby(halving(count, simulations))]
        for count in range(1, considered + 1)
    ]
    return [max(lengths) for lengths in zip_longest(*each, fillvalue=0)]


def halving(count: int, simulations: int) -> tuple[int, ...]:
    """Return the visits of the next action in each simulation, for `count` actions.

    Sequential halving: all actions get the same visits, then the better half, and so on down to two
    actions; the stages share the simulations evenly.
    """
    if count <= 1:
        return tuple(range(simulations))
    stages, due = math.ceil(math.log2(count)), list[int]()
    visits, left = [0] * count, count
    while len(due) < simulations:
        for _ in range(max(1, simulations // (stages * left))):
            due += visits[:left]
            visits[:left] = [v + 1 for v in visits[:left]]
        left = max(2, left // 2)
    return tuple(due[:simulations])
