"""An agent that plays for one or more pages: a thread plays, and every page sees the same game."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeGuard

from ludus.agents.agent import AnyAgent
from ludus.envs.board import spiel
from ludus.envs.errors import CheckpointError, RunError
from ludus.evaluation.feature_map import has_umap
from ludus.evaluation.video import encode_mp4
from ludus.training.run import Run, RunConfig
from ludus.training.train import load
from ludus.viewer import priority
from ludus.viewer.messages import decode_png, error_message, pack
from ludus.viewer.views import PANELS, BoardView, Chosen, EnvView, View
from ludus.viewer.worker import Worker

FRAMES_PER_SECOND = 60  # sent at most
MAX_SPEED, MAX_SEED = 1000, 1 << 40
_CHECK_WEIGHTS_SECONDS = 2.0  # between two checks for newer weights
_STAGES = 100  # weights of a run that are offered, the newest
_HISTORY = 2_000  # values over time that a new page receives
_STILLS = 1_800  # of the last frames, to make a film of: two minutes of Atari
_IDLE_SECONDS = 0.2  # the longest wait between two checks for commands and weights
_GAME_OVER_SECONDS = 1.5  # between the end of a game and the start of the next

Publish = Callable[[bytes, bool], None]
"""takes a message, and whether it must not be dropped"""


def load_agent(run: Run, config: RunConfig, worker: Worker) -> AnyAgent:
    """Load the agent of a run in the thread that loads agents one at a time.

    Raises:
        RunError: the worker was closed meanwhile, or as `load` does.
    """

    def load_unless_closed() -> AnyAgent:
        if worker.closed:
            raise RunError("the page was closed before the agent was loaded")
        return load(run.path, config=config)

    return priority.loader.submit(load_unless_closed).result()


def saved_weights(run: Run) -> list[int]:
    """Return the env steps of a run's weights, in ascending order."""
    names = (path.name for path in run.weights.glob("[0-9]*"))
    steps = sorted(int(name) for name in names if len(name) == 12 and name.isdecimal())
    return steps[-_STAGES:]


class Pace:
    """Times at which the steps of a game are due, in seconds.

    Args:
        now: the first step is due at once.
    """

    def __init__(self, now: float) -> None:
        self.due = now

    def step_taken(self, now: float, steps_per_second: float) -> None:
        """Schedule the next step; 0 steps per second means without a pause."""
        pause = 1 / steps_per_second if steps_per_second else 0.0
        # A late step delays those after it: steps are not taken faster to catch up.
        self.due = max(self.due + pause, now)

    def hold(self, now: float, seconds: float) -> None:
        """Schedule the next step after a pause."""
        self.due = now + seconds


