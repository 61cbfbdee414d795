"""Monte-Carlo tree search in all games of a batch at once; a tree is arrays [B, N, A].

A round of simulations selects paths in the trees; those of one tree begin with different actions,
so they have nothing in common but the root. A pass makes one move on each of its P paths, evaluates
all new positions in one forward pass, and adds the values to the paths. It has one round, or more
where few games are searched: the later ones assume that the paths before them return the value of
each node that they pass. A node's next action is stored, so that selection only follows rows; after
a pass it is chosen anew for all nodes of all paths at once. The layout is that of mctx
(https://github.com/google-deepmind/mctx). A return changes its sign where the other player moves.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ludus.envs.board.game import Board, Game

# Positions [P] to logits [P, A], `ILLEGAL` for illegal moves, and values [P] of the next player.
Evaluate = Callable[[Board], tuple[Tensor, Tensor]]


class Edges(NamedTuple):
    """Statistics of the actions of some nodes, [..., A] each."""

    logits: Tensor  # of the prior
    visits: Tensor  # float32
    total: Tensor  # sum of the returns, for the player who moves there
    raw: Tensor  # [...] the network's value

    def mean(self) -> Tensor:
        """Return the mean return of each action, 0 without visits."""
        return self.total / self.visits.clamp(min=1)

    def value(self) -> Tensor:
        """Return the mean of the network's value and all returns, [...]."""
        return (self.raw + self.total.sum(-1)) / (1 + self.visits.sum(-1))

    def assuming(self, pending: Tensor) -> "Edges":
        """Return the statistics if so many paths [..., A] more returned the value of their node."""
        total = self.total + pending * self.value().unsqueeze(-1)
        return self._replace(visits=self.visits + pending, total=total)


