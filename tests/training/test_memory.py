"""Bytes held for a backward pass, against counts by hand: 4 a float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from diffusion_dfl.estimators import Batch, Reparam, Score, TwoStage
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Backpropagation, DiffusionPredictor, ElboSurrogate, Sampling
from diffusion_dfl.predictors.base import FULL
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.training.memory import SavedBytes

ROWS, INPUTS, WIDTH, OUTPUTS = 7, 50, 200, 30


def _peak(compute: Callable[[], object], drop: bool = False) -> int:
    with SavedBytes(drop) as counter:
        compute()
    return counter.peak


# The rules of counting


@pytest.mark.parametrize("drop", [False, True])
def test_a_tensor_saved_by_two_nodes_counts_once(drop: bool) -> None:
    values = torch.randn(100, requires_grad=True)
    with SavedBytes(drop) as counter:
        exponential = values.exp()  # saves its result
        total = (exponential * exponential).sum()  # saves it again, twice
        assert counter.held == counter.peak == 400
        total += (2 * values).exp().sum()
        assert counter.held == 800


def test_views_count_as_the_storage_they_keep() -> None:
    values = torch.randn(10, 100)
    weight = torch.randn(100, requires_grad=True)
    with SavedBytes() as counter:
        kept = [(values[row] * weight).sum() for row in range(3)]  # each saves its row
    assert counter.peak == 4000
    del kept


def test_a_multilayer_perceptron_saves_its_inputs_and_activations_but_no_weights() -> None:
    first, second = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, OUTPUTS)
    inputs = torch.randn(ROWS, INPUTS)
    # relu saves its result, which is the input of the second layer.
    relu = _peak(lambda: second(first(inputs).relu()))
    assert relu == 4 * ROWS * (INPUTS + WIDTH)
    # SiLU saves its argument, and its result is the input of the second layer.
    silu = _peak(lambda: second(nn.functional.silu(first(inputs))))
    assert silu == 4 * ROWS * (INPUTS + 2 * WIDTH)
    # With respect to the inputs the weights are needed too, but are there anyway.
    inputs.requires_grad_()
    assert _peak(lambda: second(first(inputs).relu())) == relu


def test_nothing_is_held_without_gradients() -> None:
    with SavedBytes() as counter, torch.no_grad():
        nn.Linear(INPUTS, WIDTH)(torch.randn(ROWS, INPUTS)).relu()
    assert counter.peak == 0


def test_bytes_are_given_back_when_a_graph_is_gone_or_differentiated() -> None:
    values = torch.randn(100, requires_grad=True)
    with SavedBytes() as counter:
        lost = values.exp().sum()
        kept = values.exp().sum()
        assert counter.held == 800
        del lost  # its node saved its own output: no cycle keeps it
        assert counter.held == 400
    kept.backward()
    assert (counter.held, counter.peak) == (0, 800)
    torch.testing.assert_close(values.grad, values.detach().exp())


def test_the_peak_is_the_most_held_at_one_moment() -> None:
    values = torch.randn(100, requires_grad=True)

    def one_after_another() -> None:
        for _ in range(5):
            torch.autograd.grad(values.exp().sum(), values)

    assert _peak(one_after_another) == 400
    assert _peak(lambda: [values.exp() for _ in range(5)]) == 2000


def test_counting_changes_no_gradient() -> None:
    network = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, OUTPUTS))
    inputs = torch.randn(ROWS, INPUTS)
    plain = torch.autograd.grad(network(inputs).square().sum(), network.parameters())
    with SavedBytes():
        loss = network(inputs).square().sum()
    counted = torch.autograd.grad(loss, network.parameters())
    assert all(torch.equal(one, other) for one, other in zip(plain, counted, strict=True))


def test_dropped_tensors_free_their_memory_keep_their_names_and_allow_no_backward() -> None:
    values = torch.randn(100, requires_grad=True)
    with SavedBytes(drop=True) as counter:
        total = values
        for _ in range(50):
            total = total.sin()  # saves its argument, whose address the next one would get
    assert counter.peak == 50 * 400
    with pytest.raises(RuntimeError, match="dropped"):
        total.sum().backward()
    del total
    assert counter.held == 0


def test_a_checkpointed_part_counts_by_its_inputs() -> None:
    network = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.SiLU(), nn.Linear(WIDTH, INPUTS))
    inputs = torch.randn(ROWS, INPUTS)

    def run(through: Callable[[Tensor], Tensor]) -> Tensor:
        values = inputs
        for _ in range(4):
            values = through(values)
        return values.sum()

    with SavedBytes() as counter:
        loss = run(lambda values: checkpoint(network, values, use_reentrant=False))
    assert counter.peak == 4 * 4 * ROWS * INPUTS
    found = torch.autograd.grad(loss, network.parameters())
    assert counter.held == 0
    expected = torch.autograd.grad(run(network), network.parameters())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("where", ["meta", "fake"])
def test_tensors_without_memory_count_as_real_ones(where: str) -> None:
    def count(device: str) -> list[int]:
        first = nn.Linear(INPUTS, WIDTH, device=device)
        second = nn.Linear(WIDTH, OUTPUTS, device=device)
        inputs = torch.randn(ROWS, INPUTS, device=device)

        def run() -> Tensor:
            hidden = first(inputs)
            return second(hidden.relu() + hidden.exp()).view(-1)[3:].square()

        return [_peak(run, drop) for drop in (False, True)]

    expected = count("cpu")
    if where == "meta":
        assert count("meta") == expected
    else:
        with FakeTensorMode():
            assert count("cpu") == expected
    hidden = ROWS * WIDTH
    assert expected[0] == 4 * (ROWS * INPUTS + 3 * hidden + ROWS * OUTPUTS)


# The steps of training

B, X, Y, M, W, CHUNK = 4, 3, 5, 50, 16, 64


def _diffusion(k: int = 4, steps: int = 6, device: str = "cpu") -> DiffusionPredictor:
    predictor = DiffusionPredictor(
        X,
        Y,
        W,
        num_diffusion_steps=20,
        sampling=Sampling(steps, clip=0.0),
        elbo=ElboSurrogate(k),
        chunk_rows=CHUNK,
    )
    return predictor.to(device)


def _density(k: int, count: int, device: str = "cpu") -> int:
    predictor = _diffusion(k, device=device)
    inputs = [torch.randn(*shape, device=device) for shape in ((B, X), (B, count, Y), (B, count))]
    return _peak(lambda: predictor.weighted_log_density(*inputs, torch.Generator()))


def test_the_score_holds_the_bytes_of_one_chunk_whatever_m_and_k() -> None:
    counts = {_density(k, count) for k, count in ((1, 64), (4, 50), (4, 100), (20, 50))}
    # Two hidden layers before and after activation; inputs, outputs and their derivatives.
    chunk = 4 * CHUNK * (4 * W + 3 * Y)
    # All 20 times through their embedding (16, then 64 before and after activation), the contexts.
    shared = 4 * (20 * (16 + 2 * 64) + B * X)
    assert counts == {chunk + shared}


def test_fewer_rows_than_a_chunk_hold_fewer_bytes() -> None:
    assert _density(1, 8) == 4 * (32 * (4 * W + 3 * Y) + 20 * (16 + 2 * 64) + B * X)


def test_the_density_counts_alike_without_memory() -> None:
    assert _density(4, 50, "meta") == _density(4, 50)


def _sample(how: Backpropagation, steps: int, device: str = "cpu") -> int:
    predictor = _diffusion(steps=steps, device=device)
    context = torch.randn(B, X, device=device)
    return _peak(lambda: predictor.sample(context, M, torch.Generator(), True, how))


def test_a_step_of_the_sampler_holds_its_activations_or_when_checkpointed_its_input() -> None:
    def more(how: Backpropagation, few: int, many: int) -> float:
        return (_sample(how, many) - _sample(how, few)) / (many - few)

    # y_t, two hidden layers before and after activation; and the embedding of its time.
    time = 4 * (16 + 2 * 64)
    scalars = 64
    assert more(FULL, 3, 6) == pytest.approx(4 * B * M * (Y + 4 * W) + time, abs=scalars)
    assert more(Backpropagation("checkpoint"), 3, 6) == pytest.approx(
        4 * B * M * Y + time, abs=scalars
    )
    # The embedding runs for all steps, the rest for K.
    assert more(Backpropagation("last", 2), 3, 6) == pytest.approx(time, abs=scalars)


@pytest.mark.parametrize("how", [FULL, Backpropagation("checkpoint"), Backpropagation("last", 2)])
def test_a_pathwise_sample_counts_alike_without_memory(how: Backpropagation) -> None:
    assert _sample(how, 6, "meta") == _sample(how, 6)


def test_a_training_step_counts_its_decision_layer_too() -> None:
    predictor, layer = _diffusion(), DecisionLayer(PowerProgram(num_decisions=Y), 1.5)
    batch = Batch(torch.randn(B, X), torch.randn(B, Y))

    def step(estimator: Reparam | Score | TwoStage) -> int:
        return _peak(lambda: estimator(predictor, layer, batch, torch.Generator()))

    drawn = _peak(lambda: predictor.sample(batch.context, M, torch.Generator(), True))
    # float64 scenarios at the least.
    assert step(Reparam(M)) >= drawn + 8 * B * M * Y
    assert 0 < step(TwoStage()) < step(Score(M)) < step(Reparam(M))
