import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape, training
from gapjax.landscape._data import _move_mean
from tests.landscape import networks
from tests.loaders import refilled


@pytest.fixture(scope="module")
def exact():
    params, batch = networks.make()
    return networks.dense(networks.loss, params, batch)


@pytest.fixture(scope="module")
def problem():
    params, batch = networks.make()
    return params, batch, networks.split(batch, 40)


def test_hessian_is_exact_with_a_ragged_last_batch(problem, exact):
    params, _, batches = problem
    assert [len(b["y"]) for b in batches] == [40, 40, 10]
    op = landscape.hessian(networks.loss, params, batches)
    assert op.size == len(exact)
    # Four roundings of float32; seen: 2.5 of them with jax 0.10, 3.1 with 0.12.
    atol = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    np.testing.assert_allclose(networks.matrix_of(op), exact, atol=atol)


def test_a_callable_serves_as_data_and_weights_can_be_given(problem):
    params, batch, batches = problem
    op = landscape.hessian(networks.loss, params, lambda: iter(batches))
    v = jax.tree.map(jnp.ones_like, params)
    one = landscape.hessian(networks.loss, params, [batch]) @ v
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), op @ v, one)
    skewed = landscape.hessian(
        networks.loss, params, batches, weight_fn=lambda b: float(len(b["y"]) == 10)
    )
    last = landscape.hessian(networks.loss, params, batches[2:])
    jax.tree.map(np.testing.assert_array_equal, skewed @ v, last @ v)


def test_a_batch_weighs_by_the_axis_that_its_leaves_share():
    def loss(w, batch):
        x, mask = batch["x"], batch.get("mask", jnp.ones(len(batch["x"])))
        return jnp.sum(mask * (x @ w) ** 2) / jnp.sum(mask)

    x = jnp.arange(12.0).reshape(6, 2)
    exact = landscape.hessian(loss, jnp.ones(2), [{"x": x[:5]}]) @ jnp.ones(2)
    masks = jnp.array([[1.0, 1, 1, 0], [1, 1, 0, 0]])
    rows = [jnp.stack([x[0], x[1], x[2], x[5]]), jnp.stack([x[3], x[4], x[5], x[5]])]
    masked = [{"x": r, "mask": m} for r, m in zip(rows, masks, strict=True)]
    np.testing.assert_allclose(
        landscape.hessian(loss, jnp.ones(2), masked) @ jnp.ones(2), exact, rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"batch\['a'\] has shape \(2,\)"):
        landscape.hessian(loss, jnp.ones(2), [{"a": jnp.ones(2), "x": x, "y": x}])
    mixed = [{"a": jnp.ones(2), "x": x}]
    landscape.hessian(loss, jnp.ones(2), mixed, weight_fn=lambda batch: len(batch["x"]))


def test_a_list_is_weighed_once_for_all_passes(problem):
    params, _, batches = problem
    weighed = []

    def weight_fn(batch):
        weighed.append(batch)
        return len(batch["y"])

    op = landscape.hessian(networks.loss, params, batches, weight_fn=weight_fn)
    landscape.eigh_topk(op, jax.random.key(0), 1, progress=False)
    assert len(weighed) == len(batches)
    weighed.clear()
    landscape.sam_sharpness(networks.loss, params, batches, weight_fn=weight_fn, progress=False)
    assert len(weighed) == len(batches)


def test_float64_keeps_its_digits_over_batches():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(10, 3)), rng.normal(size=3)

    def loss(w, batch):
        return jnp.mean(jnp.tanh(batch @ w) ** 2)

    with jax.enable_x64(True):
        exact = np.asarray(jax.hessian(loss)(jnp.asarray(w), jnp.asarray(x)))
        batches = [x[:3], x[3:7], x[7:]]
        for data in (batches, lambda: iter(batches)):
            op = landscape.hessian(loss, jnp.asarray(w), data)
            np.testing.assert_allclose(networks.matrix_of(op), exact, rtol=0, atol=1e-12)


