"""benchmarks/reproduce.py: every table has a name, a command and its numbers."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "reproduce.py"


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("reproduce", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce", program)  # its dataclass looks there
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "RECORDS", tmp_path)
    monkeypatch.setattr(program, "ROOT", tmp_path)
    return program


def _headings(path, with_table):
    """The headings of a page, or those above a table."""
    found, heading = [], ""
    for line in (ROOT / path).read_text().splitlines():
        if re.match(r"#+ ", line):
            heading = line.lstrip("# ")
        if line.startswith("|---") or (not with_table and re.match(r"#+ ", line)):
            found.append(heading)
    return set(found)


def test_every_table_of_the_benchmarks_has_a_name(reproduce):
    page = "benchmarks/README.md"
    named = {figure.where[1] for figure in reproduce.FIGURES if figure.where[0] == page}
    others = {"Before and after the work on speed"}  # of two commits
    assert _headings(page, with_table=True) - named == others


def test_what_a_figure_names_is_there(reproduce):
    assert len({figure.name for figure in reproduce.FIGURES}) == len(reproduce.FIGURES)
    for figure in reproduce.FIGURES:
        page, heading = figure.where
        assert heading in _headings(page, with_table=False), figure.name
        assert not figure.raw or (PROGRAM.parent / figure.raw).exists(), figure.name
        for command in figure.commands:
            program, *words = command.split()
            assert program in ("ludus", "python", "make")
            assert program != "python" or (ROOT / words[0]).exists()


def test_a_record_is_kept_of_what_commands_print(reproduce, tmp_path, capsys):
    figure = reproduce.Figure("two", ("README.md", "A"), ("python -c print(1)", "ludus --version"))
    assert reproduce.reproduce(figure) == 0
    record = json.loads((tmp_path / "two.json").read_text())
    assert [each["exit_code"] for each in record["commands"]] == [0, 0]
    assert record["commands"][0]["output"] == "1\n"
    assert record["commands"][1]["output"].startswith("ludus ")
    assert {"seconds", "commit", "hardware", "versions", "date"} <= record.keys()
    assert "$ ludus --version" in capsys.readouterr().out


def test_no_record_is_kept_of_a_failure(reproduce, tmp_path, capsys):
    commands = ("python -c exit(3)", "python -c print(1)")
    assert reproduce.reproduce(reproduce.Figure("bad", ("README.md", "A"), commands)) == 3
    assert not list(tmp_path.iterdir())
    assert "ended with exit code 3; no record is kept" in capsys.readouterr().out
