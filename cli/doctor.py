"""`ludus doctor`: what Ludus finds on this machine, and what is missing."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_result


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus doctor`."""

    json: bool = False
    """print one JSON object on stdout and nothing else"""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    remedy: str = ""
    """what to do; "" if all is well"""
    needed: bool = True
    """whether Ludus does not work without it"""


# package: what installs it in a checkout, and what it is for
_OPTIONAL = {
    "sb3-contrib": ("-e '.[contrib]'", "sb3:qrdqn and sb3:recurrent_ppo"),
    "minari": ("-e '.[offline]'", "data sets: ludus collect and --dataset"),
    "pettingzoo": ("-e '.[pettingzoo]'", "board games as PettingZoo's environments"),
    "box2d": ("-e '.[box2d]'", "LunarLander and BipedalWalker"),
    "mujoco": ("'gymnasium[mujoco]'", "Ant, HalfCheetah and the other robots"),
    "ray": ("-e '.[cluster]'", "envs and trainings on several machines: --ray"),
    "optuna": ("-e '.[cluster]'", "ludus tune"),
    "umap-learn": ("-e '.[umap]'", "a second map of features in ludus explain"),
    "bitbully": ("-e '.[perfect]'", "perfect play of connect four: ludus arena --perfect"),
    "onnx": ("-e '.[export]'", "ludus export to ONNX"),
    "onnxscript": ("-e '.[export]'", "ludus export to ONNX"),
    "huggingface_hub": ("-e '.[hub]'", "ludus push, and hub:OWNER/NAME as a run"),
    "wandb": ("wandb", "ludus train --log wandb"),
    "mlflow-skinny": ("mlflow", "ludus train --log mlflow"),
    "playwright": ("-e '.[dev-all]'", "the tests of the web page, with chromium"),
}


def run(argv: list[str]) -> int:
    """Print what is found; exit with 1 if something is missing that Ludus needs."""
    about = "Print versions, devices and optional packages, and what is missing."
    given = parse(Arguments, argv, command="doctor", about=about)
    findings = [*_versions(), *_devices(), *_tools(), *_extras()]
    if given.json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.what) for finding in findings)
        for each in findings:
            hint = f"; {each.remedy}" if each.remedy else ""
            print_result(f"{each.what.ljust(width)}  {each.found}{hint}")
    return 1 if any(each.remedy and each.needed for each in findings) else 0


def _versions() -> Iterator[Finding]:
    from ludus.training.provenance import commit, versions

    for name, number in versions().items():
        yield Finding(name, number)
    yield Finding("commit", commit() or "no git checkout")


def _devices() -> Iterator[Finding]:
    """Yield the processor and each GPU, on which one product is computed."""
    import torch

    from ludus.training.provenance import hardware

    machine = hardware(torch.device("cpu"))
    memory = f"{machine['memory_gib']} GiB"
    yield Finding("processor", f"{machine['processor']}, {machine['cores']} cores, {memory}")
    yield Finding("torch threads", str(torch.get_num_threads()))
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "none" if built is None else f"none, although torch is built for CUDA {built}"
        yield Finding("GPU", f"{why}; trainings run on the CPU", needed=False)
    for number in range(torch.cuda.device_count()):
        name, what = torch.cuda.get_device_name(number), f"GPU {number}"
        try:
            one = torch.ones(8, 8, device=f"cuda:{number}")
            assert float((one @ one).sum()) == 512
            free, total = (x / 2**30 for x in torch.cuda.mem_get_info(number))
            yield Finding(what, f"{name}, {free:.1f} of {total:.1f} GiB free")
        except (RuntimeError, AssertionError) as error:
            text = " ".join(str(error).split())[:120]
            yield Finding(what, name, f"it does not compute ({text}): install a torch for it")


def _tools() -> Iterator[Finding]:
    """Yield what is outside Python: games, the disk and a compiler."""
    from ludus.envs.errors import LudusError
    from ludus.envs.make import make

    try:
        make("PongNoFrameskip-v4", 1, 0).close()
        yield Finding("Atari", "Pong starts")
    except LudusError as error:
        yield Finding("Atari", f"Pong does not start: {error}", "pip install 'gymnasium[atari]'")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    low = "a replay's checkpoints may need more" if free < 2 else ""
    yield Finding("disk", f"{free:.1f} GiB free in {Path.cwd()}", low, needed=False)
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    remedy = "" if compiler else "install one for --compile"
    yield Finding("C++ compiler", compiler or "none", remedy, needed=False)


def _extras() -> Iterator[Finding]:
    for name, (what, purpose) in _OPTIONAL.items():
        try:
            yield Finding(name, version(name), needed=False)
        except PackageNotFoundError:
            remedy = f"in a checkout: pip install {what}, for {purpose}"
            yield Finding(name, "not installed", remedy, needed=False)
