"""Sums over rows of the denoiser, differentiated in chunks: the derivative of the plain sum."""

import gc

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors.backbone import ActivationName
from diffusion_dfl.predictors.diffusion import Denoiser
from diffusion_dfl.predictors.diffusion.chunks import Rows, Terms, chunked_sum

BATCH, TIMES, COUNT, SIZE = 3, 4, 23, 2


def _denoiser(
    layers: int = 2, activation: ActivationName = "silu", dropout: float = 0.0
) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(5, SIZE, 8, layers, dropout, 20, activation)


class _Problem:
    """Rows of contexts and times in disorder, and a weighted squared error of each."""

    def __init__(self, denoiser: Denoiser) -> None:
        generator = torch.Generator().manual_seed(1)
        self.denoiser = denoiser
        # As a transposed view: rows need not be contiguous.
        self.noisy = torch.randn(SIZE, COUNT, generator=generator).T
        self.target = torch.randn(COUNT, SIZE, generator=generator)
        self.weight = torch.randn(COUNT, generator=generator)
        self.weight[::5] = 0.0
        self.context = torch.randint(BATCH, (COUNT,), generator=generator)
        self.time = torch.randint(TIMES, (COUNT,), generator=generator)
        self.contexts = torch.randn(BATCH, 5, generator=generator)
        self.steps = torch.tensor([1, 4, 9, 20])

    def rows(self) -> Rows:
        return Rows(
            self.denoiser.context_features(self.contexts),
            self.context,
            self.denoiser.time_features(self.steps),
            self.time,
            self.denoiser.shared_squares(self.contexts, self.steps),
        )

    def values(self, output: Tensor, part: slice) -> Tensor:
        return self.weight[part] * (output - self.target[part]).square().sum(-1)

    def summands(self, part: slice) -> tuple[Tensor, Terms]:
        def terms(output: Tensor) -> tuple[Tensor, Tensor]:
            derivative = 2 * self.weight[part].unsqueeze(1) * (output - self.target[part])
            return self.values(output, part), derivative

        return self.noisy[part], terms

    def plain(self) -> Tensor:
        """The summands by autograd, ``(R,)``."""
        output = self.denoiser(
            self.noisy,
            self.denoiser.time_features(self.steps[self.time]),
            self.denoiser.context_features(self.contexts[self.context]),
        )
        return self.values(output, slice(None))

    def chunked(self, chunk_rows: int, norms: Tensor | None = None) -> Tensor:
        return chunked_sum(self.denoiser, self.rows(), self.summands, chunk_rows, norms)

    def gradients(self, value: Tensor) -> dict[str, Tensor]:
        self.denoiser.zero_grad(set_to_none=True)
        value.backward()
        return {name: weight.grad.clone() for name, weight in self.denoiser.named_parameters()}


