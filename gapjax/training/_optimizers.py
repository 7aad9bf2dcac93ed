"""Any optax chain: what it can be told at an update, and states whose memory may be donated."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# What a step can tell an optimizer. Optax knows the first six; the others are of microbatches.
EXTRA = (
    "value",
    "grad",
    "value_fn",
    "obj_fn",
    "grad_fn",
    "batch_size",
    "part_size",
    "part_squared_norm",
    "effective_size",
)
_PARTS = frozenset(EXTRA[6:])
Update = Callable[..., Any]


def _nothing(updates: Any, state: Any, params: Any = None) -> Any:
    return updates, state


# What optax puts around a transform of the plain type: it takes every extra argument and passes
# none on. Known by its code.
_DROPS = optax.with_extra_args_support(
    optax.GradientTransformation(optax.init_empty_state, _nothing)
).update.__code__


class _Lost(NamedTuple):
    """A transform that would be told nothing of something, or what is wrong, because of another."""

    name: str
    by: Update
    blocker: Update
    wraps: bool  # whether the blocker holds the transform, or stands beside it in a chain
    misled: bool = False


def with_all_extras(tx: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer that may be told everything in ``EXTRA``, and passes on what ``tx`` takes.

    Its own signature says what that is, and the signatures of the transforms that it passes extra
    arguments on to, which it holds in its closure. Inside ``optax.MultiSteps`` the batch is that of
    all mini-steps together.

    Args:
        tx: an optax transform or chain, or ``optax.MultiSteps``.

    Raises:
        ValueError: something else; or a chain in which something that a transform needs does not
            reach it, because another one takes nothing of the kind: here, or at the first update
            where it may be left out. Or one inside ``optax.MultiSteps`` that would be told the
            sizes of a mini-step.
    """
    check_transform(tx)
    told, blocker = _told(tx.update)
    lost = list(_lost(tx.update, told, blocker or tx.update, False))
    for one in [*_misled(tx.update), *lost]:
        default = _parameters(one.by)[one.name].default
        if one.misled or default is inspect.Parameter.empty:
            raise ValueError(_say(one))
    for needed, by in _unknown(tx.update):
        raise ValueError(
            f"{_name(by)} needs {needed} at an update, and a step tells none: it tells "
            f"{', '.join(EXTRA)}. Give {needed} a default, or bind it beforehand."
        )
    multi = _multi_steps(tx.update)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        own = {name: value for name, value in extra.items() if name in told}
        for name in {"value_fn", "obj_fn"} & set(own):
            own[name] = _taking_all(own[name])
        try:
            # Some of optax's own mix types, which a session with strict promotion refuses.
            with jax.numpy_dtype_promotion("standard"):
                if multi is not None and "batch_size" in own:
                    own["batch_size"] *= multi._every_k_schedule(state.gradient_step)
                return tx.update(updates, state, params, **own)
        except ValueError as error:  # "has to be told"
            if lost:
                raise ValueError(f"{error} {_say(lost[0])}") from error
            raise

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _taking_all(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function of the parameters that may be told everything else.

    Line searches refuse to be told what the function they search along does not name.
    """

    def taking(params: Any, **told: Any) -> Any:
        return function(params)

    kinds = inspect.Parameter
    names = [kinds(name, kinds.KEYWORD_ONLY, default=None) for name in EXTRA]
    first = kinds("params", kinds.POSITIONAL_OR_KEYWORD)
    taking.__signature__ = inspect.Signature([first, *names])  # type: ignore[attr-defined]
    return taking


def _told(update: Update) -> tuple[frozenset[str], Update | None]:
    """What an update can be told, and which transform it is that cannot be told more."""
    if not _takes_any(update):
        return _named(update), update
    told, blocker = frozenset(EXTRA), None
    for member in _members(update) if _passes_on(update) else ():
        less, by = _told(member)
        if not told <= less:
            told, blocker = told & less, by
    return told, blocker


def _unknown(update: Update) -> Iterator[tuple[str, Update]]:
    """What transforms cannot do without, and no step knows of."""
    for name, p in _parameters(update).items():
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and name not in EXTRA:
            yield name, update
    for member in _members(update):
        yield from _unknown(member)


def _lost(update: Update, told: frozenset[str], blocker: Update, wraps: bool) -> Iterator[_Lost]:
    """What does not reach the transforms from here on, where so much is told."""
    for name in sorted(_named(update) - told):
        yield _Lost(name, update, blocker, wraps)
    for member in _members(update):
        if _passes_on(update):
            yield from _lost(member, told, blocker, wraps)
        else:
            inner = member if _is_dropping(update) else update
            yield from _lost(member, frozenset(), inner, True)


def _misled(
    update: Update, wrong: frozenset[str] = frozenset(), by: Any = None, *, outermost: bool = True
) -> Iterator[_Lost]:
    """The transforms that would be told of one mini-step, where their update is of many."""
    for name in EXTRA:
        if name in _named(update) & wrong:
            yield _Lost(name, update, by, True, misled=True)
    if not _passes_on(update):
        return
    if _multi_steps(update) is not None:
        wrong, by = _PARTS if outermost else _PARTS | {"batch_size"}, update
    for member in _members(update):
        yield from _misled(member, wrong, by, outermost=False)


def _multi_steps(update: Update) -> optax.MultiSteps | None:
    owner = getattr(update, "__self__", None)
    return owner if isinstance(owner, optax.MultiSteps) else None


def _say(lost: _Lost) -> str:
    by, blocker = _name(lost.by), _name(lost.blocker)
    if lost.misled:
        remedy = f"Let {blocker} hold the whole chain"
        if lost.name in _PARTS:
            remedy = f"Put {by} before it: optax.chain({by}(...), {blocker}(...))"
        return (
            f"{by} takes {lost.name} at an update, and inside of {blocker} that is of one "
            f"mini-step. {remedy}."
        )
    if not lost.wraps:
        takes = ", ".join(sorted(_named(lost.blocker))) or "nothing"
        return (
            f"{by} takes {lost.name} at an update, and {blocker} in the same chain only {takes}; a "
            "chain tells all of its transforms the same. Leave one of them out."
        )
    remedy = f"put {by} outside of it"
    if _takes_any(lost.blocker):
        remedy += (
            f", or make it one that is told: optax.GradientTransformationExtraArgs(*{blocker})"
        )
    return f"{lost.name} does not reach {by}, since {blocker} is not told it: {remedy}."


def _passes_on(update: Update) -> bool:
    return _takes_any(update) and not _is_dropping(update)


def _is_dropping(update: Update) -> bool:
    return getattr(update, "__code__", None) is _DROPS


def _members(update: Update) -> list[Update]:
    """The updates that an update holds: of its members, in a chain, or of what it wraps."""
    cells = getattr(update, "__closure__", None) or ()
    names = getattr(getattr(update, "__code__", None), "co_freevars", ())
    full = {n: c.cell_contents for n, c in zip(names, cells, strict=True) if _is_full(c)}
    members = full.pop("update_fns", ())  # of a chain: bare functions, whatever they call things
    held = list(full.values())
    if (owner := getattr(update, "__self__", None)) is not None:  # MultiSteps
        held += getattr(owner, "__dict__", {}).values()
    bare = [one for one in members if callable(one)] if isinstance(members, tuple) else []
    return [*bare, *_updates(held)]


def _updates(held: Any) -> Iterator[Update]:
    if _is_transform(held):
        yield held.update
    elif isinstance(held, list | tuple):
        for one in held:
            yield from _updates(one)
    elif isinstance(held, dict):
        yield from _updates(list(held.values()))
    elif inspect.isroutine(held) and _is_update(held):
        yield held


def check_transform(tx: Any) -> None:
    """Refuse what is no optimizer."""
    if not _is_transform(tx):
        raise ValueError(
            f"tx must be an optax transform, with init and update, not {tx!r}: optax.sgd(0.1), or "
            "optax.chain(...) of several."
        )


def _is_transform(held: Any) -> bool:
    """A transform of either type, or ``optax.MultiSteps``."""
    return callable(getattr(held, "init", None)) and callable(getattr(held, "update", None))


def _is_update(function: Callable[..., Any]) -> bool:
    """Whether a bare function is an update, as a chain holds them: ``(updates, state, params)``."""
    names = list(_parameters(function))
    return len(names) > 2 and "state" in names[1] and "param" in names[2]


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def _takes_any(update: Update) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in _parameters(update).values())


def _named(update: Update) -> frozenset[str]:
    return frozenset(EXTRA) & frozenset(_parameters(update))


def _name(update: Update) -> str:
    """The name of what made a transform, as a user wrote it."""
    name = getattr(update, "__qualname__", type(update).__qualname__)
    return name.partition(".<locals>")[0].removesuffix(".update")


def trained(params: Any) -> Any:
    """What the gradient is taken of: of the two copies that ``optax.lookahead`` keeps, the fast."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def strong(tree: Any) -> Any:
    """A tree without weak types.

    What an optimizer makes of a number may have another, for which a program is compiled anew.
    """

    def one(leaf: Any) -> Any:
        weak = getattr(leaf, "weak_type", False)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if weak else leaf

    return jax.tree.map(one, tree)


def kept_by(tx: optax.GradientTransformation, params: Any) -> list[jax.Array]:
    """The arrays in the first state of an optimizer that it has not made for it.

    Those that it was made with (a learning rate, a random key), and the parameters.
    """
    kept: list[jax.Array] = []

    def init() -> None:  # traced, what is computed here is a tracer
        leaves = jax.tree.leaves(tx.init(params))
        kept.extend(x for x in leaves if isinstance(x, jax.Array) and not _is_tracer(x))

    untraceable = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
    with contextlib.suppress(*untraceable):
        jax.eval_shape(init)
    return kept


def _is_tracer(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def without_aliases(tree: Any, others: Any = ()) -> Any:
    """A tree in which no array is there twice, so that all of its memory may be donated.

    Some optimizers start with the parameters themselves in their state.

    Args:
        tree: of arrays.
        others: arrays whose memory must not be in it either.
    """
    arrays = (leaf for leaf in jax.tree.leaves(others) if isinstance(leaf, jax.Array))
    seen = {place for leaf in arrays for place in _memory(leaf)}

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        places = _memory(leaf)
        if seen.isdisjoint(places):
            seen.update(places)
            return leaf
        return jnp.copy(leaf)

    return jax.tree.map(own, tree)


def _memory(leaf: jax.Array) -> list[Any]:
    """Where an array lies: its object, and its memory on each device of this process."""
    places: list[Any] = [id(leaf)]
    if _is_tracer(leaf) or leaf.size == 0 or leaf.is_deleted():
        return places
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    for shard in leaf.addressable_shards:
        places.append((shard.device, shard.data.unsafe_buffer_pointer()))
    return places
