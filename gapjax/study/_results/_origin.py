"""What a study is and where its numbers come from, as its folder keeps it."""

import dataclasses
import importlib.metadata
import platform
import warnings
from typing import Any

import jax

import gapjax
from gapjax import models
from gapjax._cores import cores, processor
from gapjax.study._results._identity import fingerprint, identity
from gapjax.study._study import Study

# Fields that are a name, or code.
_NAMED_OR_CODE = ("optimizer", "schedule", "controller")


def describe(study: Study, dataset: Any, network: models.Network) -> dict[str, Any]:
    """The study as JSON-able values, the same for the same experiment: what a folder belongs to.

    What has a name or a number stands as it is; code stands as its name and a hash.

    Warns:
        UserWarning: a part of the study cannot be told from others, and no ``version`` is given.
    """
    vague: list[str] = []

    def hashed(value: Any, place: str, text: str) -> str:
        digest, unclear = identity(value, place)
        vague.extend(unclear)
        return f"{text} [{digest}]"

    values: dict[str, Any] = {}
    for field in dataclasses.fields(study):
        value = getattr(study, field.name)
        if field.name == "regimes":
            value = [
                {
                    "name": regime.name,
                    "batch": regime.batch,
                    "remedies": [
                        hashed(own, f"remedy {own.name}", own.name)
                        if own is not _shipped(own.name)
                        else own.name
                        for own in regime.remedies
                    ],
                }
                for regime in study.all_regimes
            ]
        elif field.name == "dataset":
            value = {
                "name": dataset.name,
                "normalize": dataset.normalize,
                "examples": fingerprint((dataset.train, dataset.test)),
                "classes": dataset.class_names,
            }
        elif field.name == "model":
            told = network.identity if network.identity is not None else value
            named = isinstance(value, str) and ":" not in value
            value = value if named else hashed(told, "model", network.describe)
        elif field.name == "task":
            value = hashed(value, "task", value.name)
        elif field.name == "augment":
            value = [
                one if isinstance(one, str) else hashed(one, "augment", _name(one)) for one in value
            ]
        elif field.name in _NAMED_OR_CODE and not isinstance(value, str | None):
            value = hashed(value, field.name, _name(value))
        elif field.name == "data_dir" or field.name.startswith("landscape_"):
            continue  # where it lies, and how closely it is looked at: not what it is
        values[field.name] = value
    if vague and not study.version:
        warnings.warn(
            f"whether {', '.join(dict.fromkeys(vague))} is the same another time cannot be told, "
            "so a folder may go on with another experiment. Say which it is with version='...'.",
            UserWarning,
            stacklevel=3,
        )
    return {**values, "gapjax": gapjax.__version__}


def environment(command: str | None) -> dict[str, Any]:
    """How a study is run: command, machine, versions."""
    return {
        "command": command,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "gapjax": gapjax.__version__,
        **versions(),
    }


def versions() -> dict[str, str]:
    """The versions of what computes the numbers."""
    return {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}


def _shipped(name: str) -> Any:
    from gapjax.study._remedies import REMEDIES

    return REMEDIES.get(name)


def _name(function: Any) -> str:
    text = getattr(function, "__qualname__", None) or type(function).__qualname__
    return text.replace("<locals>.", "")