def test_ggn_equals_the_exact_fisher_and_both_the_dense_one(problem):
    params, batch, batches = problem
    g = networks.matrix_of(landscape.ggn(networks.apply, networks.output_loss, params, batches))
    f = networks.matrix_of(landscape.fisher(networks.apply, params, batches))
    at = jax.tree.map(jnp.asarray, params)

    def linearized_loss(p, b):
        # The network as a linear map around `at`: its Hessian is the Gauss-Newton matrix.
        base = jax.tree.map(lambda a, like: a.astype(like.dtype), at, p)
        step = jax.tree.map(jnp.subtract, p, base)
        out, push = jax.jvp(lambda q: networks.apply(q, b), (base,), (step,))
        return networks.output_loss(out + push, b)

    exact = networks.dense(linearized_loss, params, batch)
    np.testing.assert_allclose(g, exact, atol=1e-6)
    np.testing.assert_allclose(f, exact, atol=1e-6)
    assert np.linalg.eigvalsh(exact).min() > -1e-12


def test_empirical_fisher_is_the_mean_outer_product(problem):
    params, batch, batches = problem
    op = landscape.fisher(
        networks.apply, params, batches, kind="empirical", output_loss=networks.output_loss
    )
    rows = [op.ravel(jax.grad(networks.loss)(params, b)) for b in networks.split(batch, 1)]
    rows = np.asarray(jnp.stack(rows), np.float64)
    np.testing.assert_allclose(networks.matrix_of(op), rows.T @ rows / len(rows), atol=1e-6)


def _masked_loss(outputs, batch):
    mask = batch["mask"].astype(outputs.dtype)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][..., None], -1)[..., 0]
    return -jnp.sum(mask * log_p) / jnp.sum(mask)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
@pytest.mark.parametrize("output_loss", [networks.output_loss, _masked_loss])
def test_fisher_is_that_of_the_examples_that_count(problem, kind, output_loss):
    params, batch, _ = problem
    real, more = (jax.tree.map(lambda a, s=s: a[s], batch) for s in (slice(0, 2), slice(2, 7)))
    padded = jax.tree.map(lambda a: np.concatenate([a[:2], a[50:52]]), batch)
    mask = np.array([True, True, False, False])

    def matrix(*batches, loss):
        op = landscape.fisher(networks.apply, params, batches, kind=kind, output_loss=loss)
        return networks.matrix_of(op)

    expected = matrix(real, more, loss=networks.output_loss)
    found = matrix({**padded, "mask": mask}, {**more, "mask": np.ones(5, bool)}, loss=output_loss)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("mask", [[[1, 1, 0], [1, 0, 0]], [1, 0], [2, 1]])
def test_fisher_of_examples_in_parts(mask):
    mask = np.array(mask, np.float32)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(4, 5)) / 2
    batch = {"x": x, "y": rng.integers(0, 5, (2, 3)), "mask": mask}

    def apply(w, batch):
        return batch["x"] @ w

    def loss(outputs, batch):
        mask = jnp.broadcast_to(batch["mask"].reshape(len(outputs), -1), batch["y"].shape)
        return _masked_loss(outputs, {**batch, "mask": mask})

    w = jnp.asarray(w, jnp.float32)
    # Of cross entropy the exact one is the Gauss-Newton matrix of the masked loss.
    exact = networks.matrix_of(landscape.ggn(apply, loss, w, [batch]))
    found = networks.matrix_of(landscape.fisher(apply, w, [batch]))
    np.testing.assert_allclose(found, exact, atol=1e-6)
    ones = [jax.tree.map(lambda a, i=i: a[i : i + 1], batch) for i in range(2)]
    rows = [np.ravel(jax.grad(lambda w, b: loss(apply(w, b), b))(w, one)) for one in ones]
    weights = mask.reshape(2, -1).sum(axis=1)
    expected = sum(n * np.outer(r, r) for n, r in zip(weights, rows, strict=True) if n)
    op = landscape.fisher(apply, w, [batch], kind="empirical", output_loss=loss)
    np.testing.assert_allclose(networks.matrix_of(op), expected / weights.sum(), atol=1e-6)


