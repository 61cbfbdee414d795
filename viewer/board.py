"""A person against an agent at a board game, in a page."""

from collections.abc import Callable
from typing import Any

from ludus.agents.agent import Advisor, Searching
from ludus.envs.errors import RunError
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.training.run import Run, RunConfig
from ludus.viewer.messages import error, pack
from ludus.viewer.stage import loaded, standing
from ludus.viewer.worker import Worker

MOST_SIMULATIONS = 2_000  # of one move; a page cannot ask for more


class BoardGame:
    """One game of one page, on a thread of its own.

    Commands: {"do": "move", "value": action}, "undo", "hint", "show" (true or false: the agent's
    opinion), "simulations" (a number), "side" (0 begins, 1 does not; a new game), "new".

    Args:
        run: whose agent and game.
        publish: called from the thread with each message, and whether it must not be missed.
        config: of the run, where it has been read before.
    """

    def __init__(
        self,
        run: Run,
        publish: Callable[[bytes, bool], None],
        config: RunConfig | None = None,
    ) -> None:
        self._run, self._publish, self._config = run, publish, config
        self._side, self._show, self._hint = 0, False, False
        self.worker = Worker(self._serve, "ludus-game")

    def _serve(self, worker: Worker) -> None:
        try:
            config = self._run.config() if self._config is None else self._config
            self._agent: Any = loaded(self._run, config, worker)
            if not isinstance(self._agent, Advisor):
                raise RunError("this agent says nothing of its moves; choose another run")
            self._duel = InteractiveGame(self._agent, config.env)
            self._tell()
            while not worker.closed:
                if not self._agents_turn():
                    worker.wait(1.0)
                changed = self._agents_turn()
                if changed:
                    self._duel.play(int(self._duel.advice.action[0]))
                for told in worker.commands():
                    changed |= self._obey(told)
                if changed:
                    self._tell()
        except Exception as problem:  # whatever a run or its game may be
            self._publish(error(problem), True)

    def _agents_turn(self) -> bool:
        return not self._duel.over and self._duel.current_player != self._side

    def _obey(self, told: dict[str, Any]) -> bool:
        """Do what was asked; say whether something changed."""
        value, duel = told.get("value"), self._duel
        hint, self._hint = self._hint, False
        match told.get("do"):
            case "move" if type(value) is int and not duel.over and value in duel.legal_moves():
                if duel.current_player == self._side:
                    duel.play(value)
            case "undo":
                duel.undo(self._side)
            case "hint":
                self._hint = True
            case "show" if isinstance(value, bool):
                self._show = value
            case "simulations" if type(value) is int and 1 <= value <= MOST_SIMULATIONS:
                if isinstance(self._agent, Searching):
                    self._agent.simulations = value
                    duel.replay(list(duel.moves))
            case "side" if type(value) is int and value in (0, 1):
                self._side = int(value)
                duel.replay([])
            case "new":
                duel.replay([])
            case _:
                self._hint = hint
                return False
        return True

    def _tell(self) -> None:
        shown = self._show or self._hint
        searches = isinstance(self._agent, Searching)
        head = {
            **{"kind": "game", "side": self._side, "show": self._show, "hint": self._hint},
            **{"simulations": self._agent.simulations if searches else None},
            **{"game": self._duel.name, "thinking": self._agents_turn()},
            **standing(self._duel, opinion=shown and not self._agents_turn()),
        }
        self._publish(pack(head, {}), False)
