"""JSON that knows whether it is whole: storage may hand back other bits without an error."""

import hashlib
import json
from typing import Any


def seal(about: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its own hash."""
    return {**about, "seal": _digest(about)}


def is_sealed(about: Any) -> bool:
    """Whether a JSON object is what ``seal`` gave."""
    return isinstance(about, dict) and about.get("seal") == _digest(
        {name: value for name, value in about.items() if name != "seal"}
    )


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
