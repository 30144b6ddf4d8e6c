"""Control gradients against autodiff over the whole grid, and LQR against Riccati."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.law import problems
from tests.control.small import small
from tests.oracles import ADJOINTS, OPTIMIZERS, classifier, products, regulator, relative_error

KINDS = ("varying", "constant", "indexed")
FEW = (pmp.Linearized(), pmp.Checkpointed(), pmp.Binomial(3))


def build(kind, optimizer, steps, dtype):
    """(problem, x0, controls, inputs) of the classifier with weights of a kind."""
    plant = classifier(steps, dtype=dtype)
    if kind == "indexed":
        dynamics = pmp.training_dynamics(
            lambda params, input: plant.losses(
                params, jax.tree.map(lambda leaf: leaf[input["index"]], plant.instances)
            ),
            optimizer,
            index=lambda input: input["index"],
        )
        index = jax.random.randint(jax.random.key(2), (steps, 4), 0, 9)  # some drawn twice, some never
        controls = jax.nn.softmax(jax.random.normal(jax.random.key(1), (9,), dtype))
        problem = pmp.Problem(dynamics, pmp.area_under(plant.desired), control_axis=None)
        return problem, dynamics.init(plant.params), controls, {"index": index}
    dynamics = pmp.training_dynamics(plant.losses, optimizer)
    axis = 0 if kind == "varying" else None
    controls = plant.weights if kind == "varying" else plant.weights[0]
    problem = pmp.Problem(dynamics, pmp.area_under(plant.desired), control_axis=axis)
    return problem, dynamics.init(plant.params), controls, plant.batches


def sweep_and_reference(problem, x0, controls, inputs, adjoint):
    sweep = jax.jit(lambda x, u: pmp.costate(problem, x, u, inputs, adjoint=adjoint, observe=obs.control_gradient))
    value, gradient = jax.jit(jax.value_and_grad(lambda u: pmp.objective(problem, x0, u, inputs)))(controls)
    return sweep(x0, controls), value, gradient


@functools.cache
def reference(optimizer, kind, steps):
    """J and its gradient by autodiff through the whole run, once for all adjoints."""
    problem, x0, controls, inputs = build(kind, OPTIMIZERS[optimizer](), steps, jnp.float64)
    return jax.jit(jax.value_and_grad(lambda u: pmp.objective(problem, x0, u, inputs)))(controls)


def check_against_autodiff(optimizer, adjoint, kind, steps):
    problem, x0, controls, inputs = build(kind, OPTIMIZERS[optimizer](), steps, jnp.float64)
    sweep = jax.jit(
        lambda u: pmp.costate(problem, x0, u, inputs, adjoint=ADJOINTS[adjoint], observe=obs.control_gradient)
    )(controls)
    value, gradient = reference(optimizer, kind, steps)
    assert sweep.seen.shape == gradient.shape
    assert relative_error(sweep.value, value) < 1e-14
    assert relative_error(sweep.seen, gradient) < 1e-12


def ordinary_grid():
    """A part of the whole grid in which every optimizer, adjoint, kind and horizon takes part."""
    yield from ((o, a, "varying", 11) for o, a in itertools.product(OPTIMIZERS, ("linearized", "checkpointed")))
    yield from (("sgd", a, kind, 11) for a, kind in itertools.product(ADJOINTS, KINDS))
    yield from ((o, "checkpointed", kind, 16) for o, kind in itertools.product(("adamw", "multi-step"), KINDS))


@pytest.mark.parametrize(("optimizer", "adjoint", "kind", "steps"), sorted(set(ordinary_grid())))
def test_gradient_equals_autodiff(float64, optimizer, adjoint, kind, steps):
    check_against_autodiff(optimizer, adjoint, kind, steps)


def whole_grid():
    """Optimizers x kinds through one adjoint, and adjoints x kinds through one optimizer; T = 16 is 3 segments of 5
    and a rest."""
    yield from ((o, "checkpointed, 5", kind, 16) for o, kind in itertools.product(OPTIMIZERS, KINDS))
    yield from (("adamw", a, kind, 16) for a, kind in itertools.product(ADJOINTS, KINDS))
    yield from (("multi-step", a, "varying", 11) for a in ADJOINTS)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "adjoint", "kind", "steps"), sorted(set(whole_grid()) - set(ordinary_grid())))
def test_gradient_equals_autodiff_over_the_whole_grid(float64, optimizer, adjoint, kind, steps):
    check_against_autodiff(optimizer, adjoint, kind, steps)


@pytest.mark.parametrize(("optimizer", "adjoint"), [*((o, "checkpointed") for o in OPTIMIZERS), ("sgd", "linearized")])
def test_gradient_equals_autodiff_in_single_precision(optimizer, adjoint):
    problem, x0, controls, inputs = build("varying", OPTIMIZERS[optimizer](), 32, jnp.float32)
    sweep, _, gradient = sweep_and_reference(problem, x0, controls, inputs, ADJOINTS[adjoint])
    assert relative_error(sweep.seen, gradient) < 2e-6


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_costate_is_the_gradient_in_the_initial_state(float64, adjoint):
    problem, x0, controls, inputs = build("varying", OPTIMIZERS["momentum"](), 11, jnp.float64)
    sweep = pmp.costate(problem, x0, controls, inputs, adjoint=ADJOINTS[adjoint])
    expected = jax.grad(lambda params: pmp.objective(problem, x0._replace(params=params), controls, inputs))(x0.params)
    assert relative_error(sweep.costate.params, expected) < 1e-12


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("steps", [1, 2, 7, 13, 16])
def test_regulator_equals_riccati(float64, adjoint, steps):
    plant = regulator(steps)
    controls, costates, value = plant.riccati()
    observe = {"gradient": obs.control_gradient, "costate": lambda point: point.costate_next}
    sweep = pmp.costate(
        plant.problem(), plant.start, jnp.asarray(controls), None, adjoint=ADJOINTS[adjoint], observe=observe
    )
    assert abs(float(sweep.value) - value) < 1e-10 * value
    assert float(jnp.max(jnp.abs(sweep.seen["gradient"]))) < 1e-10
    assert relative_error(sweep.seen["costate"], costates[1:]) < 1e-10
    assert relative_error(sweep.costate, costates[0]) < 1e-10


def test_a_fresh_desired_batch_each_step(float64):
    plant = classifier(6)
    dynamics = pmp.training_dynamics(plant.losses, optax.sgd(0.1))
    inputs = (*plant.batches, jnp.arange(1.0, 7.0))
    problem = pmp.Problem(dynamics, pmp.area_under(lambda params, input: input[2] * plant.desired(params)))
    x0 = dynamics.init(plant.params)
    states = pmp.rollout(problem, x0, plant.weights, inputs, record=lambda x: plant.desired(x.params)).record
    by_hand = jnp.sum(states * jnp.array([1.0, 2, 3, 4, 5, 6, 6]))  # the term at T takes the last input again
    sweep, value, gradient = sweep_and_reference(problem, x0, plant.weights, inputs, pmp.Checkpointed())
    assert relative_error(sweep.value, by_hand) < 1e-14 and relative_error(value, by_hand) < 1e-14
    assert relative_error(sweep.seen, gradient) < 1e-12


def test_terminal_loss_and_a_constant_input(float64):
    plant = small(9, optimizer=optax.adam(1e-2, eps_root=1e-3), cost=pmp.terminal_loss)
    problem = plant.problem._replace(input_axis=None)
    batch = jax.tree.map(lambda leaf: leaf[0], plant.batches)
    value, gradient = jax.jit(jax.value_and_grad(lambda u: pmp.objective(problem, plant.x0, u, batch)))(plant.weights)
    for adjoint in FEW:
        sweep = jax.jit(
            lambda u: pmp.costate(problem, plant.x0, u, batch, adjoint=adjoint, observe=obs.control_gradient)
        )(plant.weights)
        assert relative_error(sweep.value, value) < 1e-14
        assert relative_error(sweep.seen, gradient) < 1e-12


def test_a_state_with_a_random_key(float64):
    def init(x):
        return {"x": jnp.asarray(x), "key": jax.random.key(5), "count": jnp.int32(0)}

    def step(state, control, input):
        key, now = jax.random.split(state["key"])
        x = jnp.sin(state["x"]) * (1 + 0.1 * jax.random.normal(now, (), jnp.float64)) + control
        return {"x": x, "key": key, "count": state["count"] + 1}

    problem = pmp.Problem(pmp.Dynamics(init, step), pmp.Cost(terminal=lambda state: state["x"] ** 2))
    controls = jnp.linspace(-0.3, 0.4, 10)
    expected = jax.grad(lambda u: pmp.objective(problem, init(0.7), u, None))(controls)
    for adjoint in FEW:
        sweep = pmp.costate(problem, init(0.7), controls, None, adjoint=adjoint, observe=obs.control_gradient)
        assert relative_error(sweep.seen, expected) < 1e-13
        assert sweep.costate["key"] is None and sweep.costate["count"] is None


def test_custom_pullback_agrees_with_vjp_of_the_step(float64):
    problem, x0, controls, inputs = build("varying", OPTIMIZERS["adamw"](), 11, jnp.float64)
    plain = problem._replace(dynamics=problem.dynamics._replace(pullback=None))
    mixed, _, _ = sweep_and_reference(problem, x0, controls, inputs, pmp.StoreAll())
    reverse, _, _ = sweep_and_reference(plain, x0, controls, inputs, pmp.StoreAll())
    assert relative_error(mixed.seen, reverse.seen) < 1e-12
    assert relative_error(jax.tree.leaves(mixed.costate), jax.tree.leaves(reverse.costate)) < 1e-12


TRACES = {
    "jit": lambda f, p: jnp.stack([jax.jit(f)(row) for row in p]),
    "jit of vmap": lambda f, p: jax.jit(jax.vmap(f))(p),
    "map": lambda f, p: jax.lax.map(f, p),
    "scan": lambda f, p: jax.lax.scan(lambda carry, row: (carry, f(row)), None, p)[1],
}


@pytest.mark.parametrize(
    ("optimizer", "trace"), [*(("sgd", trace) for trace in TRACES), ("clipped adam", "jit of vmap")]
)
def test_weights_may_be_closed_over_in_any_trace(float64, optimizer, trace):
    """The feasible set is checked where weights are known, in a trace too."""
    plant = small(7, optimizer=OPTIMIZERS[optimizer](), prox=pmp.prox.simplex)
    starts = plant.x0.params["unit"][None] * jnp.linspace(0.5, 1.5, 3)[:, None]

    def of(function):
        return lambda row: function(
            plant.problem, plant.problem.dynamics.init({"unit": row}), plant.weights, plant.batches
        )

    found = TRACES[trace](of(lambda *arguments: pmp.costate(*arguments).value), starts)
    assert relative_error(found, jnp.stack([jax.jit(of(pmp.objective))(row) for row in starts])) < 1e-9
    infeasible = 2.0 * plant.weights
    with pytest.raises(ValueError, match=r"controls .*'simplex'"):
        TRACES[trace](lambda row: pmp.costate(plant.problem, plant.x0, infeasible, plant.batches).value, starts)


def check_reverse_through_a_sweep(adjoint, optimizer, steps):
    """jax.grad through a sweep's value and through what it observes, in weights and parameters, against plain scans."""
    plant = small(steps, optimizer=OPTIMIZERS[optimizer]())

    def objective(weights, params):
        return pmp.objective(plant.problem, plant.problem.dynamics.init(params), weights, plant.batches)

    def sweep(weights, params):
        x0 = plant.problem.dynamics.init(params)
        return pmp.costate(plant.problem, x0, weights, plant.batches, adjoint=adjoint, observe=obs.control_gradient)

    at = plant.weights, plant.x0.params
    expected = jax.jit(jax.grad(objective, (0, 1)))(*at)
    assert relative_error(jax.jit(jax.grad(lambda *a: sweep(*a).value, (0, 1)))(*at), expected) < 1e-9
    along = jnp.cos(jnp.arange(plant.weights.size, dtype=jnp.float64)).reshape(plant.weights.shape)
    expected = jax.jit(jax.grad(lambda *a: jnp.vdot(along, jax.grad(objective)(*a)), (0, 1)))(*at)
    found = jax.jit(jax.grad(lambda *a: jnp.vdot(along, sweep(*a).seen), (0, 1)))(*at)
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize(
    ("optimizer", "adjoint", "steps"),
    [
        ("sgd", "store all", 7),
        ("sgd", "checkpointed", 7),
        ("sgd", "binomial, 3", 7),
        ("clipped adam", "linearized", 10),
        ("clipped adam", "checkpointed", 10),
    ],
)
def test_reverse_mode_through_a_sweep(float64, adjoint, optimizer, steps):
    check_reverse_through_a_sweep(ADJOINTS[adjoint], optimizer, steps)


