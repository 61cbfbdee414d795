"""Films of an agent: what they are called, and the one that its training makes for TensorBoard."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from PIL import Image

from ludus.agents.agent import AnyAgent
from ludus.evaluation.evaluate import EvaluationStopped
from ludus.evaluation.video import record_gif
from ludus.training.checkpoint import write_atomically
from ludus.training.progress import Show
from ludus.training.run import RunConfig

_STEPS, _WIDTH = 300, 240  # env steps and pixels


def film_title(config: RunConfig, env_steps: int) -> tuple[str, str]:
    """Return what a film is of, for `record`: agent and env, and how long it was trained."""
    t = config.train
    return f"{config.agent} on {config.env}", f"{env_steps:,} {t.unit}, training of seed {t.seed}"


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


def save_thumbnail(gif: bytes, path: Path) -> None:
    """Write the picture in the middle of a GIF as a PNG, by which a run is recognised in a list."""
    with Image.open(io.BytesIO(gif)) as game:
        game.seek(getattr(game, "n_frames", 1) // 2)
        data = io.BytesIO()
        game.convert("RGB").save(data, "PNG", optimize=True)
    write_atomically(path, data.getvalue())
