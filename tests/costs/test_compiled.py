"""What a compiled program is said to need, against programs whose needs are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.costs.compiled import Traffic, collectives, matrix_product_flops, memory

TEXT = """HloModule jit_f
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}
%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %g = f32[4,8]{1,0} all-gather(%x), channel_id=1, dimensions={0}, metadata={op_name="a/all-reduce(b"}
}
%condition (p: (s32[], f32[4])) -> pred[] {
  ROOT %l = pred[] compare(%i, %n), direction=LT
}
%outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %w = (s32[], f32[4]) while(%t), condition=%condition, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %r = (f32[2]{0}, /*index=1*/bf16[2,2]{1,0}) all-reduce(%g, %h), to_apply=%add
}
%costly (p: f32[4]) -> f32[4] {
  ROOT %a = f32[10]{0} all-to-all(%p), dimensions={0}
}
%idle (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}
ENTRY %main.1 (p: f32[4]) -> f32[4] {
  %v = (s32[], f32[4]) while(%t), condition=%condition, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
  %u = (s32[], f32[4]) while(%t), condition=%condition, body=%inner
  %c = f32[4]{0} conditional(%pred, %x, %y), branch_computations={%idle, %costly}
  %n = ((f32[4]{0}), (f32[16]{0})) all-gather-start(%p), dimensions={0}
  %d = f32[16]{0} all-gather-done(%n)
  ROOT %f = f32[4]{0} fusion(%d), kind=kLoop, calls=%idle
}
"""


def test_collectives_are_counted_as_often_as_they_run():
    found = collectives(TEXT, branch=0.1, rounds=4.0)
    # 5 x 3 in the nested loops, 4 in the loop of unknown length, once as an asynchronous pair.
    assert found["all-gather"] == Traffic(20, 19 * 128 + 64)
    assert found["all-reduce"] == Traffic(5, 5 * (8 + 8))
    assert found["all-to-all"] == Traffic(0.1, 4.0)
    assert set(found) == {"all-gather", "all-reduce", "all-to-all"}
    assert collectives("") == {}


def test_memory_is_that_of_the_program():
    matrix = jax.ShapeDtypeStruct((64, 32), np.float32)
    compiled = jax.jit(lambda a, b: jnp.sin(a @ b.T) @ a).lower(matrix, matrix).compile()
    found = memory(compiled)
    assert found.arguments == 2 * 64 * 32 * 4 and found.output == 64 * 32 * 4
    assert found.temporary >= 64 * 64 * 4 and found.total == sum(found)


def test_products_are_counted_as_often_as_they_run():
    length, width, product = 7, 32, 2 * 8 * 32 * 32

    def function(matrix, rows):
        after, _ = jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ matrix), None), rows, None, length=length)
        return jnp.sum(jax.lax.cond(after[0, 0] > 0, lambda: after @ matrix @ matrix, lambda: after))

    arguments = jnp.ones((width, width)), jnp.ones((8, width))
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert matrix_product_flops(text) == (length + 2) * product
    assert matrix_product_flops(text, branch=0.25) == (length + 0.5) * product
    assert matrix_product_flops("") == 0
    backward = jax.jit(jax.grad(lambda matrix, rows: jnp.sum(jnp.square(rows @ matrix)))).lower(*arguments).compile()
    assert matrix_product_flops(backward.as_text()) == 2 * product


def test_a_loop_of_unknown_length_is_refused_where_it_has_products():
    def function(matrix, rows, count):
        return jax.lax.fori_loop(0, count, lambda _, carry: jnp.tanh(carry @ matrix), rows)

    lowered = jax.jit(function).lower(jnp.ones((4, 4)), jnp.ones((2, 4)), 3)
    text = lowered.compile().as_text()
    with pytest.raises(ValueError, match="does not know how often a loop goes round"):
        matrix_product_flops(text)
    with pytest.raises(ValueError, match="does not know how often a loop goes round"):
        collectives(TEXT)
    assert matrix_product_flops(text, rounds=2.5) == 2.5 * 2 * 2 * 4 * 4
    idle = jax.jit(lambda count: jax.lax.fori_loop(0, count, lambda _, carry: carry + 1, 0)).lower(3)
    assert matrix_product_flops(idle.compile().as_text()) == 0


def test_what_an_argument_gives_its_place_to_is_no_output():
    vector = jax.ShapeDtypeStruct((1024,), np.float32)
    compiled = jax.jit(lambda x: x + 1, donate_argnums=0).lower(vector).compile()
    assert memory(compiled).output == 0
