"""In which precision a GPU computes, by its age; stand-ins say what card it is."""

import pytest
import torch

from alexnet.train.network.precision import autocast, has_bfloat16, suited


@pytest.mark.parametrize(("capability", "new"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_old_cards_compute_in_float32(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], new: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(torch.device("cuda", 0)) is new


def test_cpus_compute_in_the_precision_of_the_weights() -> None:
    device = torch.device("cpu")
    assert not has_bfloat16(device)
    for dtype in (torch.float32, torch.float64):
        images = torch.zeros(1, dtype=dtype)
        assert suited(images) is images
    assert suited(torch.zeros(1, dtype=torch.float16)).dtype == torch.float32
    with autocast(device):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