def test_where_gives_the_diagonal_block(problem, exact):
    params, _, batches = problem
    op = landscape.hessian(
        networks.loss, params, batches, where=lambda path, leaf: path.endswith("kernel")
    )
    names = ["first/bias", "first/kernel", "second/bias", "second/kernel"]
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    keep = np.repeat([name.endswith("kernel") for name in names], sizes)
    np.testing.assert_allclose(networks.matrix_of(op), exact[np.ix_(keep, keep)], atol=1e-6)
    product = op @ params
    assert not product["first"]["bias"].any()
    assert product["first"]["kernel"].any()


def test_equal_products_share_one_program(problem):
    params, _, _ = problem
    batches = networks.split(networks.make(3, examples=66)[1], 22)

    def scaled(scale, p, batch):
        return scale * networks.loss(p, batch)

    def products(scale):
        loss = jax.tree_util.Partial(scaled, jnp.float32(scale))
        op = landscape.hessian(loss, params, batches, check=False)
        return jax.tree.leaves(op @ params)[0]

    before = _move_mean._cache_size()
    one, two = products(1.0), products(2.0)
    np.testing.assert_allclose(2 * one, two, rtol=1e-6)
    assert _move_mean._cache_size() == before + 1


def test_sharded_batches_give_the_same_with_one_sum(problem):
    params, _, _ = problem
    batches = networks.split(networks.make(1, examples=64)[1], 32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    sharded = [jax.device_put(batch, sharding) for batch in batches]
    plain = landscape.hessian(networks.loss, params, batches)
    spread = landscape.hessian(networks.loss, params, sharded)
    one, other = (op.ravel(op @ params) for op in (plain, spread))
    np.testing.assert_allclose(one, other, atol=1e-6)
    pairs = landscape.eigh_topk(spread, jax.random.key(0), 2)
    same = landscape.eigh_topk(plain, jax.random.key(0), 2)
    np.testing.assert_allclose(pairs.values, same.values, rtol=1e-5)
    from gapjax.landscape._data import as_partial
    from gapjax.landscape._products import ForwardOverReverse

    program = _move_mean.lower(
        ForwardOverReverse(plain.space),
        plain.space.zeros(),
        np.float32(1),
        sharded[0],
        as_partial(networks.loss),
        params,
        plain.space.vector(params),
    ).compile()
    assert set(training.inspect_program(program).by_kind()) == {"all-reduce"}


def test_parameters_stay_bit_identical(problem):
    params, _, batches = problem
    before = jax.tree.map(lambda leaf: np.array(leaf), params)
    op = landscape.hessian(networks.loss, params, batches)
    landscape.eigh_topk(op, jax.random.key(0), 2)
    landscape.spectral_density(op, jax.random.key(0), num_probes=2, num_steps=5)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def _dropout(rng):
    def loss(params, batch):
        mask = jnp.asarray(rng.random(batch["x"].shape) < 0.5, jnp.float32)
        return networks.loss(params, {**batch, "x": batch["x"] * mask})

    return loss


def test_a_loss_that_changes_is_refused_by_name(problem):
    params, batch, batches = problem
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="dropout"):
        landscape.hessian(_dropout(rng), params, batches)
    with pytest.raises(ValueError, match=r"dropout.*batch statistics"):
        landscape.hessian(_dropout(rng), params, lambda: batches)

    def shuffled():
        order = rng.permutation(len(batch["y"]))
        return networks.split(jax.tree.map(lambda a: a[order], batch), 40)

    with pytest.raises(ValueError, match="shuffled"):
        landscape.hessian(networks.loss, params, shuffled)
    landscape.hessian(networks.loss, params, shuffled, check=False)
    once = iter(batches)
    with pytest.raises(ValueError, match=r"yielded|no batch"):
        landscape.hessian(networks.loss, params, lambda: once)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_loss_that_changes_is_refused_at_any_size(scale):
    calls = []

    def loss(w, batch):
        calls.append(1)
        return scale * len(calls) * jnp.mean(w * batch)

    with pytest.raises(ValueError, match="two passes differ on the same data"):
        landscape.hessian(loss, jnp.ones(2), [jnp.ones(2)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batch"),
        (lambda: iter([]), "no batch"),
        ({"x": np.zeros((3, 2))}, r"data=\[batch\]"),
        (np.zeros((3, 2)), r"data=\[batch\]"),
        (iter([1]), "empty after one pass"),
        (3, "sequence of batches"),
    ],
)
def test_bad_data_is_refused(problem, data, message):
    with pytest.raises(ValueError, match=message):
        landscape.hessian(networks.loss, problem[0], data)


