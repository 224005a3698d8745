"""Labels that stand for several types."""

import pytest
import torch
import torch.nn.functional as F

from scfl_green.models.broad import cross_entropy

BROAD = ((0, 1, 2), (2, 3))


def logits_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def test_a_label_of_one_type_costs_what_it_always_did() -> None:
    logits, labels = logits_of(), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    expected = F.cross_entropy(logits, labels)
    for broad in ((), BROAD):
        torch.testing.assert_close(cross_entropy(logits, labels, broad), expected)
        labels_and_none = torch.cat([labels, torch.tensor([-1])])
        with_none = torch.cat([logits, logits[:1] + 3])
        torch.testing.assert_close(cross_entropy(with_none, labels_and_none, broad), expected)
        assert cross_entropy(logits[:2], torch.tensor([-1, -1]), broad) == 0


def test_the_probability_of_a_broad_label_is_the_sum_of_its_types() -> None:
    logits, labels = logits_of(), torch.tensor([-2, -3] * 4)
    p = logits.softmax(dim=1)
    expected = torch.stack([p[cell, list(BROAD[cell % 2])].sum().log().neg() for cell in range(8)]).mean()
    torch.testing.assert_close(cross_entropy(logits, labels, BROAD), expected)


def test_a_broad_label_raises_its_types_alike_by_as_much_as_the_sum() -> None:
    logits = logits_of()
    (alike,) = torch.autograd.grad(cross_entropy(logits, torch.full((8,), -2), BROAD), logits)
    torch.testing.assert_close(alike[:, :3], alike[:, :1].expand(-1, 3))
    (of_sum,) = torch.autograd.grad(logits.softmax(dim=1)[:, :3].sum(dim=1).log().neg().mean(), logits)
    torch.testing.assert_close(alike[:, :3].sum(dim=1), of_sum[:, :3].sum(dim=1))
    torch.testing.assert_close(alike[:, 3:], of_sum[:, 3:])


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_same_up_to_its_rounding(precision: torch.dtype) -> None:
    logits, labels = logits_of(), torch.tensor([-2, -3, 0, 1] * 2)
    half = cross_entropy(logits.to(precision), labels, BROAD)
    torch.testing.assert_close(half.float(), cross_entropy(logits, labels, BROAD), rtol=0.02, atol=0)
