"""Where the curves of a training go: TensorBoard, files, and the trackers of experiments.

TensorBoard's log and the files are in the run's folder, and a resume continues them from its
checkpoint. Trackers are other packages: each training is one run of theirs, which a resume goes on
with. What a tracker raises ends its log, not the training.
"""

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ludus.envs.errors import RunError, describe_error
from ludus.envs.installed import is_installed
from ludus.training.console import Terminal
from ludus.training.files import open_new, open_plain

LogName = Literal["csv", "json", "wandb", "mlflow", "trackio"]

_PROJECT = "ludus"
_MAX_BYTES = 1 << 30


class Sink(Protocol):
    """Where a training is logged."""

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Log numbers by their tags."""

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Log what the run is: in Markdown, and its settings by name."""

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Log a GIF."""

    def close(self) -> None:
        """Write what is left."""


def make_sinks(names: Sequence[LogName], folder: Path, done: int, *, resumed: bool) -> list[Sink]:
    """Return the sinks of a training, TensorBoard's first.

    Args:
        names: of the others.
        folder: of the run.
        done: env steps already done; what a log has after them is dropped.
        resumed: the run goes on.

    Raises:
        RunError: a sink cannot begin.
    """
    sinks: list[Sink] = [TensorBoard(folder, done, resumed=resumed)]
    for name in names:
        match name:
            case "csv":
                sinks.append(CsvFile(folder / "scalars.csv", done))
            case "json":
                sinks.append(JsonLines(folder / "scalars.jsonl", done))
            case _:
                sinks.append(Tracker(name, folder))
    return sinks


def check_sinks(names: Sequence[LogName]) -> None:
    """Check that the packages of trackers are there, before a training makes anything.

    Raises:
        RunError: one is missing, or a name is given twice.
    """
    if len(set(names)) < len(names):
        raise RunError(f"--log is {' '.join(names)}, which names one twice; name each once")
    for name in names:
        if name in _TRACKERS and not is_installed(name):
            raise RunError(f"--log {name} needs the package {name}: pip install {name}")


class TensorBoard:
    """The log of TensorBoard, with its text, image and hparams pages."""

    def __init__(self, folder: Path, done: int, *, resumed: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:  # points that a killed process wrote after the checkpoint are purged
            self._writer = SummaryWriter(str(folder), purge_step=done + 1 if resumed else 0)
        except UnicodeEncodeError:
            raise RunError(
                f"the path {folder} is not text in UTF-8, which TensorBoard needs; rename it"
            ) from None

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Write a point of each curve."""
        for tag, value in points.items():
            self._writer.add_scalar(tag, value, env_steps)

    def band(self, tag: str, low: str, high: str) -> None:
        """Show a curve within the band between two others, on the page of custom scalars."""
        chart = tag.rpartition("/")[2]
        self._writer.add_custom_scalars({"band": {chart: ["Margin", [tag, low, high]]}})

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Write the text and hparams pages."""
        from torch.utils.tensorboard.summary import hparams

        scores = dict.fromkeys(("eval/mean_reward", "rollout/ep_rew_mean"), 0.0)
        for summary in hparams(_plain(settings), scores):
            self._writer._get_file_writer().add_summary(summary)
        self._writer.add_text("run", text)

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Write a GIF, which is shown among the images."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._writer._get_file_writer().add_summary(summary, env_steps)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class CsvFile:
    """A text file with a line for each number: env steps, tag, value."""

    def __init__(self, path: Path, done: int) -> None:
        kept = _until(done, path, lambda line: next(csv.reader([line]))[0], header=True)
        self._file = io.TextIOWrapper(open_new(path), encoding="utf-8", newline="")
        self._file.writelines(f"{line}\n" for line in ["env_steps,tag,value", *kept])
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._file.flush()

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Write a line for each number."""
        self._csv.writerows((env_steps, tag, value) for tag, value in points.items())
        self._file.flush()

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Write nothing: config.json has it."""

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JsonLines:
    """A text file with a JSON object for each step: env_steps, and numbers by their tags."""

    def __init__(self, path: Path, done: int) -> None:
        kept = _until(done, path, lambda line: json.loads(line)["env_steps"])
        self._file = io.TextIOWrapper(open_new(path), encoding="utf-8", newline="")
        self._file.writelines(f"{line}\n" for line in kept)
        self._file.flush()

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Write a line; a number that is not finite is null."""
        finite = {
            tag: value if abs(value) < float("inf") else None for tag, value in points.items()
        }
        self._file.write(json.dumps({"env_steps": env_steps, **finite}) + "\n")
        self._file.flush()

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Write nothing: config.json has it."""

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _until(
    done: int, path: Path, steps_of: Callable[[str], Any], *, header: bool = False
) -> list[str]:
    """Return the lines of a file of the run that a checkpoint has; none if there is no file.

    Args:
        done: env steps of the checkpoint.
        path: of the file.
        steps_of: returns the env steps of a line.
        header: leave out the first line.

    Raises:
        RunError: the file is not one that a run wrote.
    """
    try:
        with os.fdopen(open_plain(path, os.O_RDONLY), encoding="utf-8") as file:
            whole, _, _ = file.read(_MAX_BYTES).rpartition("\n")  # a kill may leave half a line
        return [line for line in whole.split("\n")[header:] if line and int(steps_of(line)) <= done]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise RunError(f"{path} is damaged; move it away to go on without it") from error


class Tracker:
    """A tracker of experiments, which must not cost a training: it is left out once it fails.

    Args:
        name: of the tracker.
        folder: of the run, whose name is the run's there.

    Raises:
        RunError: it does not begin a run.
    """

    def __init__(self, name: LogName, folder: Path) -> None:
        self._name = name
        try:
            self._sink: Sink | None = _TRACKERS[name](folder)
        except Exception as error:  # whatever it raises without a network or a login
            raise RunError(f"{name} does not begin a run: {describe_error(error)}") from error

    def _try(self, write: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            write(self._sink)
        except Exception as error:
            self._sink = None
            Terminal(stderr=True).print(
                f"warning: {self._name} failed and is left out, the training goes on: "
                f"{describe_error(error)}",
                style="yellow",
            )

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Log numbers."""
        self._try(lambda sink: sink.scalars(points, env_steps))

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Log settings."""
        self._try(lambda sink: sink.card(text, settings))

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Log a GIF."""
        self._try(lambda sink: sink.video(tag, gif, env_steps))

    def close(self) -> None:
        """End the tracker's run."""
        self._try(lambda sink: sink.close())


