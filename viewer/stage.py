"""An agent at play for all who watch it: one thread plays, every page sees the same."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol, TypeGuard

import numpy as np

from ludus.agents.agent import Advisor, Searching
from ludus.agents.presets import AnyAgent
from ludus.envs.board import spiel
from ludus.envs.errors import CheckpointError, RunError
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.evaluation.playback import Playback
from ludus.training.run import Run, RunConfig
from ludus.training.train import load
from ludus.viewer.boards.read import read_position
from ludus.viewer.messages import error, grey, mosaic, number, numbers, pack, png
from ludus.viewer.worker import Worker

FASTEST = 60  # pictures a second that are sent at most
LOADING, SERVING = 5, 19
"""niceness of the thread that loads agents, and of all others: a training goes first"""
_FOLLOW_SECONDS = 2.0  # between two looks for a newer checkpoint
_HEAT_SECONDS = 0.4  # between two maps of the slow saliency
_HISTORY = 2_000  # points of value over time that a page gets when it opens
_IDLE_SECONDS = 0.2  # between two looks at what is asked for and what is new, at least
_END_SECONDS = 1.5  # a game that is over stands still for so long
_OPENING = 2  # moves at random at the start of a board game, but of the first


loader = ThreadPoolExecutor(1, "ludus-load")
"""loads agents, one after the other"""


def step_back() -> None:
    """Let other programs go first: this thread and those that it starts, and less so `loader`."""
    with suppress(OSError):  # where a thread has no priority of its own
        os.nice(LOADING)
        loader.submit(int).result()  # its thread starts as nice as this one is now
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), SERVING)


def step_back_further() -> None:
    """Take only the time that nobody else wants, and stop at once where somebody does (Linux)."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def loaded(run: Run, config: RunConfig, worker: Worker) -> AnyAgent:
    """The agent of a run, once it is this one's turn.

    Raises:
        RunError: nobody waits for it any more, or as `load` does.
    """

    def load_it() -> AnyAgent:
        if worker.closed:
            raise RunError("the page has gone")
        return load(run.path, config=config)

    return loader.submit(load_it).result()