class Chooser(Protocol):
    """The rule by which a search selects actions."""

    def prepare(self, logits: Tensor) -> Tensor:
        """Return the root's prior logits [B, A] for the search."""

    def judge(self, edges: Edges) -> Tensor:
        """Return K numbers on each action that follow from what returned so far, [..., K, A]."""

    def inside(self, judged: Tensor, visits: Tensor) -> Tensor:
        """Return the next actions [...] of nodes below the root.

        Args:
            judged: [..., K, A] see `judge`.
            visits: [..., A] of the actions.
        """

    def at_root(
        self, judged: Tensor, visits: Tensor, done: Tensor, simulations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the actions at the roots in the next round.

        Args:
            judged: [B, K, A].
            visits: [B, A].
            done: [B] simulations of each game that have begun.
            simulations: of each game in the end.

        Returns:
            Actions [B, W], different ones within a game; [B, W] bool: which of them begin a path,
            the first ones of a game; [B] simulations after which the returns of all must be known.
        """

    def widths(self, simulations: int) -> Sequence[int]:
        """Return the number of paths that a game can have at most in each round."""

    def result(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Return the improved policy [B, A], the action to play [B], and the policy's value [B]."""


class SearchResult(NamedTuple):
    """The result of a search of B games."""

    policy: Tensor  # [B, A] improved
    action: Tensor  # [B] int64, to play
    value: Tensor  # [B] of that policy, for the player to move
    root_mean: Tensor  # [B] of the network's value and all returns, for the player to move
    visits: Tensor  # [B, A] float32
    mean: Tensor  # [B, A] mean return of each action


class Tree:
    """Trees of B games with up to N nodes each; node 0 is the root.

    Args:
        game: the rules.
        board: positions [B] at the roots.
        nodes: N.
        device: where the arrays live.
    """

    def __init__(self, game: Game, board: Board, nodes: int, device: torch.device) -> None:
        batch, actions = len(board), game.num_actions
        self.batch, self.nodes, self.actions = batch, nodes, actions
        rows = batch * nodes + 1  # the last row is no node: writes without a target go there
        self.logits = torch.zeros(rows, actions, device=device)
        self.visits = torch.zeros(rows, actions, device=device)
        self.total = torch.zeros(rows, actions, device=device)
        # Row of the node that an action leads to; -1 without one, or where the game is over.
        self.child = torch.full((rows, actions), -1, device=device)
        # [rows, A] float32, paths of the pass that have not returned; None if it has one round
        self.pending: Tensor | None = None
        self.judged = torch.empty(0)  # [rows, K, A] see `Chooser`
        self.raw = torch.zeros(rows, device=device)
        self.discount_sign = torch.ones(rows, device=device)  # of the move into the node
        self.parent = torch.full((rows,), -1, device=device)  # row of the parent; -1 for none
        self.choice = torch.zeros(rows, dtype=torch.int64, device=device)  # next action
        self.nowhere = rows - 1
        self.following = torch.full_like(self.choice, self.nowhere)  # row to which it leads
        self.boards = game.init(rows)
        self.root = torch.arange(batch, device=device) * nodes  # [B] rows
        self.used = torch.ones_like(self.root)  # [B] number of nodes
        self.put(self.root, board)

    def put(self, rows: Tensor, board: Board) -> None:
        """Store positions in rows."""
        self.boards[self._index(rows)] = board

    def get(self, rows: Tensor) -> Board:
        """Return the positions of rows."""
        return self.boards[self._index(rows)]

    def _index(self, rows: Tensor) -> Any:
        return rows.cpu().numpy() if isinstance(self.boards, np.ndarray) else rows

    def choose(self, rows: Tensor, edges: Edges, chooser: Chooser) -> None:
        """Choose the next actions of the nodes in rows [D, P] anew; rows[0] are roots."""
        judged = chooser.judge(edges)
        self.judged[rows] = judged
        below, action = rows[1:], chooser.inside(judged[1:], edges.visits[1:])
        self.choice[below] = action
        self.following[below] = self.behind(below, action)

    def behind(self, rows: Tensor, actions: Tensor) -> Tensor:
        """Return the rows to which actions lead, `nowhere` without a node."""
        child = self.child[rows, actions]
        return torch.where(child < 0, self.nowhere, child)

    def arrays(self) -> tuple[Tensor, ...]:
        """Return all that remains after a search but the positions, [rows, ...] each."""
        return (
            self.logits,
            self.visits,
            self.total,
            self.raw,
            self.discount_sign,
            self.child,
            self.parent,
            self.choice,
        )

    def edges(self, rows: Tensor) -> Edges:
        """Return the statistics of the nodes in rows [...]."""
        return Edges(self.logits[rows], self.visits[rows], self.total[rows], self.raw[rows])


@torch.no_grad()
def search(
    game: Game,
    board: Board,
    evaluate: Evaluate,
    chooser: Chooser,
    simulations: int,
    device: torch.device | None = None,
    tree: Tree | None = None,
    *,
    leaves: int = 1,
    fixed: bool = False,
) -> SearchResult:
    """Search B games.

    Args:
        game: the rules.
        board: positions [B]; the result is undefined where the game is over.
        evaluate: the network.
        chooser: PUCT or Gumbel.
        simulations: number of simulations, 1 or more.
        device: where the arrays live; the CPU by default.
        tree: trees of these positions to continue, with room for `simulations` nodes.
        leaves: about so many new positions of a game in one forward pass, or a round if that has
            more. Many are faster for a few games, and each is chosen with less known.
        fixed: do the same operations whatever the data, with the same result, so that a GPU never
            waits and the search can be recorded. Paths that no game needs are then evaluated, too.
            For games whose positions are tensors, without `tree` and `leaves`.
    """
    device = device or torch.device("cpu")
    known, tree = tree, tree or Tree(game, board, simulations + 1, device)
    tree.pending = torch.zeros_like(tree.visits) if leaves > 1 else None
    logits, value = evaluate(board)
    tree.logits[tree.root], tree.raw[tree.root] = chooser.prepare(logits), value
    rows = tree.root if known is None else torch.arange(len(tree.raw), device=device)
    judged = chooser.judge(tree.edges(rows))
    tree.judged = judged.new_zeros(len(tree.raw), *judged.shape[1:])
    tree.judged[rows] = judged
    done = torch.zeros_like(tree.root)  # [B] simulations
    if fixed:  # each round adds a level to a tree at most
        for depth, width in enumerate(chooser.widths(simulations), 1):
            first, taken, _ = _first(tree, chooser, done, simulations)  # [B, W]
            paths = _all_paths(tree, first[:, :width], taken[:, :width], depth)
            expand(game, tree, evaluate, chooser, paths)
            done = done + taken[:, :width].sum(1)
    else:
        while True:
            paths, done = _next_paths(tree, chooser, done, simulations, leaves)
            if not len(paths.new):
                break
            expand(game, tree, evaluate, chooser, paths)
    edges = tree.edges(tree.root)
    policy, action, value = chooser.result(edges)
    return SearchResult(policy, action, value, edges.value(), edges.visits, edges.mean())


class Paths(NamedTuple):
    """P paths from the roots to edges without a child."""

    nodes: Tensor  # [D, P] rows; `tree.nowhere` below the end of a path
    actions: Tensor  # [D, P]
    new: Tensor  # [P] rows of the nodes to be added
    taken: Tensor | None = None  # [P] bool, False of an empty path; None if there are none


def _all_paths(tree: Tree, first: Tensor, taken: Tensor, depth: int) -> Paths:
    """Return paths that begin with actions [B, W], empty ones where not `taken`; P = B W."""
    root, new = tree.root.unsqueeze(1), (tree.root + tree.used).unsqueeze(1)
    new = new + torch.arange(first.shape[1], device=first.device)
    root, new = torch.where(taken, root, tree.nowhere), torch.where(taken, new, tree.nowhere)
    tree.used += taken.sum(1)
    nodes, actions = select(tree, root.flatten(), first.flatten(), depth)
    return Paths(nodes, actions, new.flatten(), taken.flatten())


def _first(
    tree: Tree, chooser: Chooser, done: Tensor, simulations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the actions at the roots in the next round, see `Chooser.at_root`."""
    visits = tree.visits[tree.root]
    if tree.pending is not None:
        visits = visits + tree.pending[tree.root]
    return chooser.at_root(tree.judged[tree.root], visits, done, simulations)


def _next_paths(
    tree: Tree, chooser: Chooser, done: Tensor, simulations: int, leaves: int
) -> tuple[Paths, Tensor]:
    """Select the paths of the next pass.

    A path that ends where another one of the pass does is left to the next pass.

    Args:
        tree: the trees.
        chooser: PUCT or Gumbel.
        done: [B] simulations of each game so far, returned with these paths.
        simulations: of each game in the end.
        leaves: see `search`.
    """
    first, taken, until = _first(tree, chooser, done, simulations)  # [B, W]
    rest = until - done
    most = done + (rest / (rest / leaves).round().clamp(min=1)).ceil()  # [B]
    rounds = list[Paths]()
    while True:
        games, place = taken.nonzero(as_tuple=True)  # [P]
        nodes, actions = select(tree, tree.root[games], first[games, place])
        if rounds and (meets := _meets(tree, nodes, actions)).any():
            taken[games[meets], place[meets]] = False
            most[games[meets]] = 0
            games, place, nodes, actions = (x[..., ~meets] for x in (games, place, nodes, actions))
        new = tree.root + tree.used - 1  # [B]
        new = (new.unsqueeze(1) + taken.cumsum(1))[games, place]
        rounds.append(Paths(nodes, actions, new))
        tree.used += taken.sum(1)
        done = done + taken.sum(1)
        if tree.pending is None or not (done < most).any():
            break
        _begin(tree, chooser, nodes, actions)
        first, taken, _ = _first(tree, chooser, done, simulations)
        taken = taken & (taken.cumsum(1) <= (most - done).unsqueeze(1))
    return (rounds[0] if len(rounds) == 1 else _together(tree, rounds)), done


def _meets(tree: Tree, nodes: Tensor, actions: Tensor) -> Tensor:
    """Return whether each path ends at an edge whose first visit is still to come, [P]."""
    assert tree.pending is not None
    last = _last(tree, nodes, actions)
    return (tree.pending[last] > 0) & (tree.visits[last] == 0)


def _begin(tree: Tree, chooser: Chooser, nodes: Tensor, actions: Tensor) -> None:
    """Count paths [D, P] as pending, and choose the next actions of their nodes anew."""
    assert tree.pending is not None
    edge = (nodes * tree.actions + actions).flatten()
    tree.pending.view(-1).index_add_(0, edge, torch.ones(len(edge), device=edge.device))
    tree.choose(nodes, tree.edges(nodes).assuming(tree.pending[nodes]), chooser)


def _together(tree: Tree, rounds: Sequence[Paths]) -> Paths:
    """Return the paths of several rounds as those of one."""
    depth = max(len(each.nodes) for each in rounds)

    def longer(x: Tensor, value: int) -> Tensor:
        return pad(x, (0, 0, 0, depth - len(x)), value=value)

    nodes = torch.cat([longer(each.nodes, tree.nowhere) for each in rounds], 1)
    actions = torch.cat([longer(each.actions, 0) for each in rounds], 1)
    return Paths(nodes, actions, torch.cat([each.new for each in rounds]))


def expand(game: Game, tree: Tree, evaluate: Evaluate, chooser: Chooser, paths: Paths) -> None:
    """Add a node at the end of each path, and its value to the path.

    Args:
        game: the rules.
        tree: the trees.
        evaluate: the network.
        chooser: PUCT or Gumbel.
        paths: the paths.
    """
    nodes, actions, new, taken = paths
    last, action = _last(tree, nodes, actions)
    move = game.step(tree.get(last), action)
    board, device = move.board, new.device
    reward, terminated = move.reward.to(device), move.terminated.to(device)
    sign = move.discount_sign.to(device)
    logits, value = evaluate(board)
    tree.put(new, board)
    ended = terminated
    if taken is not None:  # `tree.nowhere` has the sign 1 and no child
        sign, ended = torch.where(taken, sign, 1), terminated | ~taken
    tree.logits[new], tree.raw[new], tree.discount_sign[new] = logits, value, sign
    # A terminal node is never entered: its edge stays without a child, and each later simulation
    # that ends there adds the outcome again.
    tree.child[last, action] = torch.where(ended, -1, new)
    tree.parent[new] = last
    # The return of the player who made the last move: the outcome, or the value of the position as
    # the next player sees it with its sign turned.
    returns = torch.where(terminated, reward.sign(), sign * value)  # [P]
    backward(tree, nodes, actions, returns)
    touched = torch.cat([nodes, new.unsqueeze(0)])
    tree.choose(touched, tree.edges(touched), chooser)


def select(
    tree: Tree, here: Tensor, action: Tensor, depth: int | None = None
) -> tuple[Tensor, Tensor]:
    """Follow the stored actions from the roots to edges without a child.

    Args:
        tree: the trees.
        here: [P] rows of the roots, or `tree.nowhere` for an empty path.
        action: [P] actions there.
        depth: of the longest path at most; None to find it.

    Returns:
        The nodes and the actions of the paths, [D, P] each; `tree.nowhere` below the end of a path
        that is shorter than the longest.
    """
    nodes = list[Tensor]()
    following = tree.behind(here, action)
    while True:
        nodes.append(here)
        here, following = following, tree.following[following]
        if len(nodes) == depth or (depth is None and not (here != tree.nowhere).any()):
            break
    rows = torch.stack(nodes)
    return rows, torch.cat([action.unsqueeze(0), tree.choice[rows[1:]]])


def _last(tree: Tree, nodes: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last node and action of each path, [P] each."""
    depth = (nodes[1:] != tree.nowhere).sum(0, keepdim=True)  # [1, P]
    return nodes.gather(0, depth)[0], actions.gather(0, depth)[0]


def backward(tree: Tree, nodes: Tensor, actions: Tensor, returns: Tensor) -> None:
    """Add a return to every edge of the paths, for the player who moves there.

    Args:
        tree: the trees.
        nodes: [D, P].
        actions: [D, P].
        returns: [P], for the player who made the last move.
    """
    # The sign of an edge is the product of the signs of all moves after it: a cumulative product
    # from the last edge to the first. `tree.nowhere` has the sign 1.
    signs = tree.discount_sign[nodes[1:]]  # [D - 1, P] of the move into each node
    signs = torch.cat([signs, torch.ones_like(returns).unsqueeze(0)])
    signs = signs.flip(0).cumprod(0).flip(0)  # [D, P]
    edge = (nodes * tree.actions + actions).flatten()
    tree.visits.view(-1).index_add_(0, edge, torch.ones_like(signs).flatten())
    if tree.pending is not None:
        tree.pending.view(-1)[edge] = 0
    tree.total.view(-1).index_add_(0, edge, (signs * returns).flatten())


def subtree(game: Game, tree: Tree, chosen: Tensor, board: Board, most: int) -> Tree:
    """Return new trees whose roots are nodes of the given ones, with the nodes below them.

    Args:
        game: the rules.
        tree: the given trees.
        chosen: [B] rows of the nodes that become roots; -1 for an empty tree.
        board: [B] positions of the new roots.
        most: maximum number of nodes to copy, oldest first; the visits of an action remain even if
            its node is not copied.
    """
    nodes = tree.nodes
    under = torch.zeros(tree.batch, nodes, dtype=torch.bool, device=chosen.device)
    under.view(-1)[chosen[chosen >= 0]] = True
    parent = tree.parent[:-1].view_as(under)  # rows; -1 at the roots
    has, before = parent >= 0, parent.clamp(min=0)
    while True:  # each round adds the nodes one level deeper
        more = under | (has & under.view(-1)[before])
        if torch.equal(more, under):
            break
        under = more
    index = under.cumsum(1) - 1  # a node comes after its parent in both trees
    kept = under & (index < most)
    old = kept.flatten().nonzero().squeeze(1)  # [M] rows
    new = (index + tree.root.unsqueeze(1)).flatten()
    where = torch.full((len(tree.raw),), -1, device=chosen.device)  # [rows] old row to new row
    where[old] = new[old]
    after = Tree(game, board, nodes, chosen.device)
    rows = where[old]
    for name in ("logits", "visits", "total", "raw", "discount_sign", "choice"):
        getattr(after, name)[rows] = getattr(tree, name)[old]
    for name in ("child", "parent"):
        there = getattr(tree, name)[old]
        getattr(after, name)[rows] = torch.where(there >= 0, where[there.clamp(min=0)], -1)
    after.discount_sign[after.root], after.parent[after.root] = 1, -1
    after.following[rows] = after.behind(rows, after.choice[rows])
    after.put(rows, tree.get(old))
    after.used = kept.sum(1).clamp(min=1)
    return after
