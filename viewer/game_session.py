"""A board game between a person and an agent, for one page."""

from typing import Any

from ludus.agents.agent import Searching
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.training.run import Run, RunConfig
from ludus.viewer.messages import error_message, pack
from ludus.viewer.playback_session import Publish, load_agent
from ludus.viewer.views import describe_game, require_advisor
from ludus.viewer.worker import Worker

MAX_SIMULATIONS = 2_000  # per move


class GameSession:
    """A thread that plays one board game against the person at a page.

    The page controls it by commands {"do": ..., "value": ...} to `worker`: move (an action), undo,
    hint, show (whether to show the agent's estimates), simulations (a number), side (0 to move
    first, 1 to move second; starts a new game), and new.

    Args:
        run: whose agent and game are played.
        config: of the run.
        publish: called from the thread with each message.
    """

    def __init__(self, run: Run, config: RunConfig, publish: Publish) -> None:
        self._run, self._config, self._publish = run, config, publish
        self._side, self._show, self._hint = 0, False, False
        self.worker = Worker(self._serve, "ludus-game", waited_for=True)

    def _serve(self, worker: Worker) -> None:
        try:
            agent = load_agent(self._run, self._config, worker)
            self._agent = require_advisor(agent, self._config.agent)
            self._game = InteractiveGame(self._agent, self._config.env)
            self._publish_game()
            while not worker.closed:
                if not self._agent_to_move:
                    worker.wait(1.0)
                changed = self._agent_to_move
                if changed:
                    self._game.play(int(self._game.advice.action[0]))
                for command in worker.take_commands():
                    changed |= self._apply(command)
                if changed:
                    self._publish_game()
        except Exception as error:  # a run or its game may raise anything
            worker.closed = True
            self._publish(error_message(error), True)

    @property
    def _agent_to_move(self) -> bool:
        return not self._game.over and self._game.side_to_move != self._side

    def _apply(self, command: dict[str, Any]) -> bool:
        """Apply a command, or ignore an invalid one; return whether the game must be sent again."""
        value, game = command.get("value"), self._game
        hint, self._hint = self._hint, False  # a valid command hides the hint
        match command.get("do"):
            case "move" if type(value) is int and not game.over and value in game.legal_moves():
                if game.side_to_move == self._side:
                    game.play(value)
            case "undo":
                game.undo(self._side)
            case "hint":
                self._hint = True
            case "show" if isinstance(value, bool):
                self._show = value
            case "simulations" if type(value) is int and 1 <= value <= MAX_SIMULATIONS:
                if isinstance(self._agent, Searching):
                    self._agent.simulations = value
                    game.replay([move.action for move in game.moves])
            case "side" if type(value) is int and value in (0, 1):
                self._side = value
                game.replay([])
            case "new":
                game.replay([])
            case _:
                self._hint = hint
                return False
        return True

    def _publish_game(self) -> None:
        with_advice = (self._show or self._hint) and not self._agent_to_move
        searches = isinstance(self._agent, Searching)
        head = {
            "kind": "game",
            "game": self._game.name,
            "side": self._side,
            "show": self._show,
            "hint": self._hint,
            "simulations": self._agent.simulations if searches else None,
            "thinking": self._agent_to_move,
        }
        described = head | describe_game(self._game, with_advice=with_advice)
        self._publish(pack(described, {}), True)  # so that the page can return to each position
