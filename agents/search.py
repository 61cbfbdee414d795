"""Monte-Carlo tree search in all games of a batch at once; a tree is arrays [B, N, A].

A round of simulations selects P paths in the trees, makes one move on each, evaluates all P new
positions in one forward pass, and adds the values to the paths. Paths of one tree begin with
different actions, so they have nothing in common but the root. A node's next action depends on the
node alone, so it is stored: selection follows stored actions, and the backward step recomputes them
for all nodes of all paths at once. The layout is that of mctx
(https://github.com/google-deepmind/mctx). A return changes its sign where the other player moves.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

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


class Chooser(Protocol):
    """The rule by which a search selects actions."""

    def prepare(self, logits: Tensor) -> Tensor:
        """Return the root's prior logits [B, A] for the search."""

    def inside(self, edges: Edges) -> Tensor:
        """Return the next actions [...] of nodes below the root."""

    def at_root(self, edges: Edges, done: Tensor, simulations: int) -> tuple[Tensor, Tensor]:
        """Return the actions at the roots in the next round.

        Args:
            edges: of the roots, [B, A].
            done: [B] simulations of each game so far.
            simulations: of each game in the end.

        Returns:
            Actions [B, W], different ones within a game, and [B, W] bool: which of them begin a
            path. These are the first ones of a game.
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
        self.raw = torch.zeros(rows, device=device)
        self.discount_sign = torch.ones(rows, device=device)  # of the move into the node
        self.parent = torch.full((rows,), -1, device=device)  # row of the parent; -1 for none
        self.choice = torch.zeros(rows, dtype=torch.int64, device=device)  # next action
        self.boards = game.init(rows)
        self.root = torch.arange(batch, device=device) * nodes  # [B] rows
        self.used = torch.ones_like(self.root)  # [B] number of nodes
        self.nowhere = rows - 1
        self.put(self.root, board)

    def put(self, rows: Tensor, board: Board) -> None:
        """Store positions in rows."""
        self.boards[self._index(rows)] = board

    def get(self, rows: Tensor) -> Board:
        """Return the positions of rows."""
        return self.boards[self._index(rows)]

    def _index(self, rows: Tensor) -> Any:
        return rows.cpu().numpy() if isinstance(self.boards, np.ndarray) else rows

    def arrays(self) -> tuple[Tensor, ...]:
        """Return everything but the positions, [rows, ...] each."""
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
        fixed: do the same operations whatever the data, with the same result, so that a GPU never
            waits and the search can be recorded. Paths that no game needs are then evaluated, too.
            For games whose positions are tensors, without `tree`.
    """
    device = device or torch.device("cpu")
    if tree is None:
        tree = Tree(game, board, simulations + 1, device)
    logits, value = evaluate(board)
    tree.logits[tree.root], tree.raw[tree.root] = chooser.prepare(logits), value
    done = torch.zeros_like(tree.root)  # [B] simulations
    widths = chooser.widths(simulations)
    for depth, width in enumerate(widths, 1):  # each round adds a level to a tree at most
        actions, taken = chooser.at_root(tree.edges(tree.root), done, simulations)  # [B, W]
        actions, taken = actions[:, :width], taken[:, :width]
        if fixed:
            simulate(game, tree, evaluate, chooser, _all_paths(tree, actions, taken), depth)
        else:
            paths = _taken_paths(tree, actions, taken)
            if not len(paths.root):
                break
            simulate(game, tree, evaluate, chooser, paths)
        count = taken.sum(1)  # [B]
        tree.used += count
        done = done + count
    edges = tree.edges(tree.root)
    policy, action, value = chooser.result(edges)
    return SearchResult(policy, action, value, edges.value(), edges.visits, edges.mean())


class Paths(NamedTuple):
    """The beginnings of P paths, those of a game together."""

    root: Tensor  # [P] rows
    first: Tensor  # [P] actions there
    new: Tensor  # [P] rows of the nodes to be added
    taken: Tensor | None  # [P] bool, False of an empty path; None if there are none


def _taken_paths(tree: Tree, first: Tensor, taken: Tensor) -> Paths:
    """Return the paths that begin with actions [B, W] where `taken` [B, W]."""
    games, place = taken.nonzero(as_tuple=True)  # [P]
    root = tree.root[games]
    return Paths(root, first[games, place], root + tree.used[games] + place, None)


def _all_paths(tree: Tree, first: Tensor, taken: Tensor) -> Paths:
    """Return the same with empty paths in place of the others, P = B W."""
    root, new = tree.root.unsqueeze(1), (tree.root + tree.used).unsqueeze(1)
    new = new + torch.arange(first.shape[1], device=first.device)
    root, new = torch.where(taken, root, tree.nowhere), torch.where(taken, new, tree.nowhere)
    return Paths(root.flatten(), first.flatten(), new.flatten(), taken.flatten())


def simulate(
    game: Game,
    tree: Tree,
    evaluate: Evaluate,
    chooser: Chooser,
    paths: Paths,
    depth: int | None = None,
) -> None:
    """Do one round of simulations, each of which adds a node.

    Args:
        game: the rules.
        tree: the trees.
        evaluate: the network.
        chooser: PUCT or Gumbel.
        paths: their beginnings.
        depth: of the deepest tree at most; None to find it, which waits for a GPU at each level.
    """
    new, taken = paths.new, paths.taken
    nodes, actions = select(tree, paths.root, paths.first, depth)  # [D, P] each
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
    touched = torch.cat([nodes[1:], new.unsqueeze(0)])  # [D, P], all but the roots
    tree.choice[touched] = chooser.inside(tree.edges(touched))


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
    going = torch.ones_like(here, dtype=torch.bool)
    child, choice = tree.child.view(-1), tree.choice
    nodes, actions = list[Tensor](), list[Tensor]()
    while depth is None or len(nodes) < depth:
        nodes.append(torch.where(going, here, tree.nowhere))
        actions.append(action)
        following = child[here * tree.actions + action]
        going = following >= 0
        if depth is None and not going.any():
            break
        # a path that has ended stays at its last edge
        here = torch.where(going, following, here)
        action = torch.where(going, choice[here], action)
    return torch.stack(nodes), torch.stack(actions)


def _last(tree: Tree, nodes: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last node and action of each path, [P] each."""
    depth = (nodes != tree.nowhere).sum(0, keepdim=True) - 1  # [1, P], -1 of an empty path
    depth = depth.clamp(min=0)
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
    after.put(rows, tree.get(old))
    after.used = kept.sum(1).clamp(min=1)
    return after