def reverse_grid():
    """Horizons that segments divide and that they do not; every adjoint through moments and a clip."""
    for optimizer, adjoints, horizons in (
        ("momentum", ("checkpointed", "checkpointed, 5"), (7, 8, 10, 49, 50)),
        ("momentum", ("binomial, 1", "binomial, 3", "binomial, more than steps"), (50,)),
        ("momentum", ("store all", "linearized"), (49,)),
        ("clipped adam", ADJOINTS, (8,)),
    ):
        yield from itertools.product([optimizer], adjoints, horizons)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "adjoint", "steps"), list(reverse_grid()))
def test_reverse_mode_through_a_sweep_over_the_whole_grid(float64, adjoint, optimizer, steps):
    check_reverse_through_a_sweep(ADJOINTS[adjoint], optimizer, steps)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_final_state_is_the_trained_one(float64, adjoint):
    plant = small(10, optimizer=OPTIMIZERS["adamw"]())
    sweep = pmp.costate(plant.problem, plant.x0, plant.weights, plant.batches, adjoint=ADJOINTS[adjoint])
    expected = pmp.rollout(plant.problem, plant.x0, plant.weights, plant.batches).final
    assert jax.tree.structure(sweep.final) == jax.tree.structure(expected)
    assert relative_error(jax.tree.leaves(sweep.final), jax.tree.leaves(expected)) < 1e-13


