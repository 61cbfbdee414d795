"""AlphaZero: a policy and a value that learn from a tree search of their own (Silver et al. 2018).

https://arxiv.org/abs/1712.01815: the network learns the search's policy, and the outcome as its
value. The search is that of Gumbel AlphaZero (https://openreview.net/forum?id=bERaNdoegnO), which
improves the policy from a few simulations on, or PUCT with Dirichlet noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ludus.agents.agent import Advice, Extras, Step
from ludus.agents.memory.games import Games, Position
from ludus.agents.optimizer import clip_norm, make_optimizer, take_step
from ludus.agents.schedules import linear
from ludus.agents.search import Chooser, Found, Gumbel, Puct, Tree, search, subtree
from ludus.agents.seeding import generator, seed_of
from ludus.agents.value_policy import as_batch
from ludus.envs.board.backend import observation_space, observations
from ludus.envs.board.game import BOARD, Board, Game
from ludus.envs.errors import ConfigError
from ludus.networks.cores import NoCore, State
from ludus.networks.encoders import MLP, Tower
from ludus.networks.flat import flat_gradient, flatten_parameters
from ludus.networks.heads import ILLEGAL
from ludus.networks.network import Network
from ludus.networks.policies import GameHead, PolicyOut, gumbel

_METRICS = ("loss", "policy_loss", "value_loss", "policy_kl", "grad_norm")


@dataclass(frozen=True)
class AlphaZeroConfig:
    """Every choice of an AlphaZero."""

    encoder: Literal["tower", "mlp"] = "tower"
    """residual tower, for positions that are planes; or fully connected layers"""
    channels: int = 32
    """tower: of each block"""
    blocks: int = 4
    """tower: residual blocks"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the MLP encoder's layers"""
    search: Literal["gumbel", "puct"] = "gumbel"
    """how a search chooses what to look at"""
    simulations: int = 24
    """positions that the search of a move looks at, in training"""
    play_simulations: int = 64
    """the same when the agent is evaluated or played against"""
    fast_simulations: int = 0
    """playout cap: of the moves whose policy is not learned from; 0 for all alike"""
    full_share: float = 0.25
    """playout cap: share of the moves that have all simulations"""
    considered: int = 16
    """gumbel: actions at the root that are tried, at most"""
    c_visit: float = 50.0
    """gumbel: how many visits the values count for from the start"""
    c_scale: float = 0.25
    """gumbel: how much the values count against the prior, in training"""
    play_c_scale: float = 1.0
    """the same when the agent is evaluated or played against"""
    c_puct: float = 1.25
    """puct: how much the prior counts against the values"""
    dirichlet: float = 10.0
    """puct: alpha of the root's noise, times the number of legal moves"""
    noise_share: float = 0.25
    """puct: of the root's prior that is noise, in training"""
    sampled_moves: int = 10
    """puct: of each game, that are drawn by their visits in training; later the most visited"""
    reuse_tree: bool = False
    """puct: begin a search with what the one before found below the move that was made"""
    random_moves: int = 6
    """a game begins with 0 to so many moves at random, so that games differ; not learned from"""
    symmetries: bool = True
    """turn each position that is learned from at random, where the game has symmetries"""
    outcome_share: float = 0.5
    """of the outcome in the value to learn; the rest is the value that the search found"""
    optimizer_eps: float = 1e-8
    """of Adam"""
    learning_rate: float = 3e-3
    """step size of Adam"""
    anneal_learning_rate: bool = True
    """let it fall linearly to 0 over the training"""
    max_grad_norm: float = 1.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    value_coef: float = 1.0
    """weight of the value loss"""
    batch_size: int = 256
    """positions in one update"""
    replay_size: int = 200_000
    """positions kept"""
    learning_starts: int = 5_000
    """env steps before the first update"""
    replay_ratio: float = 0.015
    """updates per env step"""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, and combinations that do not make sense."""
        positive = (
            "channels blocks simulations play_simulations considered c_scale c_puct play_c_scale "
        )
        positive += "dirichlet learning_rate optimizer_eps batch_size replay_size replay_ratio"
        for name in positive.split():
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        not_negative = "fast_simulations c_visit sampled_moves random_moves max_grad_norm "
        not_negative += "value_coef learning_starts"
        for name in not_negative.split():
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("full_share", "noise_share", "outcome_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if any(units < 1 for units in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}; every layer needs 1 unit or more")
        if self.reuse_tree and self.search == "gumbel":
            raise ConfigError(
                "reuse_tree goes with the search puct: gumbel counts the visits of one search"
            )
        if self.fast_simulations >= self.simulations:
            raise ConfigError(
                f"fast_simulations is {self.fast_simulations}; it must be below simulations, "
                f"{self.simulations}"
            )


class AlphaZero:
    """An AlphaZero over everything it needs.

    Args:
        config: search, losses and cadence.
        game: the rules, on the device of the network where it can be.
        network: policy and value of positions as the mover sees them.
        flat: its parameters in one tensor, see `flatten_parameters`.
        optimizer: of `flat`.
        memory: where games go and positions come from.
        seed: of the search's noise.
        steps: env steps of the whole training, which the learning rate falls over.
    """

    multithreaded = True  # the network is worth several threads, although positions are small

    def __init__(
        self,
        config: AlphaZeroConfig,
        game: Game,
        network: Network[PolicyOut],
        flat: Tensor,
        optimizer: torch.optim.Optimizer,
        memory: Games,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.game, self.network, self.flat = config, game, network, flat
        self.optimizer, self.memory, self.device = optimizer, memory, flat.device
        self.simulations = config.play_simulations  # of a move in `predict` and `advise`
        self._space = observation_space(game)
        self._parameters = list(network.parameters())
        self._exploration = generator(self.device, seed, 1)
        self._evaluation = generator(self.device, seed, 2)
        self._turning = generator(self.device, seed, 4)
        self._cap = np.random.default_rng([seed, 5])
        self._openings = np.random.default_rng([seed, 6])
        self.gradients: Callable[..., Sequence[Tensor]] = self._gradients
        self.update: Callable[..., None] = self._update
        self.capturable = True
        self._turned_board, self._turned_action = (t.to(self.device) for t in game.symmetries())
        self._rate = torch.tensor(config.learning_rate, device=self.device)
        optimizer.param_groups[0]["lr"] = self._rate
        self._sums = torch.zeros(len(_METRICS), device=self.device)
        self._summed = 0
        self._moves = np.zeros(memory.num_envs, np.int64)  # [B] of the running games
        self._opening = self._draw_openings()  # [B] moves at random, of the running games
        self._ratio = Fraction(str(config.replay_ratio))
        self._steps = steps
        self.env_steps, self.updates = 0, 0

    # -- acting -------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> State:
        """The trees of the last search where they are used again, else nothing."""
        if not self.config.reuse_tree:
            return ()
        room = 2 * max(self.simulations, self.config.simulations) + 1
        empty = Tree(self.game, self.game.init(num_envs), room, self.device)
        return self._folded(empty)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Moves [B] for obs [B, *obs]; what the search found goes into the extras."""
        c = self.config
        fast = explore and c.fast_simulations and self._cap.random() >= c.full_share
        count = c.fast_simulations if fast else c.simulations
        seen = self._unpack(obs)
        noise = self._exploration if explore and not fast else None
        found, legal, state = self._search(obs, seen, state, count, noise, c.c_scale)
        action = found.action
        if explore and c.search == "puct":
            early = torch.from_numpy(self._moves < c.sampled_moves).to(self.device)
            drawn = _draw(found.policy, legal, self._exploration)
            action = torch.where(early, drawn, action)
        opens = torch.from_numpy(explore & (self._moves < self._opening)).to(self.device)  # [B]
        if c.random_moves and explore:
            drawn = _draw(legal.to(torch.float32), legal, self._exploration)
            action = torch.where(opens, drawn, action)
        learned = torch.full_like(opens, not fast)
        row = Position(seen[BOARD], legal, found.policy, found.value, learned, ~opens)
        return action.cpu().numpy(), state, {"position": row}

    def _draw_openings(self) -> np.ndarray:
        """How many moves at random a game of each env begins with, [B]."""
        return self._openings.integers(
            self.config.random_moves, endpoint=True, size=self.memory.num_envs
        )

    def _unpack(self, obs: np.ndarray) -> dict[str, Tensor]:
        """What is in observations [B, *obs], by name."""
        packed = torch.from_numpy(obs).to(self.device)
        return {key: self._space.part(packed, key) for key in self.game.parts}

    def _search(
        self,
        obs: np.ndarray,
        seen: dict[str, Tensor],
        state: State,
        simulations: int,
        generator: torch.Generator | None,
        c_scale: float,
    ) -> tuple[Found, Tensor, State]:
        """Search positions with the generator's noise, or none.

        Returns:
            What was found, the legal moves [B, A], and the state after.
        """
        board = self.game.from_observation(seen)
        legal = self.game.legal_actions(board).to(self.device)
        chooser = self._chooser(legal, generator, c_scale)
        tree = None if not state else self._regrown(obs, board, state, simulations)
        found = search(self.game, board, self.evaluate, chooser, simulations, self.device, tree)
        return found, legal, () if tree is None else self._folded(tree)

    def _folded(self, tree: Tree) -> State:
        """Trees as tensors [B, N, ...], positions as they are observed."""
        shown = torch.from_numpy(observations(self.game, self._space, tree.boards)).to(self.device)
        parts = (shown, *(array[:-1] for array in tree.arrays()))
        return (*(p.unflatten(0, (tree.batch, tree.nodes)) for p in parts), tree.used)

    def _regrown(self, obs: np.ndarray, board: Board, state: State, simulations: int) -> Tree:
        """The trees again, below the moves that led from their roots to positions [B]."""
        shown, *kept, used = state
        flat = shown.flatten(0, 1)  # [B * N, size]
        old = Tree(self.game, board, shown.shape[1], self.device)
        old.boards = self.game.from_observation(
            {k: self._space.part(flat, k) for k in self.game.parts}
        )
        for array, value in zip(old.arrays(), kept, strict=True):
            array[:-1] = value.flatten(0, 1)
        old.used = used
        below = old.child[old.root]  # [B, A] rows of the nodes below the roots
        here = torch.from_numpy(obs).to(self.device).unsqueeze(1)  # [B, 1, size]
        same = (below >= 0) & (flat[below.clamp(min=0)] == here).all(-1)
        chosen = below.masked_fill(~same, -1).max(-1).values
        return subtree(self.game, old, chosen, board, old.nodes - simulations)

    def _chooser(self, legal: Tensor, generator: torch.Generator | None, c_scale: float) -> Chooser:
        c = self.config
        if c.search == "gumbel":
            noise = None if generator is None else _gumbel(legal, generator)
            return Gumbel(noise, c.considered, c.c_visit, c_scale)
        noise = None if generator is None else _dirichlet(legal, c.dirichlet, generator)
        return Puct(c.c_puct, noise, c.noise_share)

    @torch.no_grad()
    def evaluate(self, board: Board) -> tuple[Tensor, Tensor]:
        """What the network says of positions [B]: logits [B, A], ILLEGAL where so; values [B]."""
        shown = self.game.observation(board)[BOARD].to(self.device)
        legal = self.game.legal_actions(board).to(self.device)
        out = self._look(shown)
        return out.logits.masked_fill(~legal, ILLEGAL), out.value

    def _look(self, shown: Tensor) -> PolicyOut:
        """The network's answer to positions [N, *board]."""
        first = torch.zeros(1, len(shown), dtype=torch.bool, device=self.device)
        out, _ = self.network(shown.unsqueeze(0), (), first)
        return PolicyOut(out.logits[0], None, out.value[0])

    def predict(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; `deterministic` searches without noise."""
        if isinstance(observation, Mapping):
            observation = self._space.pack(observation)
        obs, _, single = as_batch(observation, episode_start, self._space.shape)
        generator = None if deterministic else self._evaluation
        found, state = self._play(obs, state, generator)
        actions = found.action.cpu().numpy()
        return (actions[0] if single else actions), state

    def _play(
        self, obs: np.ndarray, state: Any, generator: torch.Generator | None
    ) -> tuple[Found, State]:
        """The search of a move that counts, for positions [B]."""
        state = self.initial_state(len(obs)) if state is None else state
        how = (self.simulations, generator, self.config.play_c_scale)
        found, _, state = self._search(obs, self._unpack(obs), state, *how)
        return found, state

    def advise(
        self, observation: np.ndarray, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """The search's policy and visits, and the mean returns of the actions that it tried."""
        obs, _, _ = as_batch(observation, episode_start, self._space.shape)
        found, state = self._play(obs, state, None)
        q = torch.where(found.visits > 0, found.mean, torch.nan)
        told = (found.action, found.value, q, found.policy, found.visits)
        return Advice(*(x.cpu().numpy() for x in told)), state

    # -- learning -----------------------------------------------------------------------------

    def observe(self, step: Step) -> None:
        """Remember one row."""
        over = step.terminated & step.valid
        sign = np.broadcast_to(np.asarray(step.discount_sign, np.float32), over.shape)
        reward = np.sign(step.reward)
        self.memory.add(step.extras["position"], step.valid, reward, over, sign)
        going = step.valid & ~over
        self._moves = np.where(going, self._moves + 1, 0)
        if over.any():
            self._opening = np.where(over, self._draw_openings(), self._opening)
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due: floor(replay_ratio * steps since learning_starts) in all."""
        c = self.config
        learned = max(0, self.env_steps - c.learning_starts)
        due = int(self._ratio * learned) - self.updates
        if due <= 0 or len(self.memory) < c.batch_size:
            return 0
        if c.anneal_learning_rate:
            self._rate.fill_(linear(c.learning_rate, 0.0, self._steps, self.env_steps))
        for _ in range(due):
            self.update(*self.randomness())
            self.updates += 1
        self._summed += due
        return due

    def randomness(self) -> tuple[Tensor, Tensor]:
        """The chance of the next update: places [N] in memory, and how each is turned [N]."""
        n, ways = self.config.batch_size, len(self._turned_board)
        ways = ways if self.config.symmetries else 1
        turn = torch.randint(ways, (n,), generator=self._turning, device=self.device)
        return self.memory.sample_indices(n), turn

    def _gradients(self, place: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Of one batch; a pure function of `draw` that asks for no tensor's value.

        Returns:
            Metrics [5]; the gradient [size], scaled down to the largest norm.
        """
        c, sample = self.config, self.memory.sample(place)
        board, legal, policy = sample.board, sample.legal, sample.policy
        if c.symmetries and len(self._turned_board) > 1:
            flat = board.flatten(1).gather(1, self._turned_board[turn])
            board = flat.view(board.shape)
            legal = legal.gather(1, self._turned_action[turn])
            policy = policy.gather(1, self._turned_action[turn])
        out = self._look(board)
        log_p = out.logits.masked_fill(~legal, ILLEGAL).log_softmax(-1)
        entropy = -torch.special.xlogy(policy, policy).sum(-1)  # [N] of the search's policy
        learned = sample.weight / sample.weight.sum().clamp(min=1)
        policy_loss = -((policy * log_p).sum(-1) * learned).sum()
        value_loss = (out.value - sample.value).square().mean()
        loss = policy_loss + c.value_coef * value_loss
        gradients = torch.autograd.grad(loss, self._parameters)
        gradient = flat_gradient(gradients, self._parameters)
        norm = clip_norm(gradient, c.max_grad_norm)
        kl = policy_loss.detach() - (entropy * learned).sum()
        told = [loss.detach(), policy_loss.detach(), value_loss.detach(), kl, norm]
        return torch.stack(told), gradient

    def _update(self, place: Tensor, turn: Tensor) -> None:
        """One optimizer step."""
        metrics, gradient = self.gradients(place, turn)
        take_step(self.optimizer, self.flat, gradient)
        self._sums += metrics

    def example(self) -> tuple[Tensor, Tensor]:
        """A draw without chance, of the shape of all others."""
        nothing = torch.zeros(self.config.batch_size, dtype=torch.int64, device=self.device)
        return nothing, nothing.clone()

    def changes(self) -> list[Tensor]:
        """The tensors that `update` changes."""
        return [self.flat, *self.optimizer.state[self.flat].values(), self._sums]

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the schedule stands."""
        values = {"learning_rate": float(self._rate), "positions": float(len(self.memory))}
        if self._summed:
            means = (self._sums / self._summed).tolist()
            values |= dict(zip(_METRICS, means, strict=True))
            self._sums.zero_()
            self._summed = 0
        return values

    # -- state --------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by name."""
        return dict(self.network.state_dict())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The inverse of `weights`."""
        self.network.load_state_dict(weights)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of another training."""
        self.load_weights(weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            "network": self.weights(),
            "optimizer": dict(self.optimizer.state[self.flat]),
            "memory": self.memory.state_dict(),
            "exploration": self._exploration.get_state(),
            "evaluation": self._evaluation.get_state(),
            "turning": self._turning.get_state(),
            "cap": self._cap.bit_generator.state,
            "openings": self._openings.bit_generator.state,
            "moves": self._moves,
            "opening": self._opening,
            "env_steps": self.env_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.load_weights(state["network"])
        for name, moment in self.optimizer.state[self.flat].items():
            moment.copy_(state["optimizer"][name])
        self.memory.load_state_dict(state["memory"])
        self._exploration.set_state(state["exploration"])
        self._evaluation.set_state(state["evaluation"])
        self._turning.set_state(state["turning"])
        self._cap.bit_generator.state = state["cap"]
        self._openings.bit_generator.state = state["openings"]
        self._moves, self._opening = np.array(state["moves"]), np.array(state["opening"])
        self.env_steps, self.updates = state["env_steps"], state["updates"]


def _gumbel(legal: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of the Gumbel distribution, [B, A]."""
    return gumbel(torch.rand(legal.shape, generator=generator, device=legal.device))


def _dirichlet(legal: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """Draws of the Dirichlet distribution over the legal moves, [B, A]; alpha over their number."""
    each = alpha / legal.sum(-1, keepdim=True).clamp(min=1) * legal.to(torch.float32)
    drawn = torch._standard_gamma(each.clamp(min=1e-6), generator=generator) * legal
    return drawn / drawn.sum(-1, keepdim=True).clamp(min=1e-20)


def _draw(policy: Tensor, legal: Tensor, generator: torch.Generator) -> Tensor:
    """A move [B] by its probability."""
    score = policy.clamp(min=1e-20).log() + _gumbel(legal, generator)
    return score.masked_fill(~legal, ILLEGAL).argmax(-1)


def build(
    config: AlphaZeroConfig,
    game: Game,
    *,
    num_envs: int,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> AlphaZero:
    """A fresh AlphaZero for a game; without `training` its memory is as small as can be.

    Raises:
        ConfigError: the network does not fit the positions, or the memory does not fit.
    """
    c = config
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # one generator per purpose: this one for the weights
        network = make_network(c, game).to(device)
    capacity = c.replay_size if training else (game.max_moves + 2) * num_envs
    memory = Games(
        capacity,
        num_envs,
        game.parts[BOARD],
        game.num_actions,
        game.max_moves,
        outcome_share=c.outcome_share,
        device=device,
        seed=seed_of(seed, 3),
    )
    flat = flatten_parameters(network)
    optimizer = make_optimizer("adam", flat, c.learning_rate, c.optimizer_eps)
    return AlphaZero(c, game, network, flat, optimizer, memory, seed, steps)


def make_network(config: AlphaZeroConfig, game: Game) -> Network[PolicyOut]:
    """The network that the config describes.

    Raises:
        ConfigError: a tower is asked for, and positions are no planes.
    """
    c, space = config, game.parts[BOARD]
    encoder: Tower | MLP
    if c.encoder == "mlp":
        encoder = MLP(space, c.hidden)
    elif len(space.shape) == 3:
        encoder = Tower(space, c.channels, c.blocks)
    else:
        raise ConfigError(
            f"the tower takes positions that are planes; those of {game.name} have shape "
            f"{list(space.shape)}; choose the encoder mlp"
        )
    return Network(encoder, NoCore(encoder.dim), GameHead(encoder.dim, game.num_actions))
