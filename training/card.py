"""What a run is, in words for TensorBoard."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ludus.training.provenance import made_by
from ludus.training.run import RunConfig


def card(config: RunConfig, run: Path) -> str:
    """Return agent, env, command, protocol, settings and versions in Markdown."""
    parts = {
        "Protocol": config.protocol,
        "Training": asdict(config.train),
        "Env": asdict(config.options),
        "Agent": asdict(config.config),
        "Versions": made_by(),
    }
    tables = [f"## {title}\n\n{_table(values)}" for title, values in parts.items() if values]
    repeat = f"`{shlex.join(['ludus', 'train', '--config', f'{run}/config.json'])}` repeats it."
    return "\n\n".join([f"# {config.agent} on {config.env}", repeat, *tables])


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| name | value |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return shlex.join(map(str, value))
    return " ".join(str(value).replace("|", "\\|").split())
