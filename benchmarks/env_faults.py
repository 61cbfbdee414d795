"""Measure what each command does with a faulty env: how soon it says so, and what it leaves behind.

    python benchmarks/env_faults.py --out benchmarks/env_faults.md

Every fault happens in the third step of a game, or in the constructor or reset that its name says.
The time limit is 2 seconds a call. A command counts as hung after 120 seconds. `watch` is a server:
the time is that of the message on the page of a run, and it must answer afterwards, and end on a
signal.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import quote

import psutil
import websockets.sync.client

FAULTS = {
    "raises in step": 'raise ZeroDivisionError("the ball is gone")',
    "raises without a message": "raise AssertionError",
    "os._exit": "os._exit(7)",
    "sys.exit": "sys.exit(5)",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "hangs": "time.sleep(10_000)",
    "hangs, deaf to signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(10_000)",
    "spins": "while True: pass",
    "NaN observation": "obs[1] = np.nan",
    "inf observation": "obs[1] = np.inf",
    "wrong shape": "obs = np.zeros(3, np.float32)",
    "wrong dtype": "obs = np.zeros(2, np.float64)",
    "observation is a list": "obs = [0.0, 0.0]",
    "observation is None": "obs = None",
    "NaN reward": "reward = np.nan",
    "reward is text": 'reward = "10"',
    "terminated is text": 'terminated = "no"',
    "three values": "return obs, reward, False",
    "starts a program and exits": 'subprocess.Popen(["sleep", "1000"]); os._exit(3)',
    "raises in reset": "",
    "hangs in reset": "",
    "constructor raises": "",
    "constructor exits": "",
    "constructor hangs": "",
}
_ENV = """
import os, signal, subprocess, sys, time
import gymnasium
import numpy as np

FAULT = os.environ["FAULT"]

