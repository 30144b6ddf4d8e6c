"""Training as dynamics: the pullback of a step, rows without a gradient, weights by index, costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.control import trees
from tests.control.small import small
from tests.oracles import OPTIMIZERS, classifier, relative_error

ROWS, SEEN, WIDTH, STEPS = 7, 4, 3, 6


def random_like(tree, seed=5):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), tree)


# The pullback


@pytest.mark.parametrize(("optimizer", "remat"), [*((name, False) for name in OPTIMIZERS), ("adamw", True)])
def test_pullback_equals_the_transposed_derivative_of_the_step(float64, optimizer, remat):
    """At a state a few steps into the run, for a random covector, against reverse mode through the whole step."""
    plant = classifier(4)
    dynamics = pmp.training_dynamics(plant.losses, OPTIMIZERS[optimizer](), remat=remat)
    state = dynamics.init(plant.params)
    step = jax.jit(dynamics.step)
    for t in range(3):
        state = step(state, plant.weights[t], jax.tree.map(lambda leaf, t=t: leaf[t], plant.batches))
    control, input = plant.weights[3], jax.tree.map(lambda leaf: leaf[3], plant.batches)
    differentiable, static = trees.partition(state)
    covector = random_like(differentiable)

    @jax.jit
    def both(differentiable, control):
        following, vjp = jax.vjp(
            lambda m, u: trees.partition(dynamics.step(trees.combine(m, static), u, input))[0], differentiable, control
        )
        found, pull = dynamics.pullback(trees.combine(differentiable, static), control, input)
        pulled = pull(covector)
        _, along = jax.jvp(lambda p: plant.losses(p, input), (differentiable.params,), (pulled.gradient_cotangent,))
        return (following, *vjp(covector)), (trees.partition(found)[0], pulled.state, pulled.control), along

    expected, found, along = both(differentiable, control)
    for a, b in zip(found, expected, strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        assert relative_error(a, b) < 1e-12
    # The derivative in an example's weight is <gradient_cotangent, grad l_n>.
    assert relative_error(along, expected[2]) < 1e-12


def test_the_step_is_the_optimizer_on_the_weighted_loss(float64):
    plant, optimizer = small(), optax.adamw(1e-2, weight_decay=0.1)
    dynamics = pmp.training_dynamics(plant.losses, optimizer)
    state = dynamics.init(plant.x0.params)
    batch, weights = jax.tree.map(lambda leaf: leaf[0], plant.batches), plant.weights[0]
    gradient = jax.grad(lambda p: jnp.vdot(weights, plant.losses(p, batch)))(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    following = dynamics.step(state, weights, batch)
    assert relative_error(following.params, optax.apply_updates(state.params, updates)) < 1e-14
    assert relative_error(following.opt_state, opt_state) < 1e-14


def test_multi_steps_is_taken_as_it_is():
    plant = small(2, dtype=np.float32)
    rule = optax.MultiSteps(optax.sgd(0.1), 2)
    state, transformed = (
        pmp.training_dynamics(plant.losses, r).init(plant.x0.params) for r in (rule, rule.gradient_transformation())
    )
    assert jax.tree.structure(state) == jax.tree.structure(transformed)


# Rows without a gradient


def embedded(optimizer):
    """Losses that look up rows of a table. Training sees the first rows only, the desired loss the next one too.

    Returns (problem, x0, controls, inputs) with the whole table in the parameters, and the same with the rows that
    training never sees held outside, as constants.
    """
    random = np.random.default_rng(2)
    table, out = random.normal(size=(ROWS, WIDTH)), random.normal(size=WIDTH)
    # Every seen row is in every batch, with another partner each time.
    ids = np.stack([np.stack([random.permutation(SEEN), random.permutation(SEEN)], axis=1) for _ in range(STEPS)])
    targets, controls = random.normal(size=(STEPS, 4)), random.dirichlet(np.ones(4), size=STEPS)
    desired_ids, desired_targets = np.array([[0, 1], [2, SEEN]]), random.normal(size=2)

    def problem(whole_table):
        def losses(params, batch):
            rows = whole_table(params)[batch[0]]
            return jnp.square(jnp.tanh(rows[:, 0] * rows[:, 1]) @ params["out"] - batch[1])

        dynamics = pmp.training_dynamics(losses, optimizer)
        cost = pmp.area_under(lambda params: losses(params, (desired_ids, desired_targets)).mean())
        return pmp.Problem(dynamics, cost)

    inputs = (jnp.asarray(ids), jnp.asarray(targets))
    whole = problem(lambda params: params["table"])
    part = problem(lambda params: jnp.concatenate([params["table"], jnp.asarray(table[SEEN:])]))
    return (
        (whole, whole.dynamics.init({"table": table, "out": out}), jnp.asarray(controls), inputs),
        (part, part.dynamics.init({"table": table[:SEEN], "out": out}), jnp.asarray(controls), inputs),
    )


ADAMS = {
    "adam": lambda: optax.adam(1e-2),
    "clipped adam": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2)),
    "adam in multi-step": lambda: optax.MultiSteps(optax.adam(1e-2), 2),
    "rmsprop": lambda: optax.rmsprop(1e-2),
}


@pytest.mark.parametrize("optimizer", ADAMS)
def test_rows_that_training_never_sees_do_not_matter(float64, optimizer):
    """The same as if they were constants outside; nothing was left out, for no example has a gradient there."""
    whole, part = embedded(ADAMS[optimizer]())
    observe = {"gradient": obs.control_gradient, "cotangent": lambda point: point.gradient_cotangent}

    def sweep(problem, x0, controls, inputs):
        run = jax.jit(lambda u: pmp.costate(problem, x0, u, inputs, adjoint=pmp.StoreAll(), observe=observe))
        return run(controls)

    found, expected = sweep(*whole), sweep(*part)
    assert int(found.health.status) == pmp.Status.OK
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((found.costate, found.seen)))
    assert relative_error(found.value, expected.value) < 1e-14
    assert relative_error(found.seen["gradient"], expected.seen["gradient"]) < 1e-12
    assert relative_error(found.seen["cotangent"]["table"][:, :SEEN], expected.seen["cotangent"]["table"]) < 1e-12
    if optimizer != "rmsprop":  # whose epsilon under the root gives these rows a slope
        assert np.all(found.seen["cotangent"]["table"][:, SEEN:] == 0.0)
    assert not any(int(n) for n in found.health.singular.values()) and "left out" not in found.health.describe()
    if optimizer == "adam":
        problem, x0, controls, inputs = part
        by_autodiff = jax.jit(jax.grad(lambda u: pmp.objective(problem, x0, u, inputs)))(controls)
        assert relative_error(expected.seen["gradient"], by_autodiff) < 1e-10


def test_what_is_left_out_is_counted_by_leaf_and_only_then(float64):
    """An example of weight zero alone sees a row before Adam has: that is left out, unless eps_root is set."""
    counts = {}
    for name, optimizer in {"adam": optax.adam(1e-2), "rooted": optax.adam(1e-2, eps_root=1e-6)}.items():
        problem, x0, controls, inputs = embedded(optimizer)[0]
        ids = inputs[0].at[0, 0].set(SEEN)
        weights = controls.at[0, 0].set(0.0)
        sweep = pmp.costate(
            problem, x0, weights, (ids, inputs[1]), adjoint=pmp.StoreAll(), observe=obs.control_gradient
        )
        counts[name] = {leaf: int(n) for leaf, n in sweep.health.singular.items()}
        assert np.all(np.isfinite(sweep.seen))
        assert ("['table']" in sweep.health.describe()) == (name == "adam")
    assert counts == {"adam": {"table": WIDTH, "out": 0}, "rooted": {"table": 0, "out": 0}}


def test_rules_without_singular_points_count_nothing(float64):
    problem, x0, controls, inputs = embedded(optax.sgd(0.01, momentum=0.9))[0]
    health = pmp.costate(problem, x0, controls, inputs, adjoint=pmp.StoreAll()).health
    assert health.singular is None and "left out" not in health.describe()


def test_a_warm_optimizer_state_needs_no_care(float64):
    """Plain Adam from moments gathered before: nothing is left out, and autodiff agrees."""
    plant = small(6, optimizer=optax.adam(1e-2))
    before = pmp.rollout(plant.problem, plant.x0, plant.weights, plant.batches).final
    x0 = plant.x0._replace(opt_state=before.opt_state)
    sweep = jax.jit(
        lambda u: pmp.costate(plant.problem, x0, u, plant.batches, adjoint=pmp.StoreAll(), observe=obs.control_gradient)
    )(plant.weights)
    expected = jax.jit(jax.grad(lambda u: pmp.objective(plant.problem, x0, u, plant.batches)))(plant.weights)
    assert relative_error(sweep.seen, expected) < 1e-12
    assert int(sweep.health.singular["unit"]) == 0


# Weights


def test_uniform_sums_to_one_over_the_last_axis():
    weights = pmp.uniform(3, 8)
    assert weights.shape == (3, 8) and np.all(weights == 0.125)
    assert pmp.uniform(5).shape == (5,)
    assert float(pmp.prox.simplex.violation(weights)) == 0.0


def test_weights_by_index_are_scaled_to_the_mean_loss(float64):
    """L_t = (N / B) sum_{i in index} u_i l_i, an instance drawn twice counting twice."""
    plant = small()
    index = jnp.array([3, 0, 3, 7])
    batch = jax.tree.map(lambda leaf: leaf[index], plant.instances)

    def losses(params, input):
        return plant.losses(params, input[0])

    indexed = pmp.training_dynamics(losses, optax.sgd(1.0), index=lambda input: input[1])
    state = indexed.init(plant.x0.params)
    weights = jax.nn.softmax(jnp.arange(9.0))
    each = jax.jacfwd(plant.losses)(state.params, batch)["unit"]
    by_hand = state.params["unit"] - (9 / 4) * sum(weights[i] * each[n] for n, i in enumerate(index))
    found = indexed.step(state, weights, (batch, index)).params["unit"]
    np.testing.assert_allclose(found, by_hand, rtol=1e-13)
    mean = state.params["unit"] - jnp.mean(each, axis=0)
    np.testing.assert_allclose(indexed.step(state, pmp.uniform(9), (batch, index)).params["unit"], mean, rtol=1e-13)


# Costs


def test_area_under_is_a_plain_sum_and_terminal_loss_its_last_term(float64):
    plant = small(5)
    curve = pmp.rollout(
        plant.problem, plant.x0, plant.weights, plant.batches, record=lambda x: plant.desired(x.params)
    ).record
    assert curve.shape == (6,)
    area = pmp.objective(plant.problem, plant.x0, plant.weights, plant.batches)
    assert relative_error(area, jnp.sum(curve)) < 1e-15
    last = plant.problem._replace(cost=pmp.terminal_loss(plant.desired))
    assert relative_error(pmp.objective(last, plant.x0, plant.weights, plant.batches), curve[-1]) < 1e-15
    # A desired batch a step; at T the last one serves again.
    scaled = pmp.area_under(lambda params, input: input[1] * plant.desired(params))
    dynamics = pmp.training_dynamics(lambda params, input: plant.losses(params, input[0]), optax.sgd(0.1))
    problem = pmp.Problem(dynamics, scaled)
    inputs = (plant.batches, jnp.arange(1.0, 6.0))
    expected = jnp.vdot(curve, jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 5.0]))
    assert relative_error(pmp.objective(problem, plant.x0, plant.weights, inputs), expected) < 1e-14
