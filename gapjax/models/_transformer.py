"""A decoder-only transformer in nnx: logits of the next token, at every position of a sequence."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.sharding import AxisType

from gapjax import _checks
from gapjax._precision import widen
from gapjax.models._norm import NnxNorm
from gapjax.models._recipe import Recipe, recipe
from gapjax.models._settings import check_settings, in_dtype

ACTIVATIONS = ("gelu", "swiglu")
_STD = 0.02  # of every weight at the start, as in GPT-2

Rotation = tuple[jax.Array, jax.Array]


class Block(nnx.Module):
    """Causal attention, then two dense layers, each after a norm and added to what came in."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        residual_std: float,
        activation: str,
        norm: NnxNorm,
        dropout: float,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        def dense(
            before: int | Sequence[int],
            after: int | Sequence[int],
            axes: tuple[Any, ...],
            std: float,
        ) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                before,
                after,
                axis=-1 if isinstance(before, int) else (-2, -1),
                use_bias=False,
                kernel_init=initializers.normal(std),
                kernel_metadata=_axes(*axes),
                dtype=dtype,
                rngs=rngs,
            )

        head, gated = width // heads, activation == "swiglu"
        up, up_axes = ((2, hidden), (None, "mlp")) if gated else (hidden, ("mlp",))
        self.attention_norm = norm(width, rngs=rngs)
        self.qkv = dense(width, (3, heads, head), ("embed", None, "heads", None), _STD)
        self.out = dense((heads, head), width, ("heads", None, "embed"), residual_std)
        self.mlp_norm = norm(width, rngs=rngs)
        self.up = dense(width, up, ("embed", *up_axes), _STD)
        self.down = dense(hidden, width, ("mlp", "embed"), residual_std)
        self.drop = _dropout(dropout, rngs)
        self.gated = gated

    def __call__(self, x: jax.Array, rotation: Rotation) -> jax.Array:
        """``[B, T, width]`` to the same shape."""
        y = self.attention_norm(widen(x)).astype(x.dtype)
        q, k, v = jnp.unstack(self.qkv(y), axis=2)
        q, k = rotate(q, rotation), rotate(k, rotation)
        # The softmax is float32 whatever q and k are.
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(mixed, out_sharding=layout(x)))
        y = self.up(self.mlp_norm(widen(x)).astype(x.dtype))
        # Of what the activation computes along the way nothing is kept: it is cheap to do again,
        # and as wide as the widest of all that a layer keeps.
        y = jax.checkpoint(swiglu if self.gated else nnx.gelu, prevent_cse=False)(y)
        return x + self.drop(self.down(y, out_sharding=layout(x)))


