"""Two processes with four devices each: the stream, growth and resume of one process."""

import json

import jax
import numpy as np

from gapjax.growth import GrowingBatches, piecewise_batch
from tests.processes import finish, start

PROGRAM = """
import json, sys
import jax
import numpy as np
from gapjax import training
from gapjax.growth import GrowingBatches, piecewise_batch

training.connect()
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
source = {"x": np.arange(100, dtype=np.int32)}
batches = GrowingBatches(
    source,
    piecewise_batch(16, {2: 32}),
    seed=4,
    mesh=mesh,
    microbatch=16,
    independent_examples=True,
)
batches.restore(json.loads(sys.argv[1]))
total = jax.jit(lambda batch: (batch["x"] ** 2).sum())
out = []
for _ in range(4):
    batch = next(batches)
    rows = [
        [[s.start or 0 for s in shard.index], np.asarray(shard.data).tolist()]
        for shard in batch["x"].addressable_shards
    ]
    out.append({"shape": batch["x"].shape, "rows": rows, "total": int(total(batch))})
print(json.dumps({"batches": out, "state": batches.state()}))
"""


def test_two_processes_read_one_stream():
    arguments = {"x": np.arange(100, dtype=np.int32)}, piecewise_batch(16, {2: 32})
    one = GrowingBatches(*arguments, seed=4, microbatch=16, independent_examples=True)
    next(one)
    command = ["-c", PROGRAM, json.dumps(one.state())]
    outputs = finish(start([command, command], devices=4), 120)
    for _, errors, code in outputs:
        assert code == 0, errors[-2000:]
    results = [json.loads(out) for out, *_ in outputs]
    assert results[0]["state"] == results[1]["state"]
    for number in range(4):
        expected = next(one)["x"]
        found = np.full(expected.shape, -1)
        for result in results:
            assert result["batches"][number]["shape"] == list(expected.shape)
            assert result["batches"][number]["total"] == int((expected**2).sum())
            for (row, column), values in result["batches"][number]["rows"]:
                values = np.array(values)
                block = found[row : row + values.shape[0], column : column + values.shape[1]]
                assert (block == -1).all()
                block[:] = values
        np.testing.assert_array_equal(found, expected)
    jax.tree.map(np.testing.assert_equal, results[0]["state"], one.state())
