"""The greedy loop, on a model that answers from a script."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.generation import generate_greedily, torch_dtype


class Scripted:
    """After token t the best token is t + 1; remembers what it was fed."""

    def __init__(self) -> None:
        self.fed: list[int] = []

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        self.fed = input_ids.tolist()
        self.capacity = capacity
        return self._logits()

    def decode(self, token: int) -> torch.Tensor:
        self.fed.append(token)
        return self._logits()

    def _logits(self) -> torch.Tensor:
        logits = torch.zeros(10, dtype=torch.bfloat16)
        logits[(self.fed[-1] + 1) % 10] = 1.0
        return logits


def test_each_token_is_fed_to_the_next_step():
    model = Scripted()
    result = generate_greedily(model, torch.tensor([7, 3]), 4)
    assert result.tokens.tolist() == [4, 5, 6, 7]
    assert model.fed == [7, 3, 4, 5, 6]
    assert model.capacity == 6
    assert result.tokens.dtype == np.int64
    assert result.logits.shape == (4, 10) and result.logits.dtype == np.float32
    assert len(result.decode_s) == 3 and result.prefill_s >= 0.0


def test_forced_tokens_are_fed_and_the_models_own_choice_is_returned():
    model = Scripted()
    result = generate_greedily(model, torch.tensor([0]), 3, torch.tensor([8, 2, 5]))
    assert model.fed == [0, 8, 2]
    assert result.tokens.tolist() == [1, 9, 3]


def test_one_new_token_is_a_prefill_alone():
    assert generate_greedily(Scripted(), torch.tensor([1]), 1).decode_s == []


@pytest.mark.parametrize(
    ("input_ids", "new_tokens", "forced", "message"),
    [
        (torch.zeros(1, 3, dtype=torch.long), 1, None, "input_ids"),
        (torch.zeros(0, dtype=torch.long), 1, None, "input_ids"),
        (torch.tensor([1]), 0, None, "new_tokens"),
        (torch.tensor([1]), 4, torch.tensor([1, 2]), "forced_tokens"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(input_ids, new_tokens, forced, message):
    with pytest.raises(ValueError, match=message):
        generate_greedily(Scripted(), input_ids, new_tokens, forced)


def test_an_unknown_dtype_is_refused():
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match=r"'float16'.*float32"):
        torch_dtype("float16")