class Transformer(nnx.Module):
    r"""A decoder-only transformer: GPT-2 with rotary positions and no biases in dense layers.

    .. math::
        x \leftarrow x + W_o\,\mathrm{attention}(\mathrm{norm}(x)), \qquad
        x \leftarrow x + W_d\,\mathrm{gelu}(W_u\,\mathrm{norm}(x))

    in every layer; then a norm and the logits, products with the rows of the embedding. Queries and
    keys are rotated by their positions (Su et al. 2021), so a sequence may have any length. With
    ``activation="swiglu"`` the hidden units are :math:`\mathrm{silu}(W_g x) \cdot W_u x` (Shazeer
    2020).

    Weights start as in GPT-2: :math:`N(0, 0.02^2)`, those of :math:`W_o` and :math:`W_d` divided by
    :math:`\sqrt{2\,\mathrm{layers}}`. With the default norm there are :math:`Vw + L(4w^2 + 2fw^2 +
    4w) + 2w` parameters: vocabulary V, width w, layers L, ``mlp_factor`` f; ``swiglu`` has
    :math:`3fw^2` in place of :math:`2fw^2`, ``tied=False`` :math:`Vw` more.

    The axes of parameters are named ``"vocab"``, ``"embed"``, ``"heads"``, ``"mlp"`` and, with
    ``scan``, ``"layers"``: see ``partition_specs`` of :class:`gapjax.models.Network`.

    Args:
        num_outputs: the size of the vocabulary; a token outside it, below 0 or beyond, makes the
            logits of its sequence NaN.
        width: of the activations between layers.
        layers: how many.
        heads: of the attention; ``width / heads`` must be even.
        mlp_factor: hidden units over ``width``; rounded to whole units.
        activation: ``"gelu"`` (its tanh form, as in GPT-2) or ``"swiglu"``.
        norm: what makes a norm, ``nnx.LayerNorm`` or ``nnx.RMSNorm`` say; called as
            ``norm(num_features, rngs=rngs)``.
        tied: whether the logits use the embedding's own weights.
        dropout: the fraction dropped of the embedding and of what each layer adds.
        scan: whether layers are one stacked module that ``jax.lax.scan`` goes through: as fast to
            compile for any number of layers.
        remat: whether activations of a layer are computed again in the backward pass, not kept.
        dtype: the type of the computation, by default that of the parameters, float32. Norms,
            softmax and logits are float32 all the same.
        rngs: keys for weights and dropout.

    Raises:
        ValueError: a setting that cannot be; when called, tokens that are no whole numbers
            ``[B, T]``.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from gapjax import models
        >>> tokens = jax.numpy.zeros((2, 5), "int32")
        >>> nnx.eval_shape(lambda: models.nnx.Transformer(rngs=nnx.Rngs(0))(tokens)).shape
        (2, 5, 256)

    References:
        Radford et al., `Language Models are Unsupervised Multitask Learners
        <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>`_,
        2019, section 2.3; Su et al., `RoFormer <https://arxiv.org/abs/2104.09864>`_, 2021; Shazeer,
        `GLU Variants Improve Transformer <https://arxiv.org/abs/2002.05202>`_, 2020.
    """

    def __init__(
        self,
        num_outputs: int = 256,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        mlp_factor: float = 4,
        activation: str = "gelu",
        norm: NnxNorm = nnx.LayerNorm,
        tied: bool = True,
        dropout: float = 0.0,
        scan: bool = False,
        remat: bool = False,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        check_settings(num_outputs, norm, dtype, "nnx")
        _check_width(_checks.positive_int("width", width), _checks.positive_int("heads", heads))
        _checks.positive_int("layers", layers)
        _checks.one_of("activation", activation, ACTIVATIONS)
        for name, value in (("tied", tied), ("scan", scan), ("remat", remat)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}.")
        _checks.number("dropout", dropout, least=0, below=1)
        hidden = round(_checks.positive_float("mlp_factor", mlp_factor) * width)

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width=width,
                heads=heads,
                hidden=_checks.positive_int("mlp_factor * width", hidden),
                residual_std=_STD / (2 * layers) ** 0.5,
                activation=activation,
                norm=norm,
                dropout=dropout,
                dtype=dtype,
                rngs=rngs,
            )

        def table() -> nnx.Embed:
            init, axes = initializers.normal(_STD), _axes("vocab", "embed")
            return nnx.Embed(
                num_outputs,
                width,
                embedding_init=init,
                embedding_metadata=axes,
                dtype=dtype,
                rngs=rngs,
            )

        self.embed = table()
        self.drop = _dropout(dropout, rngs)
        self.blocks: Any = (
            nnx.vmap(block, transform_metadata={nnx.PARTITION_NAME: "layers"})(rngs.split(layers))
            if scan
            else nnx.List([block(rngs) for _ in range(layers)])
        )
        self.norm = norm(width, rngs=rngs)
        self.unembed = None if tied else table()
        self.scan, self.remat, self.dtype, self.head = scan, remat, dtype, width // heads

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits ``[B, T, num_outputs]`` of tokens ``[B, T]``: what follows each of them."""
        if jnp.ndim(tokens) != 2 or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
            raise ValueError(
                "a transformer takes tokens, whole numbers [B, T], not an array of "
                f"{jnp.result_type(tokens)} of shape {list(jnp.shape(tokens))}."
            )

        def through(x: jax.Array, block: Any, rotation: Rotation) -> jax.Array:
            return block(x, rotation)

        if self.remat:
            through = nnx.remat(through, prevent_cse=not self.scan)
        rotation = rotations(tokens.shape[1], self.head)
        x = self.drop(rows_of(in_dtype(self.embed.embedding[...], self.dtype), tokens))
        if self.scan:
            over_layers = nnx.scan(through, in_axes=(nnx.Carry, 0, None), out_axes=nnx.Carry)
            x = over_layers(x, self.blocks, rotation)
        else:
            for block in self.blocks:
                x = through(x, block, rotation)
        x = self.norm(widen(x)).astype(x.dtype)
        rows = (self.embed if self.unembed is None else self.unembed).embedding[...]
        return jnp.einsum(
            "btw,vw->btv", x, rows.astype(x.dtype), preferred_element_type=widen(x).dtype
        )


def rows_of(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """``[V, width]`` and ``[B, T]`` to ``[B, T, width]``; NaN where there is no such row.

    Elsewhere -1 is the last row, here it is none: labels to be left out are often marked so.
    """
    rows = jnp.asarray(table).at[tokens]
    return rows.get(mode="fill", wrap_negative_indices=False, out_sharding=layout(tokens))


def swiglu(x: jax.Array) -> jax.Array:
    """``[..., 2, hidden]``, gates and values, to ``[..., hidden]``."""
    return nnx.silu(x[..., 0, :]) * x[..., 1, :]


def layout(x: jax.Array) -> jax.P | None:
    """How an array is laid out over a mesh with ``Explicit`` axes, where products must be told."""
    sharding = jax.typeof(x).sharding
    return sharding.spec if AxisType.Explicit in sharding.mesh.axis_types else None


def rotations(length: int, size: int) -> Rotation:
    """Cosines and sines ``[T, 1, size / 2]`` of the angles ``t / 10000^(2 i / size)``."""
    frequencies = 10_000.0 ** (-jnp.arange(0, size, 2, dtype=float) / size)
    angles = (jnp.arange(length, dtype=float)[:, None] * frequencies)[:, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Queries or keys ``[B, T, heads, size]``, element i and i + size / 2 rotated as a pair."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def transformer(
    num_outputs: int = 256, norm: NnxNorm = nnx.LayerNorm, dtype: Any = None, **settings: Any
) -> Recipe:
    """A decoder-only transformer, for bytes unless told otherwise: 821,504 parameters.

    :class:`gapjax.models.nnx.Transformer` says what it is.

    Args:
        num_outputs: the size of the vocabulary.
        norm: what makes a norm, of nnx; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation.
        settings: any other of its settings: ``width``, ``layers``, ``heads``, ``mlp_factor``,
            ``activation``, ``tied``, ``dropout``, ``scan``, ``remat``.

    Returns:
        A function from ``rngs`` to an nnx module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> transformer(layers=6, width=384, heads=6, dropout=0.2, scan=True)
        Transformer(layers=6, width=384, heads=6, dropout=0.2, scan=True)
    """
    return recipe(Transformer, num_outputs=num_outputs, norm=norm, dtype=dtype, **settings)


def transformer_tiny(
    num_outputs: int = 256, norm: NnxNorm = nnx.LayerNorm, dtype: Any = None
) -> Recipe:
    """:func:`transformer` with 2 layers of width 64 and 2 heads: 115,328 parameters.

    Args:
        num_outputs: the size of the vocabulary.
        norm: what makes a norm, of nnx; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation.

    Returns:
        A function from ``rngs`` to an nnx module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> transformer_tiny()
        Transformer(width=64, layers=2, heads=2)
    """
    return transformer(num_outputs, norm, dtype, width=64, layers=2, heads=2)


def _axes(*names: str | None) -> dict[str, Any]:
    """Names for the axes of a parameter; it is laid out only by who asks for it."""
    return {"out_sharding": names, "eager_sharding": False}


def _dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    return nnx.Dropout(rate, rngs=rngs if rate else None)  # no key for what draws nothing


def _check_width(width: int, heads: int) -> None:
    if width % (2 * heads):
        below = width // (2 * heads) * 2 * heads
        fitting = [n for n in (below, below + 2 * heads) if n]
        raise ValueError(
            f"width={width} must be heads={heads} times an even number, since elements of each "
            f"head are rotated in pairs: use {' or '.join(map(str, fitting))}."
        )
