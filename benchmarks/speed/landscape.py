"""Curvature against its floor (a gradient) and against peers, on a small conv net and on F1.

    python -m benchmarks.speed.landscape [--nets conv f1] [--rounds 3] [--examples 900]

In one run, on the same weights and data (handwritten digits, with a ragged last batch): the cost
of a Hessian-vector product in gradients, then the five leading eigenvalues by gapjax, by
curvlinops with ARPACK, and by PyHessian. Peers that are not installed are left out
(`pip install torch==2.13.0 pyhessian curvlinops-for-pytorch`). Figures go to
`benchmarks/results/landscape-cpu.json`.
"""

import argparse
import importlib.metadata
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.timing import interleave, keep, table
from gapjax import landscape

WIDTHS = [784, 512, 512, 512, 512, 512, 10]
CHANNELS = [1, 32, 64, 128]
PYHESSIAN_TOLERANCES = (1e-3, 1e-6)  # its default, and what it needs for errors like the others'


def digits(examples: int, batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Handwritten digits of 28 x 28 in batches, the last of them ragged."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(found.images[:examples] / 16, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None].astype(np.float32)
    labels = found.target[:examples].astype(np.int32)
    return [(images[i : i + batch], labels[i : i + batch]) for i in range(0, len(labels), batch)]


def conv_apply(params: Any, x: jax.Array) -> jax.Array:
    """Three convolutions of stride 2 and a dense layer, 113 thousand parameters."""
    for layer in params[:-1]:
        x = jax.lax.conv_general_dilated(
            x, layer["w"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layer["b"])
    return x.reshape(len(x), -1) @ params[-1]["w"] + params[-1]["b"]


def f1_apply(params: Any, x: jax.Array) -> jax.Array:
    """F1 of Keskar et al.: five blocks of 512 with batch norm in evaluation mode, 1.46 million."""
    x = x.reshape(len(x), -1)
    for layer in params[:-1]:
        x = jax.nn.relu((x @ layer["w"] + layer["b"]) * layer["scale"] + layer["shift"])
    return x @ params[-1]["w"] + params[-1]["b"]


def conv_init(rng: np.random.Generator) -> Any:
    shapes = [(3, 3, i, o) for i, o in itertools.pairwise(CHANNELS)] + [(2048, 10)]
    return [_layer(rng, shape) for shape in shapes]


def f1_init(rng: np.random.Generator) -> Any:
    layers = [_layer(rng, shape) for shape in itertools.pairwise(WIDTHS)]
    for layer in layers[:-1]:
        layer |= {"scale": jnp.ones_like(layer["b"]), "shift": jnp.zeros_like(layer["b"])}
    return layers


def _layer(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    drawn = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
    return {"w": jnp.asarray(drawn, jnp.float32), "b": jnp.zeros(shape[-1], jnp.float32)}


NETS: dict[str, tuple[Callable, Callable]] = {
    "conv": (conv_init, conv_apply),
    "f1": (f1_init, f1_apply),
}


def train(loss: Callable, params: Any, batches: list, epochs: int = 6) -> Any:
    """A few epochs, so that the spectrum has its outliers."""
    tx = optax.adam(1e-3)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        change, state = tx.update(jax.grad(loss)(params, batch), state)
        return optax.apply_updates(params, change), state

    for _ in range(epochs):
        for x, y in batches:
            for start in range(0, len(y), 128):
                rows = slice(start, start + 128)
                params, state = step(params, state, (x[rows], y[rows]))
    return params


def torch_twin(net: str, params: Any, batches: list) -> tuple[Any, list] | None:
    """The same network and data in PyTorch, or nothing where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from torch import nn

    def copy(to: Any, array: jax.Array) -> None:
        with torch.no_grad():
            to.copy_(torch.from_numpy(np.array(array)))

    modules: list[Any] = [] if net == "conv" else [nn.Flatten()]
    for layer in params[:-1]:
        if net == "conv":
            i, o = layer["w"].shape[2:]
            # SAME with stride 2 pads (0, 1) on even sizes and (1, 1) on odd ones.
            size = 28 // 2 ** sum(isinstance(m, nn.Conv2d) for m in modules)
            modules.append(nn.ZeroPad2d((size % 2, 1, size % 2, 1)))
            module = nn.Conv2d(i, o, 3, stride=2)
            copy(module.weight, layer["w"].transpose(3, 2, 0, 1))
            modules += [module, nn.ReLU()]
        else:
            module = nn.Linear(*layer["w"].shape)
            norm = nn.BatchNorm1d(len(layer["b"]), eps=0.0)
            copy(module.weight, layer["w"].T)
            copy(norm.weight, layer["scale"])
            copy(norm.bias, layer["shift"])
            modules += [module, norm, nn.ReLU()]
        copy(module.bias, layer["b"])
    last = nn.Linear(*params[-1]["w"].shape)
    weight = params[-1]["w"]
    if net == "conv":
        modules.append(nn.Flatten())
        # Channels come first there, so the dense rows change places.
        weight = weight.reshape(4, 4, 128, 10).transpose(2, 0, 1, 3).reshape(2048, 10)
    copy(last.weight, weight.T)
    copy(last.bias, params[-1]["b"])
    model = nn.Sequential(*modules, last).eval()
    data = [
        (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y).long())
        for x, y in batches
    ]
    return model, data


def curvlinops_top(model: Any, data: list, k: int, tol: float) -> tuple[np.ndarray, int]:
    """Eigenvalues by ARPACK on curvlinops' Hessian, and the number of products."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh
    from torch import nn

    parameters = [p for p in model.parameters() if p.requires_grad]
    hessian = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False
    ).to_scipy()
    count = 0

    def matvec(v: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return hessian @ v

    # The same kind of random start as the others.
    start = np.random.default_rng(0).normal(size=hessian.shape[0]).astype(hessian.dtype)
    op = LinearOperator(hessian.shape, matvec=matvec, dtype=hessian.dtype)
    values = eigsh(op, k=k, which="LM", tol=tol, v0=start)[0]
    return np.sort(values)[::-1], count


def pyhessian_top(model: Any, data: list, k: int, tol: float) -> tuple[np.ndarray, int]:
    """Eigenvalues by PyHessian's deflated power iteration, and the number of products.

    Its tolerance is on the change between iterates, so the error is larger: at the default, 1e-3,
    several times the tolerance.
    """
    import torch
    from pyhessian import hessian
    from torch import nn

    torch.manual_seed(0)
    found = hessian(model, nn.CrossEntropyLoss(), dataloader=data, cuda=False)
    count, product = 0, found.dataloader_hv_product

    def counted(v: Any) -> Any:
        nonlocal count
        count += 1
        return product(v)

    found.dataloader_hv_product = counted
    values, _ = found.eigenvalues(maxIter=1000, tol=tol, top_n=k)
    return np.array(values), count


def torch_unit(model: Any, data: list) -> tuple[Callable, Callable]:
    """PyTorch's own gradient and Hessian-vector product over the data, by double backward."""
    import torch
    from torch import nn

    loss, parameters = nn.CrossEntropyLoss(), list(model.parameters())
    vector = [torch.randn_like(p) for p in parameters]
    total = sum(len(y) for _, y in data)

    def gradient() -> None:
        for x, y in data:
            torch.autograd.grad(loss(model(x), y) * len(y) / total, parameters)

    def product() -> None:
        for x, y in data:
            value = loss(model(x), y) * len(y) / total
            slope = torch.autograd.grad(value, parameters, create_graph=True)
            torch.autograd.grad(slope, parameters, grad_outputs=vector)

    return gradient, product


def measure(net: str, rounds: int, host: list) -> dict[str, Any]:
    """All figures of one network."""
    init, apply = NETS[net]

    def loss(params: Any, batch: Any) -> jax.Array:
        logits = apply(params, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    batches = jax.device_put(host)
    params = train(loss, init(np.random.default_rng(0)), batches)
    op = landscape.hessian(loss, params, batches)
    vector = op.space.normal(jax.random.key(0))
    slope = jax.jit(jax.grad(loss))

    def gradient() -> None:
        for batch in batches:
            jax.block_until_ready(slope(params, batch))

    units = {"gradient": gradient, "product": lambda: jax.block_until_ready(op.apply(vector))}
    unit = interleave(units, reference="gradient", rounds=5 * rounds)
    twin = torch_twin(net, params, host)
    if twin:
        # Apart: two libraries in turn disturb each other's threads, by 10 % of a product.
        units["torch gradient"], units["torch product"] = torch_unit(*twin)
        unit |= interleave(units, reference="gradient", rounds=2 * rounds + 1) | unit
    print(f"\n{net}: {op.size} parameters\n{table(unit)}", flush=True)

    exact = landscape.eigh_topk(op, jax.random.key(9), 5, tol=1e-6).values
    print(f"leading eigenvalues {exact}", flush=True)
    found: dict[str, dict[str, Any]] = {}

    def contestant(name: str, run: Callable[[int], tuple[np.ndarray, int]]) -> Callable[[], None]:
        def timed() -> None:
            record = found.setdefault(name, {"matvecs": [], "errors": []})
            values, count = run(len(record["matvecs"]))
            record["matvecs"].append(count)
            record["errors"].append(float(np.max(np.abs(values / exact - 1))))

        return timed

    def own(index: int) -> tuple[np.ndarray, int]:
        # A new start each time: the count depends on it a little.
        pairs = landscape.eigh_topk(op, jax.random.key(index), 5, tol=1e-4)
        assert pairs.converged.all()
        return pairs.values, pairs.num_matvecs

    solvers = {"gapjax": contestant("gapjax", own)}
    if twin and _installed("curvlinops-for-pytorch"):
        solvers["curvlinops"] = contestant("curvlinops", lambda _: curvlinops_top(*twin, 5, 1e-4))
    solved = interleave(solvers, reference="gapjax", rounds=rounds, warmup=0)
    for tol in PYHESSIAN_TOLERANCES if twin and _installed("pyhessian") else ():
        name = f"PyHessian, tol {tol:g}"
        pair = {
            "gapjax": solvers["gapjax"],
            name: contestant(name, lambda _, tol=tol: pyhessian_top(*twin, 5, tol)),
        }
        solved[name] = interleave(pair, reference="gapjax", rounds=1, warmup=0)[name]
    print(table(solved))
    for name, record in found.items():
        print(f"{name}: matvecs {record['matvecs']}, largest error {max(record['errors']):.1e}")
    return {
        "parameters": op.size,
        "examples": sum(len(y) for _, y in host),
        "unit": {name: t._asdict() for name, t in unit.items()},
        "top-5": {name: t._asdict() | found[name] for name, t in solved.items()},
    }


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Runs the benchmark and keeps its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=900)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    packages = ("torch", "curvlinops-for-pytorch", "pyhessian")
    versions = {p: importlib.metadata.version(p) for p in packages if _installed(p)}
    begun = time.perf_counter()
    host = digits(arguments.examples, arguments.batch)
    figures: dict[str, Any] = {"versions": versions}
    for net in arguments.nets:
        figures[net] = measure(net, arguments.rounds, host)
        path = keep("landscape", figures)
    print(f"\n{time.perf_counter() - begun:.0f} s; figures in {path}")


if __name__ == "__main__":
    main()
