import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gapjax import training


class Text:
    """A compiled program of which only the text is known."""

    def __init__(self, text):
        self.as_text = lambda: text

    def memory_analysis(self):
        return None


def _compile(function, *specs):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in specs
    ]
    return jax.jit(function).lower(*arguments).compile()


def test_memory_is_that_of_one_device():
    program = training.inspect_program(
        _compile(lambda x, w: x @ w, ((64, 16), "float32", P("data")), ((16, 4), "float32", P()))
    )
    assert program.memory.arguments == 4 * (8 * 16 + 16 * 4)
    assert program.memory.outputs == 4 * 8 * 4
    assert program.memory.peak >= program.memory.arguments + program.memory.outputs
    assert program.collectives == ()


def test_reductions_are_counted_with_their_bytes_and_loops_told():
    def function(w, x):
        def body(_, w):
            return w - x.T @ jnp.tanh(x @ w)

        return jax.lax.fori_loop(0, 3, body, w), x.sum()

    compiled = _compile(function, ((16, 4), "float32", P()), ((64, 16), "float32", P("data")))
    program = training.inspect_program(compiled)
    assert program.by_kind() == {"all-reduce": (2, 4 * 16 * 4 + 4)}
    assert {(c.arrays, c.in_loop) for c in program.collectives} == {
        ((("f32", (16, 4)),), True),
        ((("f32", ()),), False),
    }


def test_gathers_are_counted_at_their_full_size():
    compiled = _compile(lambda x: jnp.sort(x, axis=0), ((64, 3), "int32", P("data")))
    kinds = training.inspect_program(compiled).by_kind()
    assert kinds == {"all-gather": (1, 4 * 64 * 3)}


# Forms that other backends print: asynchronous pairs, tuples, tiled layouts, small types.
ACCELERATOR = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b), metadata={op_name="jit(step) all-gather(x)"}
}

%wrapped (p: bf16[64,32]) -> bf16[8,32] {
  ROOT %reduce-scatter.3 = bf16[8,32]{1,0:T(8,128)(2,1)S(1)} reduce-scatter(%p), dimensions={0}
}

%inner (c: f32[8]) -> f32[8] {
  ROOT %all-reduce.2 = f32[8]{0} all-reduce(%c), to_apply=%add
}

%body (c: f32[8]) -> f32[8] {
  ROOT %call.1 = f32[8]{0} call(%c), to_apply=%inner
}

%cond (c: f32[8]) -> pred[] {
  ROOT %less = pred[] compare(%c, %c), direction=LT
}

ENTRY %main (x: f32[8]) -> (f32[8]) {
  %all-gather-start = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%x), dimensions={0}
  %all-gather-done = f32[32,8]{1,0} all-gather-done(%all-gather-start)
  %both = (f32[10]{0}, /*index=1*/pred[3]{0}) all-reduce(%x, %y), to_apply=%add
  %start = ((bf16[64,32]), bf16[8,32]) async-start(%x), calls=%wrapped
  %loop = f32[8]{0} while(%x), condition=%cond, body=%body
  %switch = f32[8]{0} conditional(%i, %x, %x), branch_computations={%inner, %inner}
  ROOT %exchange = c64[2,2]{1,0} collective-permute(%z), source_target_pairs={{0,1},{1,0}}
}
"""


def test_text_of_accelerators():
    program = training.inspect_program(Text(ACCELERATOR))
    assert program.memory is None
    assert [(c.kind, c.bytes, c.in_loop) for c in program.collectives] == [
        ("reduce-scatter", 2 * 8 * 32, False),
        ("all-reduce", 4 * 8, True),
        ("all-gather", 4 * 32 * 8, False),
        ("all-reduce", 4 * 10 + 3, False),
        ("collective-permute", 8 * 4, False),
    ]
    assert program.collectives[3].arrays == (("f32", (10,)), ("pred", (3,)))
    assert str(program).splitlines() == [
        "reduce-scatter: 1 of 512 B together",
        "all-reduce: 2 of 75 B together",
        "all-gather: 1 of 1.0 KiB together",
        "collective-permute: 1 of 32 B together",
    ]


def test_what_is_not_compiled_is_refused():
    lowered = jax.jit(jnp.sin).lower(1.0)
    with pytest.raises(ValueError, match=r"this is a Lowered: call its .compile\(\) first"):
        training.inspect_program(lowered)
    with pytest.raises(ValueError, match="this is a str"):
        training.inspect_program("all-reduce")
