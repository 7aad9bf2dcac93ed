"""Pages built from kept results: `python -m benchmarks.papers.pages` writes them all.

A test builds them again and compares, so that no page says what no kept run says.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.papers import figures, held
from benchmarks.papers.kept import (
    FOLDER,
    all_kept,
    check_kinds,
    comparison,
    gap_is_clear,
    machine_of,
    read_figures,
    resolved,
    stops,
    table,
    told,
)
from benchmarks.speed.timing import RESULTS

Kept = Mapping[str, Any]
DIGITS = ("digits", "smith-", "goyal-")  # how the presets begin that share a page


def study_section(name: str, kept: Kept) -> str:
    """A study: its data and settings, its table beside the paper's, its sentence, what made it."""
    settings, environment = kept["settings"], kept["environment"]
    scale = 100.0 if kept["task"]["headline"] in kept["task"]["percent"] else 1.0
    headline = f"test_{kept['task']['headline']}"
    used = settings.get("train_examples")
    part = f", the first {used:,} training examples" if used else ""
    lines = [f"## {name}", "", f"{kept['what']}. {kept['note']}".strip(), ""]
    lines.append(
        f"{settings['model']} on {settings['dataset']['name']}{part}; batches "
        f"{settings['small_batch']} and {settings['large_batch']}, {settings['epochs']:g} epochs, "
        f"{settings['seeds']} seeds, "
        + ("rates tuned." if settings.get("tune") else "rates by the rule, not tuned.")
    )
    if kept["differs"]:
        lines.append(f"Differs from the paper: {kept['differs']}.")
    paper = bool(kept["paper"])
    heads = ["regime", *(["paper"] if paper else []), "ours", "gap closed % [95%]", "held fixed"]
    heads += ["batch / ghosts", "updates", "examples", "rate", "train loss", "distance"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    clear = gap_is_clear(kept)
    for regime, found in kept["regimes"].items():
        theirs = kept["paper"].get(regime)
        rows.append(
            [
                regime,
                *([f"{theirs:g}" if theirs is not None else ""] if paper else []),
                mean_and_deviation(found[headline], scale, 2),
                closed(found["gap_closed"]) if clear else "",
                found["budget"],
                _batch(found),
                f"{found['updates']:,}",
                f"{found['examples']:,}",
                f"{found['learning_rate']:.3g}{edge(found)}",
                mean_and_deviation(found["train_loss"], 1.0, 3),
                mean_and_deviation(found["distance"], 1.0, 2),
            ]
        )
    lines += ["", *table(rows), ""]
    small, large = kept["baseline"]
    if not clear and kept["regimes"].keys() - {small, large}:
        lines += [f"No share of a gap: {large} is not significantly worse than {small}.", ""]
    if edge(*kept["regimes"].values()):
        lines += ["† the best rate is the smallest or largest of those tried.", ""]
    if paper:
        how = "as read in the paper" if kept["verified"] else "recalled, not verified"
        lines += [f"The paper's numbers: {kept['source']}, {how}.", ""]
    lines += [f"> {kept['finding']}", ""]
    seconds = sum(found["seconds"] for found in kept["regimes"].values())
    lines += [
        f"`{kept['command']}`: {seconds / 60:.0f} min, with compiling and measuring, on "
        f"{machine_of(environment)}, gapjax {environment['gapjax']}.",
        "",
    ]
    return "\n".join(lines)


def landscape_section(kept: Kept) -> str:
    """Ratios of sharpness between the two ends, at the end of training and at equal loss."""
    found = kept["landscape"]
    if not found or not found.get("ratios"):
        return ""
    small, large = kept["baseline"]
    heads = [
        "measure",
        f"{large} / {small} [95%]",
        *(f"at loss {level['loss']:g}" for level in found["levels"]),
    ]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, ratio in found["ratios"].items():
        at_levels = [level["ratios"].get(name) for level in found["levels"]]
        rows.append([name, interval(ratio), *map(interval, at_levels)])
    text = ["Sharpness, the large batch over the small one, geometric means over paired seeds:", ""]
    return "\n".join([*text, *table(rows), "", *_measured(kept, found.get("environment"))])


def _measured(kept: Kept, measuring: Mapping[str, Any] | None) -> list[str]:
    """By what and where a landscape was measured, as far as training was not the same."""
    if not measuring:
        return []
    by = f"by `{measuring['command']}`" if measuring["command"] else "from Python"
    on = f" on {machine_of(measuring)}"
    told = by * (measuring["command"] != kept["command"])
    told += on * (machine_of(measuring) != machine_of(kept["environment"]))
    return [f"Measured {told.strip()}.", ""] if told else []


def _batch(found: Mapping[str, Any]) -> str:
    """The batch size, and that of ghosts."""
    ghosts = found.get("ghost_size")
    return f"{found['batch_size']} / {ghosts}" if ghosts else str(found["batch_size"])


def mean_and_deviation(over: Mapping[str, Any], scale: float, digits: int) -> str:
    """A mean over seeds with its deviation."""
    if over["mean"] is None:
        return "diverged"
    deviation = f" ± {scale * over['std']:.{digits}f}" if len(over["values"]) > 1 else ""
    return f"{scale * over['mean']:.{digits}f}{deviation}"


def interval(found: Mapping[str, Any] | None, scale: float = 1.0) -> str:
    """A number with its 95% interval, or nothing where there is none."""
    return told(found, scale) if found and found.get("mean") is not None else ""


def closed(share: Mapping[str, Any] | None) -> str:
    """A share of the gap in per cent."""
    return interval(share, 100.0)


def paper_page(title: str, prefix: str | tuple[str, ...], about: str) -> str:
    """All kept results of one paper."""
    sections = [
        "\n".join(filter(None, (study_section(name, kept), landscape_section(kept))))
        for name, kept in all_kept(prefix).items()
    ]
    return "\n".join([f"# {title}", "", about, "", *sections]).rstrip() + "\n"


def critical_batch_section() -> str:
    """The critical batch of the language model by each way of finding it, as one table."""
    path = RESULTS / "critical_batch-cpu.json"
    kept = read_figures(path, {"sweep": dict, "checkpoints": list})
    check_kinds(path, kept["sweep"], {"seeds": int})
    fit = kept["sweep"]["critical batch"]
    rows = [
        ("by", "at", "critical batch, windows"),
        ("---", "---", "---:"),
        ("a sweep to the target", "", told({"mean": fit["value"], **fit})),
    ]
    for one in kept["checkpoints"]:
        branched, noise = one["branching"], one["noise scale"]
        at = f"{one['update']} updates, a held-out loss of {one['held-out loss']:.2f}"
        high = "" if branched["high"] is None else f", below {branched['high']:g}"
        rows += [
            ("branches", at, f"at least {branched['low']}{high}"),
            ("gradient noise scale", at, f"{noise['value']:.3g} ± {noise['stderr']:.2g}"),
        ]
    lines = "\n".join(table(rows))
    sizes = ", ".join(str(size["batch"]) for size in kept["sweep"]["sizes"])
    edges = [str(size["batch"]) for size in kept["sweep"]["sizes"] if size["at edge"]]
    edge = f" (at {', '.join(edges)} the best rate is the largest or least tried)" if edges else ""
    return (
        "\n## The critical batch in three ways\n\n"
        f"The same model, text and optimizer. The target of the sweep is a validation loss of "
        f"{kept['sweep']['target']:g}; batches of {sizes} windows{edge}, "
        f"{kept['sweep']['seeds']} seeds. Branches and "
        "the noise scale are taken from one run of the small batch, after half and after all of "
        "the updates that it took in the sweep; its loss there is on other windows.\n\n"
        f"{lines}\n\n"
        "With Adam on large language models the noise scale has been found wrong by orders of "
        "magnitude (Merrill et al. 2025).\n\n"
        f"`python -m benchmarks.critical_batch` on {machine_of(kept['machine'])}.\n"
    )


_DATA = ("digits", "mnist", "cifar10")


def remedies_table() -> str:
    """What each remedy adds to the large batch in points, in every kept comparison of them."""

    def order(kept: Kept) -> tuple[int, str]:
        data = kept["settings"]["dataset"]["name"]
        return _DATA.index(data), kept["regimes"][kept["baseline"][1]]["budget"]

    runs = sorted(all_kept("remedies").values(), key=order)
    about, heads, gaps = list[str](), ["remedy"], ["*the gap*"]
    for kept in runs:
        settings, large = kept["settings"], kept["regimes"][kept["baseline"][1]]
        heads.append(f"{settings['dataset']['name']}, {large['budget']}")
        pictures = "pictures from JPEG, " if "JPEG" in kept["note"] else ""
        about.append(
            f"* {heads[-1]}: {pictures}{settings['model']}, batch {settings['large_batch']} for "
            f"{settings['small_batch']} ({large['updates']:,} updates), {settings['seeds']} seeds, "
            f"{settings['tune']} rates each{_continued(kept)}."
        )
        ends = [kept["regimes"][name] for name in kept["baseline"]]
        gaps.append(_points(kept["gap"], "-", edge(*ends) + missed(*ends)))
    rows = [heads, ["---", *["---:"] * len(runs)], gaps]
    for regime in dict.fromkeys(regime for kept in runs for regime in kept["regimes"]):
        added = [_added(kept, regime) for kept in runs]
        if any(added):  # neither an end nor, its rate tuned, the same as one
            rows.append([f"`{regime.removeprefix('LB+')}`", *added])
    return "\n".join([*about, "", *table(rows)]) + "\n"


def _continued(kept: Kept) -> str:
    """That grids went on where the best rate lay at an end, and to how many rates."""
    tried = [len(own["tuning"]["trials"]) for own in kept["regimes"].values() if own["tuning"]]
    further = max(tried) > kept["settings"]["tune"]
    return f", and on where the best lay at an end, up to {max(tried)}" * further


def _points(found: Mapping[str, Any], sign: str, marks: str = "") -> str:
    """A difference over its interval, so that many fit beside each other."""

    def told(value: float | None, sign: str = "-") -> str:
        if value is None:
            return "–"
        points = 100 * value
        return f"{points:{sign}z.{1 if abs(points) < 9.95 else 0}f}"

    low, high = (told(found[end]) for end in ("low", "high"))
    return f"{told(found['mean'], sign)}{marks}<br>[{low}, {high}]"


def _added(kept: Kept, regime: str) -> str:
    """By a regime to the large batch, in bold where all comparisons together resolve it."""
    small, large = kept["baseline"]
    found = comparison(kept, regime, 1)
    if found is None or regime == small:
        return ""
    own, beside = (kept["regimes"][name] for name in (regime, large))
    told = _points(found["difference"], "+", edge(own, beside) + missed(own, beside))
    told = f"**{told}**" if resolved(found) else told
    words = own["budget"].replace(" ", "<br>")
    return told + (f"<br>({words})" if own["budget"] != beside["budget"] else "")


def edge(*regimes: Mapping[str, Any]) -> str:
    """A mark where the best rate of any of these lies at the edge of those tried."""
    return " †" * any((regime["tuning"] or {}).get("at_edge") for regime in regimes)


def missed(*regimes: Mapping[str, Any]) -> str:
    """A mark where a seed of any of these did not get to the loss at which all were to stop."""
    return " ‡" * (None in stops(*regimes))


def budgets_page() -> str:
    """The gap at each budget and what closes it, as one table, before the studies themselves."""
    title = "At which budget is there a gap, and what closes it"
    about = (
        "The same regimes with the same epochs, the same updates, and until the same training "
        "loss. `python -m benchmarks.papers.budgets` runs them.\n\n"
        "| run | held fixed | the gap, points [95%] | is there one | what closes it [95%] |\n"
        "| --- | --- | ---: | --- | --- |\n"
    )
    for name, kept in all_kept("budgets").items():
        large = kept["baseline"][1]
        gap = comparison(kept, large, 0)
        worse = resolved(gap) and gap["difference"]["mean"] < 0
        better = resolved(gap) and not worse
        verdict = "yes" if worse else "not significant"
        verdict = "no: the large batch is better" if better else verdict
        closing = [
            f"{regime} {closed(found['gap_closed'])}%"
            + ("" if resolved(beside) else f", not significantly different from {large}")
            for regime, found in kept["regimes"].items()
            if (beside := comparison(kept, regime, 1)) and worse and closed(found["gap_closed"])
        ]
        missing = None in stops(*kept["regimes"].values())
        held_fixed = kept["regimes"][large]["budget"] + ", not met" * missing
        cells = (name, held_fixed, interval(kept["gap"], 100.0), verdict, "; ".join(closing))
        about += f"| {' | '.join(cells)} |\n"
    return paper_page(title, "budgets", about.rstrip())


PAGES: dict[str, Callable[[], str]] = {
    "hoffer2017.md": lambda: paper_page(
        "Hoffer, Hubara, Soudry (2017), run again",
        "hoffer",
        "Test accuracy in per cent, mean ± standard deviation over seeds. *held fixed* is the "
        "budget against the small batch. Every number is from the JSON beside this page; "
        "`python -m benchmarks.papers.hoffer2017 PRESET ...` runs a preset and writes both.",
    ),
    "keskar2017.md": lambda: paper_page(
        "Keskar et al. (2017), run again",
        "keskar",
        "Test accuracy in per cent, mean ± standard deviation over seeds, and sharpness. Every "
        "number is from the JSON beside this page; `python -m benchmarks.papers.keskar2017 PRESET "
        "...` runs a preset and writes both.",
    ),
    "digits.md": lambda: paper_page(
        "The digits: the standard regimes, Smith et al. (2018), Goyal et al. (2017)",
        DIGITS,
        "Test accuracy in per cent, mean ± standard deviation over seeds, on the embedded digits. "
        "Every number is from the JSON beside this page; `python -m benchmarks.papers.digits "
        "PRESET ...` runs a preset and writes both.",
    ),
    "remedies.md": lambda: paper_page(
        "Every remedy, rates tuned over equal grids",
        "remedies",
        "What each adds to the test accuracy of the large batch alone, in points with 95% "
        "intervals over seeds and test examples, both at their own best rates (the large batch "
        "alone tuned over the grids of both its rules: `LB` and `LB+LR`); in bold where all "
        "comparisons of a column together resolve it (Holm); † where the best rate of either is "
        "the smallest or largest of those tried, ‡ where not all seeds of both got to the loss. "
        f"`python -m benchmarks.papers.remedies` runs them.\n\n{remedies_table()}",
    ),
    "budgets.md": budgets_page,
    "language.md": lambda: (
        paper_page(
            "A small language model, ramps beside their controls",
            "pydoc",
            "Test loss in nats per byte, less is better; all at equal tokens. "
            "`python -m benchmarks.papers.language` runs it.",
        )
        + critical_batch_section()
    ),
    "warm_starts.md": lambda: (
        "# Against the batch size, and from warm starts\n\n"
        "Figures 4 and 5 of Keskar et al. (2017). `python -m benchmarks.papers.warm_starts` runs "
        f"them.\n\n{figures.section()}"
    ),
    "what_held.md": lambda: held.page({**all_kept(), **figures.kept_figures()}),
}


def write_pages() -> list[pathlib.Path]:
    """Write every page beside the results."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, build in PAGES.items():
        paths.append(FOLDER / name)
        paths[-1].write_text(build())
    return paths


if __name__ == "__main__":
    print("\n".join(map(str, write_pages())))
