"""`ludus watch`: runs, and agents at play, in the browser."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tyro.conf import Positional

from ludus.cli.options import parse
from ludus.envs.errors import UsageError
from ludus.training.run import Run
from ludus.viewer.library import Library
from ludus.viewer.server import serve


@dataclass(frozen=True)
class Arguments:
    """What is shown, and where."""

    run: Positional[Path | None] = None
    """folder of a run to open first; its neighbours are listed too. None for all under --run-dir"""
    run_dir: Path = Path("runs")
    """folder whose runs are listed"""
    port: int = 8008
    """of the page; 0 for any that is free"""
    host: str = "127.0.0.1"
    """address to listen on; another than this machine's own lets others in who have the link"""
    modules: tuple[str, ...] = ()
    """your modules whose envs may be loaded, for runs on `module:Env-v0`"""


def run(argv: list[str]) -> int:
    """Serve until Ctrl-C."""
    given = parse(Arguments, argv, command="watch", about="Watch agents play, in the browser.")
    check_port(given.port)
    root, fragment = given.run_dir, ""
    if given.run is not None:
        root, fragment = place(given.run, "watch")
    library = Library(root)
    count = len(library.runs())
    print(f"{count} run{'' if count == 1 else 's'} under {root}; Ctrl-C ends it", flush=True)
    serve(
        library,
        lambda link: print(f"open {link}", flush=True),
        host=given.host,
        port=given.port,
        modules=given.modules,
        fragment=fragment,
    )
    return 0


def check_port(port: int) -> None:
    """Refuse what is no port."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"port is {port}; it must be from 0 to 65535")


def place(run: Path, page: str) -> tuple[Path, str]:
    """The folder of the runs that a run is among, and the link's end that opens it first."""
    Run.open(run)
    where = run.resolve()
    root = where.parents[2]
    return root, f"#/{page}/{quote(where.relative_to(root).as_posix(), safe='')}"
