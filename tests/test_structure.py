"""The structure of the code: imports, names, sizes, and the files that one step crosses.

`python tests/test_structure.py` prints the measured figures.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (  # each may import from those before it
    "envs",
    "networks",
    "agents",
    "evaluation",
    "training",
    "comparison",
    "viewer",
    "cli",
)
MOST_LINES = 450
LONGER = {  # file: why it is not split
    "envs/vector.py": "the stream contract, all checks of it, and the rebuilding of episodes",
}
MOST_FILES_OF_A_STEP = 12


def _files(*folders: str, suffix: str = ".py") -> list[Path]:
    """Source files under folders of the repository, as paths relative to it."""
    found = [path for folder in folders for path in ROOT.glob(f"{folder}/**/*{suffix}")]
    return sorted(path.relative_to(ROOT) for path in found)


def _parse(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(), str(file))


def _module(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(("ludus", *(parts[:-1] if parts[-1] == "__init__" else parts)))


SOURCES = _files(*PACKAGES)
TREES = {file: _parse(file) for file in SOURCES}
MODULES = {_module(file): file for file in SOURCES}


def _nodes_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree save the bodies of `if TYPE_CHECKING`."""
    yield node
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in node.orelse if typing_only else ast.iter_child_nodes(node):
        yield from _nodes_at_run_time(child)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Modules of Ludus that a module imports, inside its functions too."""
    for node in _nodes_at_run_time(tree):
        match node:
            case ast.Import(names):
                named = [alias.name for alias in names]
            case ast.ImportFrom(module, names, 0):
                full = [f"{module}.{alias.name}" for alias in names]
                named = [name if name in MODULES else str(module) for name in full]
            case ast.ImportFrom():
                raise AssertionError(f"relative import in line {node.lineno}")
            case _:
                continue
        yield from (name for name in named if name.split(".")[0] == "ludus")


def test_packages_import_from_those_below_them_only():
    wrong = []
    for file, tree in TREES.items():
        for name in _imports(tree):
            parts = name.split(".")
            if len(parts) == 1:  # the root holds the version and imports all others on demand
                continue
            if PACKAGES.index(parts[1]) > PACKAGES.index(file.parts[0]):
                wrong.append(f"{file} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others():
    graph = {module: set(_imports(TREES[file])) - {module} for module, file in MODULES.items()}
    assert sum(map(len, graph.values())) > 200
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_every_class_has_a_name_of_its_own():
    places = defaultdict(list)
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file}:{node.lineno}")
    assert len(places) > 100
    del places["Arguments"]  # one for each command
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert not shared, "\n".join(f"{name}: {', '.join(where)}" for name, where in shared.items())


def test_told_names_nothing():
    """It stood for whatever a function had at hand; each value has a name of its own."""
    word = re.compile(r"(?<![a-z])told(?![a-z])", re.IGNORECASE)
    files = _files(*PACKAGES, "benchmarks", "tests") + _files(*PACKAGES, suffix=".js")
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in files
        if file != Path(__file__).resolve().relative_to(ROOT)
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1)
        if word.search(line)
    ]
    assert not found, "\n".join(found)


def _is_packed(call: ast.Call) -> bool:
    """Whether a call unpacks a tuple, list or dictionary that is written out in its arguments."""
    starred = (a.value for a in call.args if isinstance(a, ast.Starred))
    doubly = (k.value for k in call.keywords if k.arg is None)
    keys = [key for value in doubly if isinstance(value, ast.Dict) for key in value.keys]
    return any(isinstance(value, ast.Tuple | ast.List) for value in starred) or any(
        isinstance(key, ast.Constant) for key in keys
    )


def test_calls_write_their_arguments_out():
    """`f(*(a, b), **{"c": 1})` cannot be searched for; `**{name: value}` of a variable can stay."""
    found = [
        f"{file}:{node.lineno}: {ast.unparse(node)[:100]}"
        for file in _files(*PACKAGES, "benchmarks", "tests")
        for node in ast.walk(_parse(file))
        if isinstance(node, ast.Call) and _is_packed(node)
    ]
    assert not found, "\n".join(found)


def test_files_are_short_or_say_why_not():
    files = [*SOURCES, *_files(*PACKAGES, suffix=".js"), *_files(*PACKAGES, suffix=".css")]
    lines = {str(file): len((ROOT / file).read_text().splitlines()) for file in files}
    long = {file: count for file, count in lines.items() if count > MOST_LINES}
    assert long.keys() == LONGER.keys(), f"longer than {MOST_LINES} lines: {long}"


def test_configurations_and_the_registry_import_no_torch():
    """`ludus list agents` and a wrong name answer without it.

    So must the tests' configuration be, or the tests on a simulated GPU would be skipped.
    """
    configs = [_module(file) for file in SOURCES if file.name.endswith("_config.py")]
    assert len(configs) >= 5
    modules = [*configs, "ludus.agents.preset", "ludus.agents.registry", "ludus.envs.bounds"]
    modules.append("tests.conftest")
    script = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    assert "torch" not in sys.modules, f"{{module}} imports torch"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def _file_of(frame: FrameType) -> str:
    """The file of a function; of a constructor generated for a class, that of the class."""
    name = frame.f_code.co_filename
    if name.startswith("<") and frame.f_code.co_name in ("<lambda>", "__init__"):
        first = next(iter(frame.f_locals.values()), None)
        kind = first if isinstance(first, type) else type(first)
        return getattr(sys.modules.get(kind.__module__), "__file__", None) or name
    return name


def files_of_a_step() -> list[str]:
    """Files of Ludus whose functions run in one step of a DQN that acts, observes and learns.

    Reached from `train_loop`, on CartPole, with the update as it is written (not captured).
    """
    import torch

    from ludus.agents import registry
    from ludus.envs.make import make
    from ludus.training.loop import train_loop

    env = make("CartPole-v1", 8, seed=0)
    config = replace(registry.preset("dqn", env).config, learning_starts=100)
    agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=10_000)
    stream = env.reset(), agent.initial_state(8)
    called: set[str] = set()

    def keep(row, state):
        nonlocal stream
        stream = row, state
        return True

    train_loop(agent, env, *stream, 400, keep)
    before = agent.updates
    sys.setprofile(lambda frame, event, _: called.add(_file_of(frame)) if event == "call" else None)
    try:
        train_loop(agent, env, *stream, agent.env_steps + 1, keep)
    finally:
        sys.setprofile(None)
        env.close()
    assert agent.updates > before
    resolved = {Path(name).resolve() for name in called if not name.startswith("<")}
    inside = {path.relative_to(ROOT) for path in resolved if path.is_relative_to(ROOT)}
    return sorted(str(path) for path in inside if path.parts[0] in PACKAGES)


def test_a_step_of_dqn_crosses_few_files():
    files = files_of_a_step()
    assert {"training/loop.py", "agents/dqn.py", "networks/network.py"} <= set(files)
    assert len(files) <= MOST_FILES_OF_A_STEP, "\n".join(files)


def _lines_of_code(file: Path) -> int:
    """Lines that hold code: no comment, no docstring, no blank."""
    text = (ROOT / file).read_text()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {
        line
        for token in tokens
        if token.type not in (*skipped, tokenize.ENDMARKER)
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(ast.Constant(str())):
                code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def _print_figures() -> None:
    files = files_of_a_step()
    print(f"one step of a DQN crosses {len(files)} files:", *files, sep="\n  ")
    counts = {package: sum(map(_lines_of_code, _files(package))) for package in PACKAGES}
    print(f"{sum(counts.values())} lines of code:", counts)


if __name__ == "__main__":
    _print_figures()
