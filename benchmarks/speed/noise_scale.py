"""Gradient noise from normalization layers: what it adds to a step of a transformer.

    python -m benchmarks.speed.noise_scale      # --width 256 --layers 4 --batch 16 --length 128

The whole step (AdamW, loss over logits) with `gradient=layer_noise` over the same step without, in
linen and nnx, interleaved. Bar: at most 1.05 times. Beside them what the same numbers cost by
gradients of single examples (`jax.vmap` of `jax.grad`), the naive way, and what the compiler counts
(operations, bytes moved), which no load of the machine changes.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx

from benchmarks.speed.timing import interleave, keep, table
from gapjax import training
from gapjax.growth import linen as in_linen
from gapjax.growth import nnx as in_nnx

VOCABULARY = 256


class LinenTransformer(nn.Module):
    width: int
    layers: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, self.width)(tokens)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x += nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
            x += nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


class NnxTransformer(nnx.Module):
    def __init__(self, width, layers, *, rngs):
        def norm():
            return nnx.LayerNorm(width, rngs=rngs)

        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.norms = nnx.List([norm() for _ in range(2 * layers)])
        self.attentions = nnx.List(
            [
                nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs, dropout_rate=0.0)
                for _ in range(layers)
            ]
        )
        self.ups = nnx.List([nnx.Linear(width, 4 * width, rngs=rngs) for _ in range(layers)])
        self.downs = nnx.List([nnx.Linear(4 * width, width, rngs=rngs) for _ in range(layers)])
        self.last = norm()
        self.out = nnx.Linear(width, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        mask = nnx.make_causal_mask(tokens)
        for layer, (attention, up, down) in enumerate(
            zip(self.attentions, self.ups, self.downs, strict=True)
        ):
            x += attention(self.norms[2 * layer](x), mask=mask)
            x += down(nnx.gelu(up(self.norms[2 * layer + 1](x))))
        return self.out(self.last(x))


def next_token(logits, tokens):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return losses.mean()


def linen_case(width, layers, tokens):
    model = LinenTransformer(width, layers)
    params = model.init(jax.random.key(0), tokens[:1])
    return (lambda params, tokens: next_token(model.apply(params, tokens), tokens)), params


def nnx_case(width, layers, tokens):
    model = in_nnx.reporting(NnxTransformer(width, layers, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, tokens):
        return next_token(nnx.merge(graph, params, rest)(tokens), tokens)

    return loss, params


def single_examples(loss):
    """The naive way: a gradient per example, of which the norms are taken."""

    def follow(value_and_grad, params, model_state, batch, key):
        def one(example):
            return jax.value_and_grad(lambda p: loss(p, example[None]))(params)

        values, grads = jax.vmap(one)(batch)
        norms = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)) / len(batch)
        mean = jax.tree.map(lambda g: g.mean(axis=0), grads)
        return mean, model_state, {"loss": values.mean(), "norms": norms}

    return follow


def compiled(loss, params, tokens, gradient):
    """One update, compiled, and a fresh state."""
    tx = optax.adamw(1e-3)
    step = jax.jit(training.make_train_step(loss, tx, gradient=gradient))
    state = training.init_state(params, tx, key=jax.random.key(1))
    return step.lower(state, tokens).compile(), state


def contestant(step, state, tokens, updates):
    """A call that makes so many updates of a fresh state."""

    def run():
        now = state
        for _ in range(updates):
            now, metrics = step(now, tokens)
        jax.block_until_ready((now, metrics))

    return run


def counted(step):
    """Operations and bytes of a program, by the compiler."""
    costs = step.cost_analysis()
    return {name: costs[key] for name, key in (("flops", "flops"), ("bytes", "bytes accessed"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    shape = (args.batch, args.length)
    tokens = jax.random.randint(jax.random.key(2), shape, 0, VOCABULARY)
    figures = {"settings": vars(args)}
    for name, case, gradient in (
        ("linen", linen_case, in_linen.layer_noise),
        ("nnx", nnx_case, in_nnx.layer_noise),
    ):
        loss, params = case(args.width, args.layers, tokens)
        ways = {"plain": None, "with noise": gradient, "single examples": single_examples(loss)}
        programs = {way: compiled(loss, params, tokens, g) for way, g in ways.items()}
        timings = interleave(
            {way: contestant(*program, tokens, args.updates) for way, program in programs.items()},
            reference="plain",
            rounds=args.rounds,
        )
        counts = {way: counted(step) for way, (step, _) in programs.items()}
        print(name, table(timings), sep="\n")
        for what, plain in counts["plain"].items():
            print(f"{what} with noise: {counts['with noise'][what] / plain:.4f} of plain")
        figures[name] = {way: timing._asdict() | counts[way] for way, timing in timings.items()}
    print(keep("noise_scale", figures))


if __name__ == "__main__":
    main()
