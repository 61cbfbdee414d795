"""The page of a report: one HTML file that opens anywhere, without a script or a link outside."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ludus.comparison.aggregates import AGGREGATES, ENOUGH_SEEDS, Estimate, human_reference
from ludus.comparison.analysis import (
    About,
    Findings,
    Group,
    Overall,
    Published,
    Row,
    in_words,
    is_baseline,
    joined,
    learns,
    mean_return,
    plain,
    plural,
    rounded,
    spaced,
)


class Html(str):
    """Text that is HTML already; any other is escaped."""


def _html(value: object) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def _tag(name: str, *inside: object, **attributes: str) -> Html:
    """An element; `class_` stands for class."""
    given = "".join(f' {k.rstrip("_")}="{escape(v)}"' for k, v in attributes.items())
    return Html(f"<{name}{given}>{''.join(map(_html, inside))}</{name}>\n")


def _scroll(label: str, *inside: object) -> Html:
    """A box that scrolls by itself, also with the keyboard."""
    label_ = {"aria-label": label}
    return _tag("div", *inside, class_="scroll", role="region", tabindex="0", **label_)


def _table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: Sequence[str] = (),
    marks: Callable[[int], str] = lambda _: "",
) -> Html:
    """A table whose first column are its rows' headings.

    Args:
        caption: over it.
        head: names of the columns.
        rows: cells.
        words: columns of text; all others but the first are numbers.
        marks: the class of a row by its place.
    """

    def kind(name: str) -> str:
        return "words" if name in words else "number"

    first, *others = head
    names = [_tag("th", first, scope="col")]
    names += [_tag("th", name, scope="col", class_=kind(name)) for name in others]
    body = []
    for place, (heading, *cells) in enumerate(rows):
        shown = [_tag("th", heading, scope="row")]
        shown += [_tag("td", c, class_=kind(n)) for n, c in zip(others, cells, strict=True)]
        body.append(_tag("tr", *shown, class_=marks(place)))
    return _scroll(
        caption,
        _tag(
            "table",
            _tag("caption", caption),
            _tag("thead", _tag("tr", *names)),
            _tag("tbody", *body),
        ),
    )


def _figure(path: Path, alt: str, caption: str) -> Html:
    data = base64.b64encode(path.read_bytes()).decode()
    image = Html(f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">')
    return _tag("figure", _scroll(alt, image), _tag("figcaption", caption))


def page(found: Findings, pictures: Mapping[str, Path]) -> str:
    """The HTML.

    Args:
        found: what it tells.
        pictures: PNG files by what they show: `curves-` and a group's slug, aggregates, profiles,
            improvement.
    """
    about, groups = found.about, found.groups
    sections = [
        ("scores", "Scores on each env", _scores_section(groups, found.tables, pictures)),
        ("overall", "All envs together", _overall_section(found, pictures)),
    ]
    if len({group.env for group in groups}) > 1:
        sections.reverse()
    if any("rom" in group.protocol for group in groups):
        sections.append(
            ("published", "Beside published scores", _published_section(groups, found.beside))
        )
    sections.append(("settings", "Settings of the agents", _settings_section(groups)))
    sections.append(("made", "How it was made", _made_section(about)))
    links = [_tag("li", _tag("a", title, href=f"#{name}")) for name, title, _ in sections]
    agents = list(dict.fromkeys(agent for group in groups for agent in group.agents))
    envs = dict.fromkeys(group.env for group in groups)
    trainings = len({id(t) for g in groups for ts in g.agents.values() for t in ts if t.steps})
    summary = (
        f"{plural(len(agents), 'agent')} ({', '.join(agents)}) on {plural(len(envs), 'env')}, "
        f"{plural(trainings, 'training')}, {about.date}."
    )
    body = [
        _tag("h1", about.title),
        _tag("p", summary),
        _tag("ul", *[_tag("li", note) for note in found.notes], class_="notes")
        if found.notes
        else "",
        _tag("nav", _tag("ul", *links), **{"aria-label": "Sections"}),
        *[_tag("section", _tag("h2", t, id=name), *inside) for name, t, inside in sections],
    ]
    style = files("ludus.comparison").joinpath("report.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(about.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{_tag('main', *body)}</body>\n</html>\n"
    )


def _scores_section(
    groups: Sequence[Group], tables: Mapping[int, list[Row]], pictures: Mapping[str, Path]
) -> list[Html]:
    inside = []
    if len(groups) > len({group.env for group in groups}):
        words = (
            "Scores of different protocols cannot be compared, so an env has a table for each of "
            "them. Its heading names what differs."
        )
        inside.append(_tag("p", words))
    for group in groups:
        rows = tables[group.number]
        inside += [_tag("h3", group.label), _protocol_words(group), _score_table(group, rows)]
        inside.append(_seeds_words(rows))
        if path := pictures.get(f"curves-{group.slug}"):
            alt = (
                f"Learning curves on {group.label} of {joined(list(group.agents))}: "
                "mean return over env steps, and over time of training."
            )
            inside.append(_figure(path, alt, _curve_words(group)))
        inside.append(_trainings_table(group))
    return inside


def _protocol_words(group: Group) -> Html:
    known = [f"{spaced(key)} {in_words(value)}" for key, value in group.protocol.items()]
    steps = f"{group.steps:,} env steps of training" if group.steps else "no training"
    return _tag("p", f"Protocol: {', '.join([steps, *known])}.", class_="soft")


def _score_table(group: Group, rows: Sequence[Row]) -> Html:
    human = human_reference(group.protocol.get("rom", "")) is not None
    finite = [row.score.mean for row in rows if math.isfinite(row.score.mean)]
    best = max(finite, default=math.nan)
    head = ["agent", "trainings", "mean", "IQM", "IQM, 95% interval", "interval over"]
    head += [*(["human-normalised"] if human else []), "env steps/s", "seconds"]

    def marks(place: int) -> str:
        row = rows[place]
        marked = ["best"] if row.score.mean == best else []
        return " ".join([*marked, *(["baseline"] if is_baseline(row.agent) else [])])

    cells = []
    for row in rows:
        score = row.score
        name = _name(row.agent, best=row.score.mean == best)
        shown = [name, row.trainings or "-", rounded(score.mean), rounded(score.iqm)]
        shown += [_range(score.low, score.high), score.over]
        shown += [_percent(row.human)] if human else []
        shown += [rounded(row.steps_per_second, 0), rounded(row.seconds, 0)]
        cells.append(shown)
    caption = f"Held-out games on {group.label}: returns, unclipped"
    return _table(caption, head, cells, words=["interval over"], marks=marks)


def _name(agent: str, *, best: bool = False) -> Html:
    tags = [_tag("span", "baseline", class_="tag").strip()] if is_baseline(agent) else []
    tags += [_tag("span", "best mean", class_="tag").strip()] if best else []
    return Html(escape(agent) + "".join(tags))


def _seeds_words(rows: Sequence[Row]) -> Html:
    few = [row.agent for row in rows if 0 < row.trainings < ENOUGH_SEEDS]
    words = "IQM: mean of the middle half of the games. Seconds and env steps/s: of training, mean "
    words += "over trainings. "
    if few:
        words += (
            f"Of {joined(few)} there are fewer than {ENOUGH_SEEDS} trainings, too few for an "
            "interval over trainings: theirs is over the games of these trainings, and says "
            "nothing of how another training would end."
        )
    return _tag("p", words, class_="soft")


def _curve_words(group: Group) -> str:
    counts = {agent: len(ts) for agent, ts in group.agents.items() if learns(ts)}
    words = (
        "Returns of the games of training, where the agent explores; mean of the last 20. By time, "
        "a training that ended before the slowest of its agent keeps its last mean. "
    )
    one = [agent for agent, count in counts.items() if count == 1]
    few = [agent for agent, count in counts.items() if 1 < count < ENOUGH_SEEDS]
    if len(one) < len(counts):
        words += "Band: 95% bootstrap interval of the mean over trainings. "
    if one:
        words += f"One training of {joined(one)}: no band. "
    if few:
        words += (
            f"Fewer than {ENOUGH_SEEDS} trainings of {joined(few)}: the band is narrower than it "
            "should be. "
        )
    if len(counts) < len(group.agents):
        words += "Dotted: the mean of an agent that does not train. "
    return words + "Dashed with hollow markers: a baseline." * any(map(is_baseline, counts))


def _trainings_table(group: Group) -> Html:
    trainings = [t for ts in group.agents.values() for t in ts]
    rows = [
        [
            _name(t.agent),
            t.seed,
            rounded(mean_return(t)),
            len(t.returns),
            rounded(t.seconds, 0),
            "yes" if t.reused else "no",
            t.run or "-",
        ]
        for t in trainings
    ]
    head = ["agent", "seed", "mean", "games", "seconds", "finished before", "run"]
    table = _table(f"Each training on {group.label}", head, rows, words=["run"])
    return _tag("details", _tag("summary", f"All {plural(len(trainings), 'training')}"), table)


def _overall_section(found: Findings, pictures: Mapping[str, Path]) -> list[Html]:
    overall = found.overall
    if overall is None:
        return [_tag("p", "No agent has a score on every env, so there is nothing to sum up.")]
    counted = [
        (group.label, scale)
        for group in found.groups
        if group.label in overall.envs and (scale := found.scales[group.number])
    ]
    inside = [
        _tag("p", "A score is the mean return of a training's held-out games, normalised:"),
        _tag("ul", *[_tag("li", f"{label}: {scale.words}.") for label, scale in counted]),
    ]
    if own := [label for label, scale in counted if scale.own]:
        words = (
            "These scores cannot be compared with those of other reports: the scale of "
            f"{joined(own)} is made of the scores of this comparison, and changes with its agents."
        )
        inside.append(_tag("p", words))
    if any(scale.human for _, scale in counted):
        words = (
            "Human-normalised: human and random players were measured with no-op starts, without "
            "sticky actions, and games of at most 108,000 frames (dqn_zoo's table)."
        )
        inside.append(_tag("p", words, class_="soft"))
    inside.append(_overall_seeds(overall))
    alt = f"IQM, median, mean and optimality gap of {joined(list(overall.matrices))}."
    caption = (
        "Bars: 95% stratified bootstrap intervals, trainings drawn for each env by itself. "
        "The optimality gap is what is missing to 1. Hatched and hollow: a baseline."
    )
    inside += [
        _tag("h3", "Aggregates"),
        _figure(pictures["aggregates"], alt, caption),
        _aggregate_table(overall),
        _tag("h3", "Performance profiles"),
        _figure(
            pictures["profiles"],
            f"Performance profiles of {joined(list(overall.matrices))}.",
            "The share of trainings, of all envs together, that score above tau. Higher is "
            "better. Bands: 95% stratified bootstrap intervals.",
        ),
    ]
    if "improvement" in pictures:
        alt = f"Probability of improvement for {plural(len(overall.improvements), 'pair')}."
        words = (
            "The probability that a training of the first agent scores higher than one of the "
            "second, mean over envs; a tie counts half. Bars: 95% stratified bootstrap intervals. "
            "An interval that holds 0.5 leaves open which is better."
        )
        inside += [_tag("h3", "Probability of improvement")]
        inside += [_figure(pictures["improvement"], alt, words), _improvement_table(overall)]
    return inside


def _overall_seeds(overall: Overall) -> Html:
    counts = {agent: len(overall.matrices[agent]) for agent in overall.trained}
    one = [agent for agent, count in counts.items() if count == 1]
    few = [agent for agent, count in counts.items() if 1 < count < ENOUGH_SEEDS]
    words = ""
    if one:
        words += f"One training on each env of {joined(one)}: no interval over trainings. "
    if few:
        words += (
            f"Fewer than {ENOUGH_SEEDS} trainings on each env of {joined(few)}: too few for an "
            "interval to be trusted; it is narrower than it should be."
        )
    return _tag("p", words, class_="soft") if words else Html("")


def _aggregate_table(overall: Overall) -> Html:
    certain = overall.certain
    rows = [
        [
            _name(agent),
            len(overall.matrices[agent]) if agent in overall.trained else "-",
            *[_estimated(found[name], agent in certain) for name in AGGREGATES],
        ]
        for agent, found in overall.aggregates.items()
    ]
    caption = f"{overall.label} over {joined(overall.envs)}, with 95% intervals"
    return _table(caption, ["agent", "trainings on each env", *AGGREGATES], rows)


def _improvement_table(overall: Overall) -> Html:
    certain = overall.certain
    rows = [
        [f"{x} over {y}", _estimated(found, x in certain and y in certain)]
        for x, y, found in overall.improvements
    ]
    table = _table("Probability of improvement", ["pair", "probability, 95% interval"], rows)
    return _tag("details", _tag("summary", "The same in numbers"), table)


def _estimated(found: Estimate, certain: bool) -> str:
    interval = f"{found.low:z.2f} to {found.high:z.2f}" if certain else "-"
    return f"{found.value:z.2f} ({interval})"


def _published_section(
    groups: Sequence[Group], beside: Mapping[int, list[Published]]
) -> list[Html]:
    words = (
        "Published scores of the same algorithms, of each source the frame count nearest to ours. "
        "They were not got as ours were: the last column names what is known to differ, theirs "
        "against ours. What a source does not state beside its score, such as the handling of "
        "lost lives or the probability of a random action, may differ too."
    )
    inside = [_tag("p", words)]
    for group in groups:
        if "rom" not in group.protocol:
            continue
        inside.append(_tag("h3", group.label))
        if not beside[group.number]:
            inside.append(_tag("p", "No published score of these agents on this game is known."))
            continue
        head = ["our agent", "our mean", "published", "deviation", "human-normalised"]
        head += ["source", "differs in"]
        rows = [
            [
                _name(p.agent),
                rounded(p.mean),
                rounded(p.score),
                rounded(p.std),
                _percent(p.human),
                f"{p.source}: {p.name}",
                "; ".join(p.differences) or "nothing that the source states",
            ]
            for p in beside[group.number]
        ]
        caption = f"{group.label}: our mean beside published ones, whose human-normalised is given"
        inside.append(_table(caption, head, rows, words=["source", "differs in"]))
    return inside


def _settings_section(groups: Sequence[Group]) -> list[Html]:
    found: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = {}
    for group in groups:
        for training in (t for ts in group.agents.values() for t in ts):
            key = training.agent, json.dumps(plain(training.settings), sort_keys=True)
            settings, labels = found.setdefault(key, (training.settings, []))
            if group.label not in labels:
                labels.append(group.label)
    inside = []
    for (agent, _), (settings, labels) in found.items():
        rows = [[name, in_words(value)] for name, value in settings.items()]
        where = f"{agent} on {joined(labels)}"
        table = (
            _table(f"Settings of {where}", ["setting", "value"], rows, words=["value"])
            if rows
            else _tag("p", "No settings.")
        )
        inside.append(_tag("details", _tag("summary", where), table))
    return inside


def _made_section(about: About) -> list[Html]:
    facts = {"date": about.date, "commit": about.commit or "-", **about.hardware}
    return [
        _tag("p", "This command repeats the comparison:"),
        _tag("pre", about.command),
        _table("Machine", ["fact", "value"], list(facts.items()), words=["value"]),
        _table("Versions", ["package", "version"], list(about.versions.items()), words=["version"]),
        _tag(
            "p",
            "results.json beside this page holds all numbers, scores.csv every held-out game.",
            class_="soft",
        ),
    ]


def _range(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    return f"{rounded(low)} to {rounded(high)}"


def _percent(share: float | None) -> str:
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:z.1f}%"
