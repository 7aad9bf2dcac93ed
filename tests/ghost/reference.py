"""Ghost batch norm as a plain loop in float64 NumPy, sharing nothing with the library."""

import numpy as np


def ghost_slices(batch, ghost_size, remainder):
    if ghost_size is None:
        return [slice(0, batch)]
    starts = list(range(0, batch, ghost_size))
    if remainder == "merge" and batch % ghost_size and len(starts) > 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], batch], strict=True)]


def ghost_batch_norm(
    x,
    running_mean,
    running_var,
    *,
    ghost_size=None,
    momentum=0.99,
    update="sequential",
    variance="within",
    remainder="error",
    mask=None,
    scale=None,
    bias=None,
    epsilon=1e-5,
):
    """For x of [B, ..., C] and a mask of x's shape: the output and both running statistics."""
    x = np.asarray(x, np.float64)
    channels = x.shape[-1]
    keep = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    scale = np.ones(channels) if scale is None else np.asarray(scale, np.float64)
    bias = np.zeros(channels) if bias is None else np.asarray(bias, np.float64)
    running_mean = np.array(running_mean, np.float64)
    running_var = np.array(running_var, np.float64)
    y = np.empty_like(x)
    for c in range(channels):
        means, variances, counts = [], [], []
        for ghost in ghost_slices(len(x), ghost_size, remainder):
            values = x[ghost, ..., c][keep[ghost, ..., c]]
            if values.size:
                mean, var = values.mean(), values.var()
                means.append(mean)
                variances.append(var)
                counts.append(values.size)
            else:
                mean, var = running_mean[c], running_var[c]
            normal = (x[ghost, ..., c] - mean) / np.sqrt(var + epsilon)
            y[ghost, ..., c] = normal * scale[c] + bias[c]
        if not counts:
            continue
        if variance == "unbiased":
            variances = [v * n / max(n - 1, 1) for v, n in zip(variances, counts, strict=True)]
        if update == "sequential":
            weights = [(1 - momentum) * momentum**i for i in range(len(counts))][::-1]
        else:
            weights = [(1 - momentum) * n / sum(counts) for n in counts]
        if variance == "total":
            center = np.dot(weights, means) / (sum(weights) or 1)
            variances = [v + (m - center) ** 2 for v, m in zip(variances, means, strict=True)]
        kept = 1 - sum(weights)
        running_mean[c] = kept * running_mean[c] + np.dot(weights, means)
        running_var[c] = kept * running_var[c] + np.dot(weights, variances)
    return y, running_mean, running_var
