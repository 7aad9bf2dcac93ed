"""A small transformer on byte sequences, with its weights split over a mesh in two ways."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

WIDTH, HEADS, LAYERS, VOCABULARY = 32, 4, 1, 32
# Over "model": heads and hidden units, as tensor parallelism splits them.
TENSOR = {
    "embed": P(None, "model"),
    "qkv": P(None, None, "model"),
    "out": P("model"),
    "up": P(None, "model"),
    "down": P("model"),
    "unembed": P(None, "model"),
}


def make(seed=0):
    """Weights as float32 arrays on the host, and sequences of tokens in two batches."""
    rng = np.random.default_rng(seed)

    def draw(*shape, fan_in):
        return (rng.normal(size=shape) / fan_in**0.5).astype(np.float32)

    head = WIDTH // HEADS
    params = {
        "embed": draw(VOCABULARY, WIDTH, fan_in=1),
        "unembed": draw(WIDTH, VOCABULARY, fan_in=WIDTH),
        "layers": [
            {
                "scale": np.ones(WIDTH, np.float32),
                "qkv": draw(3, WIDTH, HEADS, head, fan_in=WIDTH),
                "out": draw(HEADS, head, WIDTH, fan_in=WIDTH),
                "up": draw(WIDTH, 4 * WIDTH, fan_in=WIDTH),
                "down": draw(4 * WIDTH, WIDTH, fan_in=4 * WIDTH),
            }
            for _ in range(LAYERS)
        ],
    }
    tokens = rng.integers(0, VOCABULARY, (2, 16, 9)).astype(np.int32)
    return params, [{"tokens": t} for t in tokens]


def loss(params, batch):
    """Mean cross entropy of the next token."""
    tokens, use = batch["tokens"], _use(params)
    x = jax.nn.one_hot(tokens[:, :-1], VOCABULARY) @ use("embed", params)
    mask = np.tril(np.ones((x.shape[1], x.shape[1]), bool))
    for layer in params["layers"]:
        y = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * use("scale", layer)
        q, k, v = jnp.einsum("btd,cdhe->cbthe", y, use("qkv", layer))
        scores = jnp.einsum("bthe,bshe->bhts", q, k) / q.shape[-1] ** 0.5
        mixed = jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(jnp.where(mask, scores, -1e9)), v)
        x = x + jnp.einsum("bthe,hed->btd", mixed, use("out", layer))
        x = x + jax.nn.gelu(x @ use("up", layer)) @ use("down", layer)
    logits = jax.nn.log_softmax(x @ use("unembed", params))
    wanted = jax.nn.one_hot(tokens[:, 1:], VOCABULARY)
    return -jnp.mean(jnp.sum(logits * wanted, -1))


def _use(params):
    """Weights as they are used: whole where types show shardings, as such code has to ask for."""
    mesh = jax.typeof(params["embed"]).sharding.mesh
    whole = NamedSharding(mesh, P()) if AxisType.Explicit in mesh.axis_types else None

    def use(name, tree):
        return jax.sharding.reshard(tree[name], whole) if whole else tree[name]

    return use


def _axis(path):
    names = [getattr(key, "key", None) for key in path]
    return next((TENSOR[name] for name in names if name in TENSOR), P())


def place(mesh, params, batches, how):
    """Weights and batches on a mesh.

    "tensor": axes "data" and "model", each weight split over "model". "fsdp": one axis, over which
    both the batch and the first axis of each weight that it divides are split.
    """

    def spec(path, leaf):
        if how == "tensor":
            return _axis(path)
        devices = mesh.shape["data"]
        first = next((i for i, n in enumerate(leaf.shape) if n % devices == 0), None)
        return P() if first is None or leaf.ndim < 2 else P(*[None] * first, "data")

    def put(path, leaf):
        return jax.device_put(leaf, NamedSharding(mesh, spec(path, leaf)))

    batches = jax.device_put(batches, NamedSharding(mesh, P("data")))
    return jax.tree.map_with_path(put, params), batches


def mesh_for(how, kind):
    """A mesh over the 8 virtual devices."""
    shape, names = ((2, 4), ("data", "model")) if how == "tensor" else ((8,), ("data",))
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