def test_float32_products_are_traced_at_full_precision():
    """On accelerators the default is bfloat16 or TF32. A user's plain losses, the Learning Law's and README's."""
    plant = small(6, dtype=np.float32)
    law = problems.PerceptronProblem(dimension=8, train=16, dev=16, test=1, steps=6)
    drawn = problems.draw(law, seed=0)
    perceptron = problems.control_problem(law, drawn)
    sweeps = {
        "user": (plant.problem, plant.x0, plant.weights, plant.batches),
        "perceptron": (perceptron, perceptron.dynamics.init(drawn.params), pmp.uniform(6, 16), drawn.train),
    }
    for name, (problem, *arguments) in sweeps.items():
        for function in (pmp.costate, pmp.objective, lambda *a: pmp.rollout(*a).final):
            found = products(jax.jit(lambda *a, f=function, p=problem: f(p, *a)).lower(*arguments).as_text())
            assert found and {precision for precision, types in found if "f32" in types} == {"HIGHEST"}, name
    as_it_is = plant.problem._replace(precision=None)
    text = jax.jit(lambda *a: pmp.costate(as_it_is, *a)).lower(*sweeps["user"][1:]).as_text()
    assert "HIGHEST" not in {precision for precision, _ in products(text)}


def test_vmap_over_initial_states_and_controls(float64):
    plant = small(7)
    many = jnp.stack([plant.weights, plant.weights[::-1], plant.weights**2])
    starts = jax.tree.map(lambda leaf: leaf[None] * jnp.array([[0.5], [1.0], [1.5]]), plant.x0)

    def one(x0, controls, adjoint):
        return pmp.costate(
            plant.problem, x0, controls, plant.batches, adjoint=adjoint, observe=obs.control_gradient
        ).seen

    for adjoint in FEW:
        sweep = functools.partial(one, adjoint=adjoint)
        together = jax.jit(jax.vmap(sweep))(starts, many)
        apart = jax.jit(lambda x, u: jax.lax.map(lambda row: sweep(*row), (x, u)))(starts, many)
        assert relative_error(together, apart) < 1e-13


def test_forward_mode_through_the_sweep(float64):
    """A Hessian-vector product of J: jvp of the sweep against jvp of autodiff's gradient."""
    plant = small(6)
    along = jnp.cos(jnp.arange(plant.weights.size, dtype=jnp.float64)).reshape(plant.weights.shape)

    def swept(u):
        adjoint, observe = pmp.StoreAll(), obs.control_gradient
        return pmp.costate(plant.problem, plant.x0, u, plant.batches, adjoint=adjoint, observe=observe).seen

    by_autodiff = jax.grad(lambda u: pmp.objective(plant.problem, plant.x0, u, plant.batches))
    found, expected = (
        jax.jit(lambda u, f=f: jax.jvp(f, (u,), (along,))[1])(plant.weights) for f in (swept, by_autodiff)
    )
    assert relative_error(found, expected) < 1e-11


def test_sweep_is_bit_reproducible():
    plant = small(11, optimizer=OPTIMIZERS["adamw"](), dtype=np.float32)
    first, second = (
        jax.jit(lambda u: pmp.costate(plant.problem, plant.x0, u, plant.batches, observe=obs.control_gradient).seen)(
            plant.weights
        )
        for _ in range(2)
    )
    assert np.array_equal(first, second)
