"""Speed of AlphaZero's self-play: simulations and games per second, and shares of the time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import pyspiel
import torch
from open_spiel.python.algorithms import mcts

from ludus.agents import alphazero, registry
from ludus.agents.alphazero import AlphaZero, AlphaZeroConfig
from ludus.comparison.speed import measured_on
from ludus.envs.board.spiel import SpielGame, load
from ludus.envs.make import make
from ludus.envs.vector import Row
from ludus.evaluation.evaluate import torch_settings

BATCHES = (1, 8, 32, 128, 256)
_ROWS = 24  # of a turn
_T = TypeVar("_T")


@dataclass(frozen=True)
class SearchRate:
    """Speed of one search; medians over rounds."""

    name: str
    simulations_per_second: float
    games_per_second: float
    network_share: float | None = None  # of the time; None if it was not measured
    game_share: float | None = None
    tree_share: float | None = None


class _Clock:
    """Accumulates the seconds spent in calls."""

    def __init__(self, device: torch.device) -> None:
        self.network = self.game = 0.0
        self._device = device

    def timed(self, name: str, call: Callable[..., _T]) -> Callable[..., _T]:
        """Return `call` with its time added to the attribute `name`."""

        def run(*arguments: Any) -> _T:
            began = time.perf_counter()
            result = call(*arguments)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            setattr(self, name, getattr(self, name) + time.perf_counter() - began)
            return result

        return run


class _SelfPlay:
    """Our search in B games at once, as in training or, with `play`, as in play."""

    def __init__(
        self, game: str, batch: int, simulations: int, device: torch.device, *, play: bool
    ) -> None:
        self._env = make(game, batch, seed=1)
        config = registry.preset("alphazero", self._env).config
        assert isinstance(config, AlphaZeroConfig)
        self._simulations, self._clock, self._play = simulations, _Clock(device), play
        self._agent = alphazero.build(
            AlphaZeroConfig(
                encoder=config.encoder,
                simulations=simulations,
                play_simulations=simulations,
                random_moves=0,
            ),
            self._env,
            device=device,
            seed=1,
            steps=1,
            training=False,
        )
        made = self._agent.game
        for name in ("step", "legal_actions", "observation", "from_observation"):
            setattr(made, name, self._clock.timed("game", getattr(made, name)))
        self._agent.network.forward = self._clock.timed("network", self._agent.network.forward)  # type: ignore[method-assign]  # only here
        self._row: Row = self._env.reset()
        self._lengths = list[int]()
        self.turn(made.max_moves + 2)  # play until the games are at different moves

    def _moves(self) -> np.ndarray:
        obs, first = self._row.obs, self._row.first
        if self._play:
            return self._agent.choose(obs, (), first, deterministic=False)[0]
        return self._agent.act(obs, (), first)[0]

    def turn(self, rows: int) -> SearchRate:
        """Play `rows` moves in all games and return the speed."""
        self._clock.network = self._clock.game = 0.0
        seconds, moves = 0.0, 0
        with torch_settings(self._env, self._agent):
            for _ in range(rows):
                began = time.perf_counter()
                action = self._moves()
                seconds += time.perf_counter() - began
                moves += int((~self._row.game_over).sum())
                self._env.send(action)
                self._row = self._env.recv()
                self._lengths += self._row.episode_length[self._row.game_over].tolist()
        network, game = self._clock.network / seconds, self._clock.game / seconds
        mean = float(np.mean(self._lengths)) if self._lengths else float("nan")
        return SearchRate(
            f"ludus, {self._env.num_envs} games" + (" in play" if self._play else ""),
            moves * self._simulations / seconds,
            moves / seconds / mean,
            network,
            game,
            1 - network - game,
        )


class _Evaluator(mcts.Evaluator):
    """Our network for OpenSpiel's search, one position at a time."""

    def __init__(self, agent: AlphaZero) -> None:
        self._agent = agent
        self._key: str | None = None
        self._output = torch.empty(0), torch.empty(0)

    def _evaluate(self, state: Any) -> tuple[torch.Tensor, torch.Tensor]:
        key = state.history_str()
        if key != self._key:  # the search requests the prior and the value separately
            board = np.empty(1, object)
            board[0] = state
            self._key, self._output = key, self._agent.evaluate(board)
        return self._output

    def evaluate(self, state: Any) -> np.ndarray:
        """Return the values of both players."""
        value = float(self._evaluate(state)[1])
        return np.array([value, -value] if state.current_player() == 0 else [-value, value])

    def prior(self, state: Any) -> list[tuple[int, float]]:
        """Return the legal actions with their probabilities."""
        prior = self._evaluate(state)[0][0].softmax(0)
        return [(action, float(prior[action])) for action in state.legal_actions()]


