"""The site of the documentation: it builds without warnings, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from ludus.agents import registry

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings_handlers.python")
pytest.importorskip("latex2mathml")
ROOT = Path(__file__).parents[1]
AGENTS = ROOT / "docs" / "agents"


class _Page(HTMLParser):
    """The links, the anchors and the resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if found.get("id"):
            self.anchors.add(found["id"])
        if tag == "a" and found.get("name"):
            self.anchors.add(found["name"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag in ("img", "script", "iframe", "source", "video") and found.get("src"):
            self.resources.append(found["src"])
        elif tag == "link" and found.get("href"):
            self.resources.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site, once for all processes of this run of the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "documentation"
    with FileLock(shared / "documentation.lock"):
        if not (shared / "documentation.built").exists():
            _build(folder)
            (shared / "documentation.built").touch()
    return folder


def _build(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, _Page]:
    return {path: _Page(path.read_text()) for path in site.rglob("*.html")}


def test_links_and_anchors(pages, site):
    assert len(pages) > 60
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are those of the host's root
            continue
        for link in [*page.links, *page.resources]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = path.parent.joinpath(unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            here = path.relative_to(site)
            if not target.is_file():
                broken.append(f"{here}: {link}")
            elif parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{here}: {link}, no such anchor")
    assert not broken, "\n".join(broken)


def test_nothing_is_loaded_from_another_host(pages, site):
    for path, page in pages.items():
        assert not [r for r in page.resources if urlsplit(r).scheme in ("http", "https")], path
        assert not [r for r in page.resources if r.startswith("//")], path
        assert "@import" not in path.read_text(), path
    styles = list(site.rglob("*.css"))
    assert len(styles) > 2
    for path in styles:
        text = path.read_text()
        assert not re.search(r"@import|url\([\"']?(https?:)?//", text), path


def test_no_page_names_a_folder_of_this_machine(site):
    named = [p for p in site.rglob("*.html") if str(ROOT) in p.read_text()]
    assert not named


@pytest.mark.parametrize("name", registry.AGENTS)
def test_every_agent_has_a_page_with_its_fields(site, name):
    entry = registry.entry(name)
    text = (site / "agents" / f"{name}.html").read_text()
    paper = re.search(r"https://\S+", entry.summary)
    assert paper is None or paper[0] in text
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in text
    assert "arithmatex" not in text
    for heading in ("method", "when-to-use-it", "scores", "fields"):
        assert f'id="{heading}"' in text
    shown = re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", text)
    config = type(_preset(name).config)
    assert sorted(shown) == sorted(field.name for field in fields(config))


def _preset(name):
    """Return the preset of an agent, for any kind of env that it takes."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        import agent_pages
    finally:
        sys.path.pop(0)
    return next(iter(agent_pages.presets(name).values()))


def test_defaults_on_a_page_are_those_of_the_presets(site):
    text = (site / "agents" / "rainbow.html").read_text()
    row = re.search(r"<td><code>learning_rate</code></td>\s*<td>(.*?)</td>", text, re.S)[1]
    values = dict(re.findall(r"<code>([\d.e-]+)</code> \(([^)]+)\)", row))
    assert values == {
        "0.001": "vectors",
        "0.00025": "MinAtar, board games",
        "6.25e-05": "Atari",
    }


def test_the_page_of_the_baselines_has_all(site):
    text = (site / "agents" / "sb3.html").read_text()
    baselines = [name for name in registry.names() if name.startswith("sb3:")]
    assert len(baselines) >= 7
    assert not [name for name in baselines if f"<code>{name}</code>" not in text]


@pytest.mark.parametrize("path", [*AGENTS.glob("*.md"), *AGENTS.parent.glob("tutorials/*.md")])
def test_scores_are_those_of_the_benchmarks(path):
    """Each number with a decimal point or a thousands separator that a page's text states."""
    text = re.sub(r"^```.*?^```|^\$\$.*?^\$\$|`[^`]*`", "", path.read_text(), flags=re.M | re.S)
    text = re.sub(r"\$[^$]*\$|\]\([^)]*\)", "", text)
    known = (ROOT / "benchmarks" / "README.md").read_text()
    settings = {"60,000", "30,000", "1,000", "25,000,000", "600,000", "50,000", "0.1"}
    stated = set(re.findall(r"-?\d[\d,]*\.\d+|\d+,\d{3}(?:,\d{3})*", text)) - settings
    assert not [number for number in stated if number.lstrip("-") not in known]