def newest(run: Run) -> int:
    """Env steps of a run's newest weights."""
    names = (path.name for path in run.weights.glob("[0-9]*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


class Show(Protocol):
    """What a stage shows."""

    @property
    def usual(self) -> float:
        """Steps a second at which a person would play it."""

    @property
    def over(self) -> bool:
        """Whether the game has ended."""

    def head(self) -> dict[str, Any]:
        """What a page must know before the first picture."""

    def restart(self, seed: int) -> None:
        """Begin the game of this seed."""

    def renew(self) -> None:
        """The agent's weights have changed."""

    def step(self) -> None:
        """Make one step."""

    def message(self, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """How it stands, and pictures."""

    def close(self) -> None:
        """Free what it holds."""


class EnvShow:
    """An agent in any env but a board game; or a person, and the agent beside them.

    Args:
        config: of the agent's run.
        agent: loaded from it.
        person: a person plays; the agent plays the same game beside them.
    """

    def __init__(self, config: RunConfig, agent: AnyAgent, person: bool = False) -> None:
        self._config, self._agent, self._person = config, agent, person
        self._heat: tuple[str, float, bytes] = ("", 0.0, b"")
        self.pressed = 0
        """the action that the person takes now, from 0"""
        self._open(0)

    def _open(self, seed: int) -> None:
        c = self._config
        self._live = Playback(self._agent, c.env, c.options, seed)
        self._own = Playback(self._agent, c.env, c.options, seed) if self._person else None
        self.usual: float = self._live.speed

    def head(self) -> dict[str, Any]:
        """Actions, saliencies and layers."""
        insight, live = self._live.insight, self._live
        return {
            **{"board": False, "actions": live.action_names, "usual": self.usual},
            **{"saliencies": insight.kinds, "layers": insight.layers, "person": self._person},
        }

    def restart(self, seed: int) -> None:
        """Begin anew."""
        self.close()
        self._open(seed)

    def renew(self) -> None:
        """Think again."""
        self._live.forget()

    @property
    def over(self) -> bool:
        """Whether the game has ended; of a person and the agent, the person's."""
        shown = self._live if self._own is None else self._own
        return bool(shown.row.game_over[0])

    def step(self) -> None:
        """One decision of each who still plays."""
        if self._own is not None:
            self._own.step(self.pressed + self._own.first_action)
            if self._live.row.game_over[0]:
                return
        self._live.step()

    def message(self, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The picture, what the agent thinks, and what is asked for: `saliency`, `layer`."""
        live, row = self._live, self._live.row
        over = bool(row.game_over[0])
        head: dict[str, Any] = {
            **{"kind": "frame", "step": int(row.episode_length[0]), "over": over},
            **{"reward": number(row.reward[0]), "return": number(row.episode_return[0])},
        }
        pictures = {"picture": png(live.picture())}
        if self._own is not None:
            own = self._own.row
            head["own"] = {
                **{"return": number(own.episode_return[0]), "step": int(own.episode_length[0])},
                "over": bool(own.game_over[0]),
            }
            pictures["own"] = png(self._own.picture())
        if not over:
            head |= self._thought()
            if asked["saliency"] in live.insight.kinds:
                pictures["heat"] = self._look(asked["saliency"])
            if asked["layer"] in live.insight.layers:
                pictures["maps"] = grey(mosaic(live.features(asked["layer"])))
        return head, pictures

    def _thought(self) -> dict[str, Any]:
        thought = self._live.think()
        advice, action = thought.advice, thought.action
        if advice is None:
            told = np.atleast_1d(action).ravel().tolist()
            return {"action": told, "bars": None, "value": None}
        bars = advice.q if advice.probability is None else advice.probability
        discrete = bool(self._live.action_names)
        return {
            "action": int(action) - self._live.first_action if discrete else action.tolist(),
            "bars": None if bars is None else numbers(bars[0]),
            "bars_are": "values" if advice.probability is None else "probabilities",
            "value": number(advice.value[0]),
        }

    def _look(self, kind: Any) -> bytes:
        """The saliency's PNG; the slow one is drawn anew a few times a second."""
        before, at, data = self._heat
        if kind == "perturbation" and before == kind and time.monotonic() - at < _HEAT_SECONDS:
            return data
        data = grey(self._live.saliency(kind))
        self._heat = (kind, time.monotonic(), data)
        return data

    def close(self) -> None:
        """Free the envs."""
        for live in (self._live, self._own):
            if live is not None:
                live.close()


class BoardShow:
    """An agent that plays both sides of a board game."""

    usual = 1.0

    def __init__(self, config: RunConfig, agent: AnyAgent) -> None:
        if not isinstance(agent, Advisor):
            raise RunError(f"{config.agent} says nothing of its moves; choose another run")
        self._agent: Any = agent
        self._duel = InteractiveGame(agent, config.env)

    def head(self) -> dict[str, Any]:
        """That it is a board."""
        searches = isinstance(self._agent, Searching)
        simulations = self._agent.simulations if searches else 0
        return {
            **{"board": True, "usual": self.usual, "game": self._duel.name},
            **{"saliencies": (), "layers": (), "actions": (), "simulations": simulations},
        }

    def restart(self, seed: int) -> None:
        """Begin anew: seed 0 without chance, any other with a few moves at random."""
        self._duel.go_to([])
        generator = np.random.default_rng(seed)
        for _ in range(_OPENING if seed else 0):
            if not self._duel.over:
                self._duel.make(int(generator.choice(self._duel.legal())))

    def renew(self) -> None:
        """Think again, of the whole game."""
        self._duel.go_to(list(self._duel.moves))

    @property
    def over(self) -> bool:
        """Whether the game has ended."""
        return self._duel.over

    def step(self) -> None:
        """The agent's move."""
        self._duel.make(int(self._duel.advice.action[0]))

    def message(self, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The board and the agent's opinion."""
        return {"kind": "board", **standing(self._duel, opinion=True)}, {}

    def close(self) -> None:
        """Nothing to free."""


def standing(duel: InteractiveGame, *, opinion: bool) -> dict[str, Any]:
    """How a game of a board stands, for the page; `opinion`: with what the agent thinks."""
    told: dict[str, Any] = {
        **{"scene": asdict(read_position(duel.state)), "step": len(duel.moves), "over": duel.over},
        **{"result": duel.result(0) if duel.over else None, "value": None, "opinion": None},
    }
    if opinion and not duel.over:
        advice = duel.advice
        value = number(advice.value[0])
        # a value is the mover's; the page shows it as who began sees it
        told["value"] = None if value is None else value * (1 if duel.mover == 0 else -1)
        told["best"] = int(advice.action[0])
        told["opinion"] = {
            "probability": _of_legal(advice.probability, duel),
            "q": _of_legal(advice.q, duel),
            "visits": _of_legal(advice.visits, duel),
        }
    return told


def _of_legal(values: np.ndarray | None, duel: InteractiveGame) -> dict[int, float | None] | None:
    return None if values is None else {move: number(values[0, move]) for move in duel.legal()}


class Stage:
    """A thread that plays and tells all who watch.

    Args:
        run: whose agent.
        publish: called from the thread with each message, and whether it must not be missed.
        person: a person plays, see `EnvShow`.
        hold: stay at the end of a game until a seed is asked for; else the next one follows.
        config: of the run, where it has been read before.
    """

    def __init__(
        self,
        run: Run,
        publish: Callable[[bytes, bool], None],
        *,
        person: bool = False,
        hold: bool = False,
        config: RunConfig | None = None,
    ) -> None:
        self._run, self._publish, self._config = run, publish, config
        self._person, self._hold = person, hold
        self._asked: dict[str, Any] = {"saliency": "", "layer": ""}
        self._paused, self._steps, self._speed, self._seed = False, 0, 1.0, 0
        self._hurry = False  # do not wait for what the speed says
        self._history: deque[tuple[int, float | None, float]] = deque(maxlen=_HISTORY)
        self.worker = Worker(self._serve, "ludus-stage")
        """obeys {"do": ...}: pause, play, step, speed, seed, saliency, layer, press, hello"""

    def _serve(self, worker: Worker) -> None:
        try:
            config = self._run.config() if self._config is None else self._config
            weights = newest(self._run)
            agent = loaded(self._run, config, worker)
            show: Show
            if spiel.is_game(config.env):
                show = BoardShow(config, agent)
            else:
                show = EnvShow(config, agent, self._person)
        except Exception as problem:  # whatever a run or its env may be
            self._publish(error(problem), True)
            return
        try:
            step_back_further()
            self._play(agent, show, worker, weights)
        except Exception as problem:
            self._publish(error(problem), True)
        finally:
            show.close()

    def _play(self, agent: AnyAgent, show: Show, worker: Worker, weights: int) -> None:
        looked, sent, rate = time.monotonic(), 0.0, 0.0
        due, fresh = time.monotonic(), True
        self._publish_hello(show)
        while not worker.closed:
            for told in worker.commands():
                fresh |= self._obey(told, show)
            now = time.monotonic()
            if self._hurry:
                due, self._hurry = now, False
            if now - looked > _FOLLOW_SECONDS:
                looked, there = now, newest(self._run)
                if there > weights and self._renew(agent):
                    weights, fresh = there, True
                    show.renew()
            if show.over and self._goes_on() and now >= due:
                self._steps = 0
                self._begin(show, self._seed + 1)
                due, fresh = now, True
            elif (self._steps or not self._paused) and now >= due and not show.over:
                show.step()
                fresh = True
                self._steps = max(0, self._steps - 1)
                pause = 1 / (show.usual * self._speed) if self._speed else 0.0
                # what is late is not caught up with
                due = max(due + pause, now) if not show.over else now + _END_SECONDS
            if fresh and (now - sent >= 1 / FASTEST or self._paused):
                if sent:
                    rate += 0.1 * (1 / max(now - sent, 1e-3) - rate)
                sent, fresh = now, False
                self._tell(show, weights, rate)
            plays = self._goes_on() if show.over else bool(self._steps) or not self._paused
            wait = due - time.monotonic() if plays else _IDLE_SECONDS
            if fresh:
                wait = min(wait, sent + 1 / FASTEST - time.monotonic())
            worker.wait(min(wait, _IDLE_SECONDS))

    def _goes_on(self) -> bool:
        """Whether a game that is over is followed by another."""
        return not self._hold and (bool(self._steps) or not self._paused)

    def _renew(self, agent: AnyAgent) -> bool:
        """Take the newest weights; False where they are just being replaced."""
        try:
            agent.load_weights(self._run.newest_weights())
        except (RunError, CheckpointError, OSError):
            return False
        return True

    def _begin(self, show: Show, seed: int) -> None:
        self._seed, self._steps = seed, 0
        self._history.clear()
        show.restart(seed)

    def _obey(self, told: dict[str, Any], show: Show) -> bool:
        """Do what was asked; say whether something changed."""
        value = told.get("value")
        match told.get("do"):
            case "pause":
                self._paused = True
            case "play":
                self._paused, self._hurry = False, True
            case "step":
                self._paused, self._steps, self._hurry = True, 1, True
            case "speed" if _is_number(value) and 0 <= value <= 1000:
                self._speed, self._hurry = float(value), True
            case "seed" if type(value) is int and 0 <= value < 1 << 40:
                self._begin(show, value)
                self._hurry = True
            case "saliency" | "layer" if isinstance(value, str):
                self._asked[told["do"]] = value
            case "press" if type(value) is int and isinstance(show, EnvShow):
                show.pressed = value if 0 <= value < len(show.head()["actions"]) else 0
                return False
            case "hello":
                self._publish_hello(show)
            case _:
                return False
        return True

    def _publish_hello(self, show: Show) -> None:
        head = {"kind": "hello", **show.head(), "history": list(self._history)}
        self._publish(pack({**head, **self._controls()}, {}), True)

    def _controls(self) -> dict[str, Any]:
        return {"paused": self._paused, "speed": self._speed, "seed": self._seed, **self._asked}

    def _tell(self, show: Show, weights: int, rate: float) -> None:
        head, pictures = show.message(self._asked)
        self._history.append((head["step"], head.get("value"), head.get("return") or 0.0))
        told = {**head, "weights": weights, "fps": round(rate, 1), **self._controls()}
        self._publish(pack(told, pictures), False)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