class PlaybackSession:
    """A thread that plays an agent's games and publishes them.

    Pages control it by commands {"do": ..., "value": ...} to `worker`: pause, play, step, speed,
    seed, weights (the env steps of those to play with, None for the newest), saliency, layer,
    similar, reconstruction, features, filters, units and occlusion (whether to show these; features
    again: a new map now), umap (whether the map of features is that of UMAP),
    state (the number of a state of the map, whose picture is published), press (a person's
    action), and hello (describe the session again).

    Args:
        run: whose agent plays.
        config: of the run.
        publish: called from the thread with each message.
        person: a person plays as well, see `EnvView`.
        hold: stay at the end of a game until a command starts another.
    """

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        publish: Publish,
        *,
        person: bool = False,
        hold: bool = False,
    ) -> None:
        self._run, self._config, self._publish = run, config, publish
        self._person, self._hold = person, hold
        self._shown, self._map_now = Chosen(), False
        self._paused, self._speed, self._seed = False, 1.0, 0
        self._steps = 0  # that commands requested and that were not taken yet
        self._step_now = False  # the next step does not wait for the pace
        self._history: deque[tuple[int, float | None, float]] = deque(maxlen=_HISTORY)
        self._frames, self._stills = 0, deque[tuple[int, bytes]](maxlen=_STILLS)
        self._saved, self._chosen = list[int](), None  # the run's weights, and those to play with
        self._sent_at, self._frame_rate = 0.0, 0.0
        self.worker = Worker(self._serve, "ludus-playback", waited_for=person)

    def _serve(self, worker: Worker) -> None:
        try:
            self._saved = saved_weights(self._run)
            self._weights = max(self._saved, default=0)
            self._agent = load_agent(self._run, self._config, worker)
            self._view = self._make_view()
        except Exception as error:  # a run or its env may raise anything
            worker.closed = True
            self._publish(error_message(error), True)
            return
        try:
            if not self._person:
                priority.lower_to_idle()
            self._play(worker)
        except Exception as error:
            worker.closed = True
            self._publish(error_message(error), True)
        finally:
            self._view.close()

    def _make_view(self) -> View:
        if spiel.is_game(self._config.env):
            return BoardView(self._config, self._agent)
        return EnvView(self._config, self._agent, self._person, self._run.checkpoints)

    def _play(self, worker: Worker) -> None:
        checked_weights_at = time.monotonic()
        pace = Pace(checked_weights_at)
        changed = True  # since the last frame that was sent
        self._publish_description()
        while not worker.closed:
            for command in worker.take_commands():
                changed |= self._apply(command)
            now = time.monotonic()
            if self._step_now or self._steps:
                pace.hold(now, 0)
                self._step_now = False
            if now - checked_weights_at > _CHECK_WEIGHTS_SECONDS:
                checked_weights_at = now
                changed |= self._take_weights()
            # The end of a game is sent before the next game starts, however late the thread runs.
            if now >= pace.due and self._running and not (self._view.over and changed):
                self._advance(pace, now)
                changed = True
            send_at = now if self._paused else self._sent_at + 1 / FRAMES_PER_SECOND
            if changed and now >= send_at:
                self._publish_frame(now)
                changed = False
            if "features" in self._shown.panels:
                self._publish_map()
            wait = pace.due - time.monotonic() if self._running else _IDLE_SECONDS
            if changed:
                wait = min(wait, send_at - time.monotonic())
            worker.wait(min(wait, _IDLE_SECONDS))

    @property
    def _running(self) -> bool:
        """Whether another step, or another game, follows without a further command."""
        if self._view.over and self._hold:
            return False
        return self._steps > 0 or not self._paused

    def _advance(self, pace: Pace, now: float) -> None:
        """Take a step, or start the next game if this one is over."""
        self._steps = max(self._steps - 1, 0)
        if self._view.over:
            self._start(self._seed + 1)
            pace.hold(now, 0)
            return
        self._view.step()
        pace.step_taken(now, self._view.speed * self._speed)
        if self._view.over:
            pace.hold(now, _GAME_OVER_SECONDS)

    def _start(self, seed: int) -> None:
        self._seed = seed
        self._history.clear()
        self._view.restart(seed)

    def _take_weights(self) -> bool:
        """Load the chosen weights, or the newest; return whether others were loaded before."""
        self._saved = saved_weights(self._run)
        chosen = self._chosen if self._chosen in self._saved else None
        wanted = max(self._saved, default=self._weights) if chosen is None else chosen
        if wanted == self._weights:
            return False
        try:
            newest = chosen is None
            weights = self._run.newest_weights() if newest else self._run.weights_at(wanted)
            self._agent.load_weights(weights)
        except (RunError, CheckpointError, OSError):  # they are being replaced at this moment
            return False
        self._weights = wanted
        self._view.refresh()
        return True

    def _apply(self, command: dict[str, Any]) -> bool:
        """Apply a command, or ignore an invalid one; return whether a new frame is needed."""
        value = command.get("value")
        match command.get("do"):
            case "pause":
                self._paused = True
            case "play":
                self._paused, self._step_now = False, True
            case "step":
                self._paused = True
                self._steps += 1
            case "speed" if _is_number(value) and 0 <= value <= MAX_SPEED:
                self._speed, self._step_now = float(value), True
            case "seed" if type(value) is int and 0 <= value < MAX_SEED:
                self._steps = 0
                self._start(value)
                self._step_now = True
            case "weights" if value is None or value in self._saved:
                self._chosen = value
                if self._take_weights():
                    self._start(self._seed)  # the same game, as these weights play it
            case "saliency" if isinstance(value, str):
                self._shown = self._shown._replace(saliency=value)
            case "layer" if isinstance(value, str):
                self._shown = self._shown._replace(layer=value)
            case str(panel) if panel in PANELS and isinstance(value, bool):
                panels = self._shown.panels
                panels = panels | {panel} if value else panels - {panel}
                self._shown = self._shown._replace(panels=panels)
                if panel == "features":
                    self._map_now = value  # a new map, also if it is shown already
            case "umap" if isinstance(value, bool) and (has_umap() or not value):
                self._shown = self._shown._replace(umap=value)
                self._map_now = True
            case "state" if type(value) is int:
                picture = self._view.state_picture(value)
                images = {} if picture is None else {"picture": picture}
                self._publish(pack({"kind": "state", "state": value}, images), True)
                return False
            case "press" if type(value) is int and isinstance(self._view, EnvView):
                self._view.pressed = value if 0 <= value < len(self._view.actions) else 0
                return False
            case "hello":
                self._publish_description()
                self._map_now = "features" in self._shown.panels
            case _:
                return False
        return True

    def _publish_description(self) -> None:
        head = {"kind": "hello", **self._view.description(), "history": list(self._history)}
        self._publish(pack(head | self._controls(), {}), True)

    def _controls(self) -> dict[str, Any]:
        return {
            "paused": self._paused,
            "speed": self._speed,
            "seed": self._seed,
            "saliency": self._shown.saliency,
            "layer": self._shown.layer,
            "panels_shown": sorted(self._shown.panels),
            "umap": self._shown.umap,
            "weights": self._weights,
            "saved": self._saved,
            "newest": self._chosen is None,
        }

    def _publish_frame(self, now: float) -> None:
        if self._sent_at:  # a moving average of the last frames
            self._frame_rate += 0.1 * (1 / max(now - self._sent_at, 1e-3) - self._frame_rate)
        self._sent_at = now
        head, images = self._view.frame(self._shown)
        self._history.append((head["step"], head.get("value"), head.get("return") or 0.0))
        self._frames += 1
        if not self._person:  # whose session has no address for films
            self._stills.append((self._frames, self._view.still()))
        head |= {"frame": self._frames, "fps": round(self._frame_rate, 1)}
        self._publish(pack(head | self._controls(), images), False)

    def _publish_map(self) -> None:
        """Publish the map of features if there is a new one."""
        found = self._view.features_map(now=self._map_now, umap=self._shown.umap)
        if found is not None:
            self._map_now = False
            self._publish(pack({"kind": "map", "weights": self._weights, **found}, {}), True)

    def clip(self, first: int, last: int) -> bytes:
        """Return an MP4 of the frames with these numbers and those between; from any thread.

        Raises:
            RunError: none of them is kept.
        """
        stills = [still for frame, still in self._stills.copy() if first <= frame <= last]
        if not stills:
            raise RunError("these frames are not kept any more; play the game again")
        return encode_mp4(map(decode_png, stills), self._view.speed)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