class WeightsAndBiases:
    """A run of Weights & Biases: `WANDB_MODE=offline` keeps it on this machine."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run_id(folder),
            name=run_name(folder),
            dir=str(folder),
            resume="allow",
        )
        # a resume logs steps again that a killed process had logged, so steps are an axis
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Log numbers over env steps."""
        self._run.log({**points, "env_steps": env_steps})

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Log the settings as the run's configuration."""
        self._run.config.update(_plain(settings), allow_val_change=True)
        self._run.notes = text

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Log a GIF."""
        film = self._wandb.Video(io.BytesIO(gif), format="gif")
        self._run.log({tag: film, "env_steps": env_steps})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow, at `MLFLOW_TRACKING_URI`, in the experiment `MLFLOW_EXPERIMENT_NAME`."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self._client, name = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        tag = {"ludus.run": run_id(folder)}
        known = self._client.search_runs([experiment], f"tags.`ludus.run` = '{run_id(folder)}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            run = self._client.create_run(experiment, run_name=run_name(folder), tags=tag)
            self._id = run.info.run_id

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Log numbers over env steps."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        metrics = [Metric(tag, float(value), now, env_steps) for tag, value in points.items()]
        self._client.log_batch(self._id, metrics)

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Log the settings as parameters, and the text as the description."""
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in settings.items()]
        for start in range(0, len(params), 100):  # of one batch, at most
            self._client.log_batch(self._id, params=params[start : start + 100])
        self._client.set_tag(self._id, "mlflow.note.content", text)

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Log a GIF as an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{tag.replace('/', '-')}-{env_steps}.gif"
            path.write_bytes(gif)
            self._client.log_artifact(self._id, str(path), "videos")

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._id)


class Trackio:
    """A run of trackio, Hugging Face's local tracker with the calls of Weights & Biases."""

    def __init__(self, folder: Path) -> None:
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=run_id(folder),
            resume="allow",
            embed=False,
        )

    def scalars(self, points: Mapping[str, float], env_steps: int) -> None:
        """Log numbers over env steps."""
        self._run.log(dict(points), step=env_steps)

    def card(self, text: str, settings: Mapping[str, Any]) -> None:
        """Log the settings as the run's configuration."""
        self._run.config.update(_plain(settings))

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Write nothing: trackio takes MP4 only."""

    def close(self) -> None:
        """End the run."""
        self._run.finish()


_TRACKERS: dict[str, Callable[[Path], Sink]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def run_name(folder: Path) -> str:
    """Return the name of a run for people: agent, env, seed and time."""
    env, agent, run = folder.resolve().parts[-3:]
    return f"{agent} {env} {run}"


def run_id(folder: Path) -> str:
    """Return the name of a run by which a resume finds it, without special characters."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(folder.resolve().parts[-3:]))[:120]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as numbers, truth values and text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
    }
