"""Settings of an nnx module, until there are keys to draw its weights with."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from gapjax.models._calls import signature


@dataclasses.dataclass(frozen=True)
class Recipe:
    """``(rngs, inputs) -> module``, as ``as_network`` takes it.

    Attributes:
        module: an nnx class.
        settings: its arguments besides ``rngs``; what is wrong with them, is wrong when this is
            made.
        sizes: ``inputs -> settings``, those that follow from the inputs; None where nothing does.
    """

    module: type[nnx.Module]
    settings: Mapping[str, Any]
    sizes: Callable[[Any], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        jax.eval_shape(lambda: nnx.state(self(nnx.Rngs(0))))

    def __call__(self, rngs: nnx.Rngs, inputs: Any = None) -> nnx.Module:
        """The module: for these inputs, or for those of its paper where none are given."""
        found = {} if inputs is None or self.sizes is None else self.sizes(inputs)
        build: Callable[..., nnx.Module] = self.module
        return build(rngs=rngs, **self.settings, **found)

    def __hash__(self) -> int:
        """Equal recipes have equal names of settings, whose values need not be hashable."""
        return hash((self.module, frozenset(self.settings), self.sizes))

    def __repr__(self) -> str:
        """As the module is written, without what it does by itself."""
        parameters = signature(self.module).parameters
        told = (
            f"{name}={value!r}"
            for name, value in self.settings.items()
            if value is not parameters[name].default and value != parameters[name].default
        )
        return f"{self.module.__name__}({', '.join(told)})"


def recipe(
    module: type[nnx.Module],
    sizes: Callable[[Any], Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Recipe:
    """A ``Recipe``, with its settings as they are written in a call."""
    return Recipe(module, settings, sizes)
