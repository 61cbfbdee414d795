"""Film of a game of the agent for TensorBoard, recorded during its training."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from ludus.agents.agent import AnyAgent
from ludus.evaluation.evaluate import EvaluationStopped
from ludus.evaluation.video import record_gif
from ludus.training.progress import Show
from ludus.training.run import RunConfig

_STEPS, _WIDTH = 300, 240  # env steps and pixels


def film(
    agent: AnyAgent,
    config: RunConfig,
    task: Callable[[str, int, str], AbstractContextManager[Show]],
    stopping: Callable[[], bool],
) -> bytes:
    """Play one held-out game and return it as a GIF.

    Args:
        agent: plays.
        config: of its run.
        task: shows the progress.
        stopping: whether to end before the game's end.

    Raises:
        EvaluationStopped: `stopping` returned True.
        Exception: the env cannot render.
    """
    with task("video", _STEPS, "steps") as show:

        def on_step(step: int) -> None:
            show(step, "")
            if stopping():
                raise EvaluationStopped

        return record_gif(
            agent,
            config.env,
            config.options,
            max_steps=_STEPS,
            max_width=_WIDTH,
            on_step=on_step,
        )
