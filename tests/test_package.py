"""The distribution: what the wheel holds, and what `import ludus` provides, installed or not."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ludus

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
# the folders at the root that are subpackages
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
# what the clone of a user or of CI runs first
CLONE_TEST = """
import sys
from pathlib import Path

import gymnasium

import ludus


def test_the_package_is_this_clone():
    assert Path(ludus.__file__).resolve() == Path(__file__).resolve().parents[1] / "__init__.py"
    assert "ludus/connect_four-v0" in gymnasium.registry
    assert not {"torch", "pyspiel"} & set(sys.modules)
"""


def _copy(destination: Path) -> Path:
    """Copy the package's files, as a clone has them, and the tests and benchmarks' modules."""
    junk = shutil.ignore_patterns("__pycache__", "*.png", "*.gif", "*.json", ".*")
    for name in (*ROOMS, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, destination / name, ignore=junk)
    shutil.copytree(ROOT / "pretrained", destination / "pretrained")
    for name in (
        "__init__.py",
        "__main__.py",
        "py.typed",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        shutil.copy(ROOT / name, destination)
    return destination


def _python(*arguments: str, cwd: Path, path: Path) -> str:
    """Run this interpreter with `path` first on its path; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that holds the unpacked wheel and nothing else."""
    source = _copy(tmp_path_factory.mktemp("source"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    _python("-c", build, cwd=source, path=source / "dist")
    (wheel,) = (source / "dist").glob("*.whl")
    assert wheel.name == f"ludus_rl-{VERSION}-py3-none-any.whl"
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_wheel_holds_every_file_of_the_package_and_no_other(site):
    expected = {"ludus/__init__.py", "ludus/__main__.py", "ludus/py.typed"}
    for room in (*ROOMS, "pretrained"):
        files = [path.relative_to(ROOT) for path in (ROOT / room).rglob("*") if path.is_file()]
        expected |= {
            f"ludus/{path.as_posix()}" for path in files if "__pycache__" not in path.parts
        }
    held = {p.relative_to(site).as_posix() for p in (site / "ludus").rglob("*") if p.is_file()}
    assert held == expected
    assert {path.name for path in site.iterdir()} == {"ludus", f"ludus_rl-{VERSION}.dist-info"}


def test_the_metadata_of_the_wheel(site):
    folder = site / f"ludus_rl-{VERSION}.dist-info"
    metadata = Parser().parsestr((folder / "METADATA").read_text())
    assert (metadata["Name"], metadata["Version"]) == ("ludus-rl", VERSION)
    assert "ludus = ludus.cli.main:entry" in (folder / "entry_points.txt").read_text()
    always = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert not [line for line in always if line.startswith("minatar")]


def test_the_wheel_works_outside_a_checkout(site, tmp_path):
    code = """
import sys, gymnasium, ludus
print(ludus.__file__, ludus.__version__)
print(sorted({"torch", "pyspiel", "tyro", "rich"} & set(sys.modules)))
print(gymnasium.make("ludus/connect_four-v0").reset(seed=0)[0].shape)
"""
    found, early, shape = _python("-c", code, cwd=tmp_path, path=site).splitlines()
    assert found == f"{site / 'ludus' / '__init__.py'} {VERSION}"
    assert early == "[]"
    assert shape == "(2, 6, 7)"
    assert _python("-m", "ludus", "--help", cwd=tmp_path, path=site).startswith("usage: ludus ")


def test_a_pretrained_agent_plays_outside_a_checkout(site, tmp_path):
    words = ("-m", "ludus", "evaluate", "pretrained:cartpole", "--episodes", "3", "--json")
    assert json.loads(_python(*words, cwd=tmp_path, path=site))["mean"] == 500
    assert not list(tmp_path.iterdir())


def test_gymnasium_imports_the_package_by_the_name_before_the_colon(site, tmp_path):
    code = """
import gymnasium
print(gymnasium.make("ludus:ludus/connect_four-v0", opponent="greedy").spec.id)
print(gymnasium.make("ludus:ludus/Recall-v0").spec.id)
"""
    made = _python("-c", code, cwd=tmp_path, path=site)
    assert made.split() == ["ludus/connect_four-v0", "ludus/Recall-v0"]


@pytest.mark.parametrize("name", ["ludus", "ludus-rl", "main"])
def test_a_clone_may_have_any_name(name, tmp_path):
    """Run pytest in a clone, which may import the root a second time under the folder's name."""
    clone = _copy(tmp_path / name)
    shutil.rmtree(clone / "tests")
    (clone / "tests").mkdir()
    (clone / "tests" / "test_clone.py").write_text(CLONE_TEST)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "ludus").symlink_to(clone)  # as an editable install maps the name
    path = tmp_path / "path"
    # gymnasium warns of an env that is registered twice
    said = _python("-W", "error::UserWarning", "-m", "pytest", cwd=clone, path=path)
    assert "1 passed" in said
    # a second execution under the name of the folder, whatever pytest does
    code = f"""
import importlib.util, sys, ludus
for name in ({name!r}, {name!r} + ".again"):
    spec = importlib.util.spec_from_file_location(name, "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__version__ == ludus.__version__
    assert module.list_agents.__module__ == name
assert not {{"torch", "pyspiel"}} & set(sys.modules)
"""
    _python("-W", "error", "-c", code, cwd=clone, path=path)


def test_public_names():
    from ludus import list_agents, load, make, train
    from ludus.envs import make as make_module
    from ludus.training.api import train as train_function

    assert make is make_module.make
    assert train is train_function
    assert callable(load)
    agents = list_agents()
    assert agents["dqn"].startswith("the deep Q-network, https://")
    assert {"sb3:dqn", "random"} <= set(agents)
    assert set(ludus.__all__) <= set(dir(ludus))
    with pytest.raises(AttributeError, match="module 'ludus' has no attribute 'trian'"):
        _ = ludus.trian


def test_the_version_without_an_installation(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.delitem(vars(ludus), "__version__", raising=False)
    assert ludus.__version__ == "0+unknown"
    monkeypatch.delitem(vars(ludus), "__version__")


def test_no_message_recommends_the_other_ludus_on_pypi():
    wrong = re.compile(r"""pip install ["']?ludus\b(?!-rl)""")
    modules = [path for room in (*ROOMS, "benchmarks") for path in (ROOT / room).rglob("*.py")]
    assert not [str(path) for path in modules if wrong.search(path.read_text())]


def test_a_heading_of_the_changelog_for_this_version():
    release = VERSION.partition(".dev")[0]
    assert f"## [{release}]" in (ROOT / "CHANGELOG.md").read_text()


# Stands for Windows, where these are missing. What Ludus builds on is imported before.
ELSEWHERE = """
import importlib, os, pkgutil, signal, sys
import gymnasium, matplotlib.pyplot, rich.console, stable_baselines3, torch, tyro, uvicorn
import websockets
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "killpg", "memfd_create", "nice", "sched_getaffinity", "setsid"):
    delattr(os, name)
del signal.SIGHUP, signal.SIGKILL
import ludus
for module in pkgutil.walk_packages(ludus.__path__, "ludus."):
    if not module.name.startswith(("ludus.tests", "ludus.benchmarks", "ludus.runs")):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="removes what Linux has")
def test_every_module_imports_without_what_only_unix_has():
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"ludus.training.lock", "ludus.envs.workers"} <= set(done.stdout.split())
