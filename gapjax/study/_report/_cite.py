"""The works that a study builds on, as BibTeX."""

import functools
import importlib.resources
import re
from collections.abc import Iterator

from gapjax.study._findings._result import StudyResult
from gapjax.study._remedies import REMEDIES
from gapjax.study._report._export import check_finished

# What a study's fields bring with them: by field, the start of a value and the entries it stands
# for. A remedy says itself where it is from.
_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizer": {
        "sgd": ("polyak1964some",),
        "nesterov": ("sutskever2013importance",),
        "adamw": ("loshchilov2019decoupled",),
        "adam": ("kingma2015adam",),
        "lamb": ("you2020large",),
        "lars": ("you2017large",),
        "lion": ("chen2023symbolic",),
        "muon": ("jordan2024muon",),
    },
    "schedule": {"cosine": ("loshchilov2017sgdr",), "wsd": ("haegele2024scaling",)},
    "model": {
        "alexnet": ("krizhevsky2012imagenet",),
        "c1-hoffer": ("hoffer2017train",),
        "c3-hoffer": ("hoffer2017train",),
        "f1-hoffer": ("hoffer2017train",),
        **dict.fromkeys(("f1", "f2", "c1", "c2", "c3", "c4"), ("keskar2017large",)),
        "resnet": ("he2016deep",),
        "transformer": ("vaswani2017attention",),
        "vgg": ("simonyan2015very",),
        "wrn": ("zagoruyko2016wide",),
    },
    "dataset": {
        "cifar": ("krizhevsky2009learning",),
        "digits": ("alpaydin1998optical",),
        "fashion_mnist": ("xiao2017fashion",),
        "imagenet": ("russakovsky2015imagenet",),
        "mnist": ("lecun1998gradient",),
    },
}
_GAP = ("keskar2017large", "hoffer2017train")
_STATISTICS = ("fieller1954some", "holm1979simple")
_BATCHES = {
    "grow": ("smith2018dont",),
    "hybrid": ("smith2018dont",),
    "seesaw": ("meterez2025seesaw",),
}
_NOISE = ("mccandlish2018empirical",)
_CONTROLLERS: dict[str, tuple[str, ...]] = {
    "noise-scale": ("mccandlish2018empirical",),
    "norm-test": ("byrd2012sample",),
    "cabs": ("balles2017coupling",),
    "branching": ("merrill2025critical",),
}
_LANDSCAPE = ("ghorbani2019investigation", "foret2021sharpness", "li2018visualizing")
_SOFTWARE = ("jax2018github", "flax2020github", "deepmind2020jax", "gapjax")


@functools.cache
def _entries() -> dict[str, str]:
    """The entries of the bibliography by key."""
    path = importlib.resources.files("gapjax.study") / "_report" / "references.bib"
    entries = re.finditer(r"^@\w+\{([^,]+),\n.*?^\}$", path.read_text("utf-8"), re.M | re.S)
    return {entry[1]: entry[0] for entry in entries}


def find_entries(source: str) -> list[str]:
    """The keys of the entries that a source names by arXiv number or DOI.

    Example:
        >>> find_entries("Hoffer, Hubara, Soudry 2017, arXiv:1705.08741, section 4")
        ['hoffer2017train']
    """
    return [
        key
        for key, text in _entries().items()
        if any(name in source for name in re.findall(r"^  (?:eprint|doi) = \{(.+)\},$", text, re.M))
    ]


def bibliography(result: StudyResult) -> str:
    """BibTeX of what a study builds on: remedies, optimizer, schedule, network, data, statistics.

    What is cited is what the study used: the sources of its regimes' remedies, its optimizer,
    schedule, network and data set by name, the statistics of its intervals, what was measured on
    the solutions, and the software.

    Args:
        result: a finished study, from ``run_study`` or ``load_result``.

    Returns:
        A ``.bib`` file. A remedy that has no entry here, one of your own, say, stands as a comment
        with its source.

    Raises:
        ValueError: regimes of the study are not trained yet.
    """
    check_finished(result)
    entries = _entries()
    reasons: dict[str, list[str]] = {}
    for key, reason in dict.fromkeys(_cited(result)):
        reasons.setdefault(key, []).append(reason)
    parts = []
    for key, told in reasons.items():
        why = ", ".join(told)
        parts.append(f"% {why}\n{entries[key]}\n" if key in entries else f"% {why}: {key}\n")
    return "\n".join(parts)


def _cited(result: StudyResult) -> Iterator[tuple[str, str]]:
    """Keys of entries, each with what it is cited for; of what has none, a comment."""
    study = result.config.study
    yield from ((key, "the generalization gap") for key in _GAP)
    for record in result.regimes.values():
        for remedy in record.remedies:
            shipped = REMEDIES[remedy].source if remedy in REMEDIES else ""
            source = record.sources.get(remedy, shipped)
            keys = find_entries(source)
            yield from ((key, f"remedy {remedy}") for key in keys)
            if not keys:
                yield source or "of this study's own, to be cited by hand", f"remedy {remedy}"
    for regime in study["regimes"]:
        for key in _BATCHES.get(regime["batch"], ()):
            yield key, "a batch that grows"
    driven = str(study.get("controller"))
    yield from ((key, f"controller {driven}") for key in _CONTROLLERS.get(driven, ()))
    if any(record.ghost_size for record in result.regimes.values()):
        yield "ioffe2015batch", "batch normalization"
    values = {**study, "dataset": study["dataset"]["name"]}
    for field, known in _FIELDS.items():
        start = next((start for start in known if str(values[field]).startswith(start)), None)
        if start is not None:
            yield from ((key, f"{field} {start}") for key in known[start])
        elif field in ("dataset", "model", "optimizer") and values[field] != "digits-mlp":
            told = re.sub(r"\s*(\[[0-9a-f]{16}\])?$", "", str(values[field])).partition("(")[0]
            yield f"no entry for {told}, to be cited by hand", field
    yield from ((key, "intervals and p values") for key in _STATISTICS)
    if study["noise_scale"]:
        yield from ((key, "the gradient noise scale") for key in _NOISE)
    if result.landscape is not None:
        yield from ((key, "what was measured on the solutions") for key in _LANDSCAPE)
    yield from ((key, "software") for key in _SOFTWARE)
