"""Networks as loops in float64 NumPy, and weights far from their start for them."""

import jax
import numpy as np

from gapjax import models


def drawn(model, inputs):
    """``(network, params, state)`` in which every number counts, variances above 0."""
    network = models.as_network(model)
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * 0.5
        if path[-1].key == "kernel":
            values /= np.sqrt(np.prod(leaf.shape[:-1]) / 4)
        return (np.exp(values) if path[-1].key in ("var", "scale") else values).astype(np.float32)

    return network, *jax.tree.map_with_path(draw, shapes)


def nnx_layers(params, state):
    """Layers of ``features`` and ``classifier`` in their order, in float64."""
    layers = []
    for part in ("features", "classifier"):
        own, kept = params[part]["layers"], state.get(part, {}).get("layers", {})
        layers += [{**own[i], **kept.get(i, {})} for i in sorted(own)]
    return jax.tree.map(lambda x: np.asarray(x, np.float64), layers)


def forward(x, plan, layers):
    """Outputs in evaluation of a plan such as ``"conv norm relu pool:3/2 flatten dense"``."""
    x, layers = x.astype(np.float64), iter(layers)
    for word in plan.split():
        name, _, told = word.partition(":")
        if name == "conv":
            x = conv(x, **next(layers))
        elif name == "norm":
            x = norm(x, **next(layers))
        elif name == "relu":
            x = np.maximum(x, 0)
        elif name == "pool":
            x = max_pool(x, *map(int, told[:3].split("/")), same=told.endswith("same"))
        elif name == "flatten":
            x = x.reshape(len(x), -1)
        elif name == "dense":
            x = dense(x, **next(layers))
    assert not list(layers)
    return x


def conv(x, kernel, bias=0.0, stride=1):
    """A convolution padded as its kernel needs."""
    size = kernel.shape[0]
    x = np.pad(x, [(0, 0)] + [(size // 2, size // 2)] * 2 + [(0, 0)])
    rows, columns = (range(0, n - size + 1, stride) for n in x.shape[1:3])
    out = np.empty((len(x), len(rows), len(columns), kernel.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            patch = x[:, row : row + size, column : column + size]
            out[:, i, j] = np.einsum("bijc,ijco->bo", patch, kernel)
    return out + bias


def norm(x, scale=1.0, bias=0.0, mean=None, var=None):
    """By running statistics, or by those of the batch."""
    axes = tuple(range(x.ndim - 1))
    mean, var = (x.mean(axes), x.var(axes)) if mean is None else (mean, var)
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def max_pool(x, size, stride, same=False, padding=0):
    """Maxima of windows; ``same`` pads as TensorFlow does, more at the end."""
    rows, columns = x.shape[1:3]
    pads = [(padding, padding)] * 2
    if same:
        over = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in (rows, columns)]
        pads = [(n // 2, n - n // 2) for n in over]
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    rows, columns = (range(0, n - size + 1, stride) for n in x.shape[1:3])
    windows = [[x[:, i : i + size, j : j + size].max((1, 2)) for j in columns] for i in rows]
    return np.moveaxis(np.array(windows), 2, 0)


def dense(x, kernel, bias=0.0):
    """A matrix product."""
    return x @ kernel + bias