class Faulty(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        if FAULT == "constructor raises": raise RuntimeError("no licence")
        if FAULT == "constructor exits": os._exit(3)
        if FAULT == "constructor hangs": time.sleep(10_000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        if FAULT == "raises in reset": raise KeyError("level")
        if FAULT == "hangs in reset": time.sleep(10_000)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        obs, reward, terminated = np.full(2, self.time, np.float32), 1.0, self.time == 5
        if self.time == 3:
            pass
BRANCHES
        return obs, reward, terminated, False, {}

    def render(self):
        return np.full((8, 8, 3), self.time, np.uint8)

gymnasium.register("Faulty-v0", entry_point=Faulty)
"""
_TRAIN = ("--steps", "200", "--eval-episodes", "1", "--timeout", "2", "--quiet")
_HUNG = 120.0


def main() -> None:
    """Run every command with every fault and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        branches = [
            f"            if FAULT == {fault!r}:\n"
            + "".join(f"                {line}\n" for line in code.split("; "))
            for fault, code in FAULTS.items()
            if code
        ]
        (home / "faulty.py").write_text(_ENV.replace("BRANCHES\n", "".join(branches)))
        _run(home, "none", ["train", "ppo", "faulty:Faulty-v0", *_TRAIN])
        (run,) = home.glob("runs/*/*/*")
        known = ["--modules", "faulty"]
        commands = {
            "dqn": ["train", "dqn", "faulty:Faulty-v0", *_TRAIN],
            "ppo": ["train", "ppo", "faulty:Faulty-v0", *_TRAIN],
            "evaluate": ["evaluate", str(run), "--episodes", "1", *known],
            "record": ["record", str(run), "--out", "game.gif", *known],
            "compare": [
                "compare", "--env", "faulty:Faulty-v0", "--agents", "ppo", "--steps", "200",
                "--seeds", "1", "--episodes", "1", "--timeout", "2", "--run-dir", "compared",
            ],
        }  # fmt: skip
        rows = []
        for fault in FAULTS:
            cells = [_run(home, fault, words) for words in commands.values()]
            cells.append(_watch(home, fault, run))
            rows.append((fault, cells))
            print(f"{fault}: {'; '.join(cells)}", flush=True)
            for left in (home / "compared", home / "game.gif"):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink(missing_ok=True)
    names = [*commands, "watch"]
    head = "| fault | " + " | ".join(names) + " |\n|---|" + "---|" * len(names) + "\n"
    lines = [f"| {fault} | {' | '.join(cells)} |\n" for fault, cells in rows]
    out.write_text(
        "# What each command does with an env that goes wrong\n\n"
        "Made by `python benchmarks/env_faults.py`. Seconds until the command ended, its exit "
        "code, and, where they are not 0, the lines on stderr beyond one sentence, the processes "
        "and the files in /dev/shm that were left. The time limit of a call is 2 seconds. compare "
        "prints a sentence on the training that failed and one of its own. For watch, the seconds "
        "until the page shows the sentence, and the exit code after a SIGTERM.\n\n"
        + head
        + "".join(lines)
    )


def _start(home: Path, fault: str, words: list[str], mark: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ludus", *words],
        cwd=home,
        env=os.environ | {"FAULT": fault, "MARK": mark, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _run(home: Path, fault: str, words: list[str]) -> str:
    """Run one command; describe its end."""
    mark, shared = uuid.uuid4().hex, _shared_files()
    began = time.monotonic()
    process = _start(home, fault, words, mark)
    try:
        _, err = process.communicate(timeout=_HUNG)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "HUNG"
    text = f"{time.monotonic() - began:.1f} s, {process.returncode}"
    sentences = [line for line in err.splitlines() if line.startswith("ludus: ")]
    if fault != "none" and (len(sentences) != 1 or _tracebacks(err)):
        text += f", {len(sentences)} sentences, {_tracebacks(err)} lines of tracebacks"
    return text + _left(mark, shared)


def _watch(home: Path, fault: str, run: Path) -> str:
    """Watch a run in the viewer until its page shows an error; describe what happens."""
    mark, shared = uuid.uuid4().hex, _shared_files()
    words = ["watch", "--run-dir", "runs", "--port", "0", "--modules", "faulty"]
    process = _start(home, fault, words, mark)
    assert process.stdout is not None
    link = ""
    while "http://" not in link:
        link = process.stdout.readline()
    found = re.search(r"(http://[^/]+)/[?]token=(\S+)", link)
    assert found is not None
    address, token = found.groups()
    name = run.relative_to(home / "runs").as_posix()
    page = f"{address.replace('http', 'ws')}/watch?run={quote(name, safe='')}&token={token}"
    began, text = time.monotonic(), "HUNG"
    with (
        websockets.sync.client.connect(page, max_size=None, proxy=None) as socket,
        contextlib.suppress(TimeoutError),
    ):
        while text == "HUNG":
            message = socket.recv(timeout=_HUNG - (time.monotonic() - began))
            assert isinstance(message, bytes)
            length = int.from_bytes(message[:4], "big")
            if json.loads(message[4 : 4 + length])["kind"] == "error":
                text = f"{time.monotonic() - began:.1f} s"
    with urllib.request.urlopen(f"{address}/api/runs?token={token}", timeout=_HUNG) as answer:
        assert json.load(answer)["runs"]
    process.terminate()
    try:
        _, err = process.communicate(timeout=_HUNG)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"{text}, HUNG at its end"
    text += f", {process.returncode}"
    if _tracebacks(err):
        text += f", {_tracebacks(err)} lines of tracebacks"
    return text + _left(mark, shared)


def _tracebacks(err: str) -> int:
    """Return the number of lines of tracebacks."""
    return len([line for line in err.splitlines() if re.match(r"Traceback|  File ", line)])


def _shared_files() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def _left(mark: str, shared: set[str]) -> str:
    """Describe the processes with this mark and the shared memory that are left."""
    left = [each.pid for each in psutil.process_iter() if _has_mark(each, mark)]
    new = _shared_files() - shared
    text = f", {len(left)} processes left" if left else ""
    return text + (f", {len(new)} files left in /dev/shm" if new else "")


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("MARK") == mark
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