def test_bad_losses_parameters_and_trees_are_refused(problem):
    params, _, batches = problem
    with pytest.raises(ValueError, match=r"scalar, not shape \(40,\)"):
        landscape.hessian(lambda p, b: networks.apply(p, b).sum(1), params, batches)
    with pytest.raises(ValueError, match="auxiliary"):
        landscape.hessian(lambda p, b: (networks.loss(p, b), {}), params, batches)
    with pytest.raises(ValueError, match="first/kernel"):
        landscape.hessian(networks.loss, params, batches, where=lambda path, leaf: False)
    with pytest.raises(ValueError, match="no array of floating point numbers: count is int32"):
        landscape.hessian(networks.loss, {"count": jnp.arange(3)}, batches)
    with pytest.raises(ValueError, match="z is complex64"):
        landscape.hessian(networks.loss, {"x": jnp.ones(2), "z": jnp.ones(2, complex)}, batches)
    with pytest.raises(ValueError, match="numbers: no array"):
        landscape.hessian(networks.loss, {}, batches)
    with pytest.raises(ValueError, match="weight"):
        landscape.hessian(networks.loss, params, batches, weight_fn=lambda b: -1)
    with pytest.raises(ValueError, match="weight 0"):
        landscape.hessian(
            networks.loss, params, batches, weight_fn=lambda b: 0, check=False
        ) @ params
    with pytest.raises(ValueError, match="needs the gradient"):
        landscape.fisher(networks.apply, params, batches, kind="empirical")
    op = landscape.hessian(networks.loss, params, batches)
    with pytest.raises(ValueError, match="'second/bias'"):
        op @ {"first": params["first"], "second": {"kernel": params["second"]["kernel"]}}
    with pytest.raises(ValueError, match=r"'first/bias'.*\(10,\)"):
        op @ jax.tree.map(lambda leaf: leaf[:-1], params)
    bad = landscape.from_matvec(lambda v: {"other": v["w"]}, {"w": jnp.zeros(2)})
    with pytest.raises(ValueError, match="'w'"):
        bad @ {"w": jnp.zeros(2)}


def test_what_is_not_finite_is_traced_to_its_batch(problem):
    params, _, batches = problem
    broken = [batches[0], {**batches[1], "x": batches[1]["x"] * np.float32(np.nan)}]
    with pytest.raises(FloatingPointError, match="batch 1"):
        landscape.hessian(networks.loss, params, broken)

    def kinked(p, b):
        # Finite, with a second derivative that is not, at the inputs that are zero.
        return jnp.mean(jnp.abs(b["x"] @ p["first"]["kernel"]) ** 1.5)

    zeros = [batches[0], {**batches[1], "x": np.zeros_like(batches[1]["x"])}]
    op = landscape.hessian(kinked, params, zeros)
    with pytest.raises(FloatingPointError, match="product of batch 1"):
        op @ params
    with pytest.raises(FloatingPointError, match="not finite"):
        landscape.from_matvec(lambda v: v / 0, jnp.ones(2)) @ jnp.ones(2)


def test_data_may_come_in_one_buffer_that_is_filled_again():
    def loader():
        return ({"x": x} for x in refilled(64, range(6)))

    def loss(w, batch):
        late = batch["x"]
        for _ in range(50):  # takes longer than the loader does
            late = jnp.tanh(late @ late)
        return jnp.sum(w**2) * (jnp.mean(batch["x"]) + 0 * late[0, 0]) / 2

    found = landscape.hessian(loss, jnp.ones(3), loader) @ jnp.ones(3)
    np.testing.assert_allclose(found, np.full(3, 2.5), rtol=1e-6)