class _Theirs:
    """OpenSpiel's search in Python, one game."""

    def __init__(self, game: str, simulations: int, with_network: bool) -> None:
        self._rules, self._simulations = load(game), simulations
        self._chance = np.random.RandomState(1)
        self._name = "OpenSpiel's Python MCTS, "
        if with_network:
            made = SpielGame(self._rules)
            planes = len(made.parts["board"].shape) == 3
            agent = alphazero.build_for_game(
                AlphaZeroConfig(encoder="tower" if planes else "mlp"),
                made,
                num_envs=1,
                device=torch.device("cpu"),
                seed=1,
                steps=1,
                training=False,
            )
            evaluator, choose = _Evaluator(agent), mcts.SearchNode.puct_value
            self._name += "our network"
        else:
            evaluator = mcts.RandomRolloutEvaluator(1, self._chance)
            choose = mcts.SearchNode.uct_value
            self._name += "random games"
        self._bot = mcts.MCTSBot(
            self._rules, 2.0, simulations, evaluator, False, self._chance, choose
        )
        self._state: pyspiel.State = self._rules.new_initial_state()
        self._lengths = list[int]()

    def turn(self, rows: int) -> SearchRate:
        """Play `rows` moves, starting a new game after each end, and return the speed."""
        seconds = 0.0
        for _ in range(rows):
            began = time.perf_counter()
            action = self._bot.step(self._state)
            seconds += time.perf_counter() - began
            self._state.apply_action(action)
            if self._state.is_terminal():
                self._lengths.append(self._state.move_number())
                self._state = self._rules.new_initial_state()
        mean = float(np.mean(self._lengths)) if self._lengths else float("nan")
        return SearchRate(self._name, rows * self._simulations / seconds, rows / seconds / mean)


def measure_search(
    game: str,
    *,
    simulations: int,
    rounds: int,
    device: torch.device,
    peers: bool,
    on_progress: Callable[[str], None],
) -> list[SearchRate]:
    """Measure searches of all batch sizes and OpenSpiel's, alternately.

    Args:
        game: name of the game; the network is untrained.
        simulations: per move.
        rounds: number of rounds; results are medians over these.
        device: of our network and search trees.
        peers: also measure OpenSpiel's search.
        on_progress: called with a line on each measurement.
    """
    contenders: list[_SelfPlay | _Theirs] = [
        _SelfPlay(game, batch, simulations, device, play=play)
        for batch, play in ((1, True), *((batch, False) for batch in BATCHES))
    ]
    if peers:
        contenders += [_Theirs(game, simulations, network) for network in (True, False)]
    found: list[list[SearchRate]] = [[] for _ in contenders]
    for turn in range(rounds):
        for measured, who in zip(found, contenders, strict=True):
            measured.append(who.turn(_ROWS if isinstance(who, _SelfPlay) else 2 * _ROWS))
            rate = measured[-1]
            on_progress(
                f"round {turn + 1} of {rounds}, {rate.name}: "
                f"{rate.simulations_per_second:.0f} simulations/s"
            )
    return [_median(rates) for rates in found]


def _median(rates: list[SearchRate]) -> SearchRate:
    columns = {
        name: [getattr(rate, name) for rate in rates]
        for name in SearchRate.__dataclass_fields__
        if name != "name"
    }
    return SearchRate(
        rates[0].name,
        **{k: None if None in v else statistics.median(v) for k, v in columns.items()},  # type: ignore[arg-type]  # the shares of a peer
    )


def search_as_dict(
    game: str, simulations: int, rates: list[SearchRate], device: torch.device
) -> dict[str, Any]:
    """Return the measurement for JSON."""
    measured = [asdict(rate) for rate in rates]
    return {
        "game": game,
        "simulations": simulations,
        "hardware": measured_on(device),
        "rates": measured,
    }