def _check_same(found: dict[str, Tensor], expected: dict[str, Tensor], factor: float = 1.0) -> None:
    for name, value in expected.items():
        scale = float(value.abs().max()) * abs(factor)
        assert scale > 0, name
        torch.testing.assert_close(
            found[name],
            factor * value,
            rtol=0,
            atol=3e-6 * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize(
    ("activation", "layers"), [("silu", 1), ("silu", 3), ("relu", 2), ("gelu", 1), ("gelu", 3)]
)
@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 22, 23, 24, 512])
@pytest.mark.parametrize("with_norms", [False, True])
def test_value_and_gradient_are_those_of_the_plain_sum(
    activation: ActivationName, layers: int, chunk_rows: int, with_norms: bool
) -> None:
    problem = _Problem(_denoiser(layers, activation))
    plain = problem.plain().sum()
    value = problem.chunked(chunk_rows, torch.zeros(COUNT) if with_norms else None)
    assert float(value.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    # Every weight: those of contexts and of times, which rows share, too.
    _check_same(problem.gradients(value), problem.gradients(plain))


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu"])
def test_the_gradient_with_dropout_is_that_of_the_value_under_the_same_masks(
    activation: ActivationName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By differences in double precision: autograd draws masks of its own."""
    embedding = Denoiser._embedding
    monkeypatch.setattr(Denoiser, "_embedding", lambda *of: embedding(*of).double())
    problem = _Problem(_denoiser(3, activation, dropout=0.4).double())
    for name in ("noisy", "target", "weight", "contexts"):
        setattr(problem, name, getattr(problem, name).double())
    parameters = list(problem.denoiser.parameters())
    moves = [torch.randn_like(one) for one in parameters]

    def value() -> Tensor:
        torch.manual_seed(3)
        return problem.chunked(7)

    problem.gradients(value())
    along = sum(float((p.grad * move).sum()) for p, move in zip(parameters, moves, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.add_(move, alpha=step)
            found = float(value())
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.add_(move, alpha=-step)
        return found

    assert along == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("factor", [-2.5, 0.125])
def test_factors_of_later_steps_scale_the_gradient(factor: float) -> None:
    problem = _Problem(_denoiser())
    plain = problem.gradients(problem.plain().sum())
    found = problem.gradients(factor * problem.chunked(5).double())
    _check_same(found, plain, factor)


def test_a_chunked_sum_adds_to_other_terms_and_to_gradients_that_are_there() -> None:
    problem = _Problem(_denoiser())
    expected = problem.gradients(3 * problem.plain().sum() + problem.denoiser.trunk[-1].bias.sum())
    problem.denoiser.zero_grad(set_to_none=True)
    (problem.chunked(5) + problem.denoiser.trunk[-1].bias.sum()).backward()
    (problem.chunked(4) + problem.chunked(6)).backward()
    found = {name: weight.grad for name, weight in problem.denoiser.named_parameters()}
    _check_same(found, expected)


def test_zero_weights_give_a_gradient_of_zeros() -> None:
    problem = _Problem(_denoiser())
    problem.weight.zero_()
    norms = torch.ones(COUNT)
    gradients = problem.gradients(problem.chunked(5, norms))
    assert set(gradients) == {name for name, _ in problem.denoiser.named_parameters()}
    assert not any(bool(value.any()) for value in gradients.values())
    assert not bool(norms.any())


def test_without_gradients_there_is_the_value_only() -> None:
    problem = _Problem(_denoiser())
    with torch.no_grad():
        value = problem.chunked(5)
    assert not value.requires_grad
    assert float(value) == pytest.approx(float(problem.plain().sum().detach()), rel=1e-5)


def test_the_gradient_can_be_taken_once() -> None:
    value = _Problem(_denoiser()).chunked(5)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        value.backward()


def test_a_second_derivative_is_refused() -> None:
    problem = _Problem(_denoiser())
    weight = problem.denoiser.trunk[-1].weight
    (first,) = torch.autograd.grad(problem.chunked(5), weight, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()


@pytest.mark.parametrize("frozen", ["from_outcome", "from_context", "from_time", "trunk"])
def test_frozen_layers_get_no_gradient_and_leave_that_of_the_others(frozen: str) -> None:
    problem = _Problem(_denoiser())
    expected = problem.gradients(problem.plain().sum())
    problem.denoiser.zero_grad(set_to_none=True)
    getattr(problem.denoiser, frozen).requires_grad_(False)
    problem.chunked(5, torch.zeros(COUNT)).backward()
    found = {}
    for name, weight in problem.denoiser.named_parameters():
        if name.startswith(frozen):
            assert weight.grad is None
            del expected[name]
        else:
            found[name] = weight.grad
    _check_same(found, expected)


@pytest.mark.parametrize("chunk_rows", [1, 6, 100])
@pytest.mark.parametrize(
    ("activation", "layers"), [("silu", 1), ("silu", 2), ("relu", 2), ("gelu", 2)]
)
def test_squared_norms_are_those_of_each_rows_gradient(
    activation: ActivationName, layers: int, chunk_rows: int
) -> None:
    """By brute force, a backward pass a row, over all weights but the embedding's inner layer."""
    problem = _Problem(_denoiser(layers, activation))
    weights = [
        weight
        for name, weight in problem.denoiser.named_parameters()
        if not name.startswith("from_time.0")
    ]
    expected = []
    for value in problem.plain():
        gradients = torch.autograd.grad(value, weights, retain_graph=True)
        expected.append(sum(float(gradient.square().sum()) for gradient in gradients))
    found = torch.full((COUNT,), torch.nan)
    problem.chunked(chunk_rows, found)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-5, atol=1e-9)


def test_squared_norms_need_those_of_what_rows_share() -> None:
    problem = _Problem(_denoiser())
    rows = problem.rows()
    bare = Rows(rows.features, rows.context, rows.times, rows.time)
    with pytest.raises(ValueError, match=r"rows\.squares"):
        chunked_sum(problem.denoiser, bare, problem.summands, 5, torch.zeros(COUNT))


def test_the_graph_holds_no_activations_of_rows() -> None:
    """Bytes saved for backward when the sum is there: none that depend on the number of rows."""

    def bytes_held(copies: int) -> int:
        problem = _Problem(_denoiser())
        for name in ("noisy", "target", "weight", "context", "time"):
            setattr(problem, name, torch.cat([getattr(problem, name)] * copies))
        saved: dict[int, int] = {}

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor
                saved[id(self)] = tensor.numel() * tensor.element_size()

            def __del__(self) -> None:
                saved.pop(id(self), None)

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            value = problem.chunked(10)
        gc.collect()
        assert value.requires_grad
        return sum(saved.values())

    assert bytes_held(1) == bytes_held(8) > 0
