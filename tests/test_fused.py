"""Layers in faster forms compute the same function: conv1 by space to depth, normalisation by Triton and by C."""

import logging
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alexnet.train.config import Config
from alexnet.train.gradient import build_gradient
from alexnet.train.network import lrn_cpu
from alexnet.train.network.fast_layers import (
    FusedResponseNorm,
    FusedSpatialNorm,
    SpaceToDepthConv,
    space_to_depth,
    use_fast_layers,
)
from alexnet.train.network.lrn import LocalResponseNorm, SpatialResponseNorm, response_norm
from alexnet.train.network.model import AlexNet, initialise

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
CHANNELS_LAST = torch.channels_last


def both_gradients(x: Tensor, plain: nn.Module, fast: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(fast, plain) of the output, and of gradients with respect to the input and to parameters, which are shared."""
    found = []
    for layer in (fast, plain):
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
        found.append([y, *torch.autograd.grad(y, [leaf, *layer.parameters()], g)])
    return list(zip(*found, strict=True))


# -- conv1 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("padding", [(0, 3, 0, 3), (2, 2, 2, 2), (3, 3, 3, 3), (0, 4, 1, 2)])
def test_conv1_by_space_to_depth(padding: tuple[int, ...], memory_format: torch.memory_format) -> None:
    plain = nn.Conv2d(3, 6, 11, 4).double()
    fast = SpaceToDepthConv(plain)
    assert fast.weight is plain.weight
    assert fast.bias is plain.bias
    x = F.pad(50 * torch.randn(2, 3, 224, 224, dtype=torch.float64), padding).contiguous(memory_format=memory_format)
    results = both_gradients(x, plain, fast)
    assert results[0][0].shape == (2, 6, 55, 55)
    for ours, theirs in results:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * theirs.abs().max().item())


@settings(max_examples=20)
@given(height=st.integers(11, 40), width=st.integers(11, 40), kernel=st.integers(2, 11), stride=st.integers(1, 5))
def test_any_geometry(height: int, width: int, kernel: int, stride: int) -> None:
    plain = nn.Conv2d(2, 3, kernel, stride).double()
    for ours, theirs in both_gradients(
        torch.randn(1, 2, height, width, dtype=torch.float64), plain, SpaceToDepthConv(plain)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_space_to_depth_order_and_memory() -> None:
    x = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    y = space_to_depth(x, 4)
    assert y.shape == (2, 48, 2, 3)
    assert y.is_contiguous(memory_format=CHANNELS_LAST)
    assert y[1, (2 * 4 + 3) * 3 + 1, 1, 2] == x[1, 1, 4 + 2, 2 * 4 + 3]
    assert y.flatten().sort().values.equal(x.flatten())


@pytest.mark.parametrize("preset", ["original", "owt"])
def test_whole_network_and_its_checkpoint(preset: str) -> None:
    model = AlexNet(Config.from_preset(preset, width=1 / 16, init_std=(0.05,) * 8), 10).double().eval()
    initialise(model, 0)
    x = 50 * torch.randn(2, 3, 224, 224, dtype=torch.float64)
    state, names, expected = model.state_dict(), [name for name, _ in model.named_parameters()], model(x)
    use_fast_layers(model, norms=False)
    assert isinstance(model.conv1, SpaceToDepthConv)
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-12)


# -- normalisation ------------------------------------------------------------------------------------------


def test_without_its_kernel_the_plain_form_stays(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alexnet.train.network.lrn_cpu", None)
    model = AlexNet(Config(width=1 / 16), 10)
    with caplog.at_level(logging.WARNING):
        use_fast_layers(model, conv1=False)
    assert type(model.norm1) is type(model.norm2) is LocalResponseNorm
    assert [r.message.partition(": ")[0] for r in caplog.records] == [
        "Response normalisation falls back to torch's operations, several times slower"
    ]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what the compiler itself does
def test_fused_norms_do_not_break_a_compiled_network_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into many small graphs. The plain form stands in for a kernel, which the compiler does not look into."""
    kernel: Any = ModuleType("kernel")
    kernel.response_norm = response_norm
    monkeypatch.setitem(sys.modules, "alexnet.train.network.lrn_cpu", kernel)
    model = AlexNet(Config.from_preset("original", width=1 / 16), 10).eval()
    use_fast_layers(model)
    x = torch.randn(2, *model.config.image_shape)
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # which a break makes an error
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("wrong", [lambda x: 1.05 * x, lambda x: x.detach() + 0 * x, lambda x: x * torch.nan])
def test_a_kernel_with_wrong_results_is_not_used(
    wrong: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AlexNet(Config(width=1 / 16), 10)
    plain = LocalResponseNorm.forward

    def in_float32(self: LocalResponseNorm, x: Tensor) -> Tensor:
        return plain(self, x.float()).to(x.dtype)

    monkeypatch.setattr(FusedResponseNorm, "forward", lambda self, x: wrong(in_float32(self, x)))
    use_fast_layers(model, conv1=False)
    assert type(model.norm1) is LocalResponseNorm
    assert "results are wrong on this device" in caplog.text
    monkeypatch.setattr(FusedResponseNorm, "forward", in_float32)
    use_fast_layers(model, conv1=False)
    assert type(model.norm1) is type(model.norm2) is FusedResponseNorm


@settings(max_examples=60)
@given(
    seed=st.integers(0, 9),
    images=st.integers(1, 3),
    tower=st.integers(1, 40),
    groups=st.sampled_from([None, 1, 2, 3]),
    plane=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.sampled_from([1, 3, 5, 9]),
    beta=st.sampled_from([0.75, 0.5, 1.0]),
    scale=st.sampled_from([1e-3, 50.0, 1e6]),
    last=st.booleans(),
)
@example(  # whose last block of segments is shorter than the one before it
    seed=2, images=3, tower=29, groups=3, plane=(8, 8), size=3, beta=0.75, scale=1e6, last=True
)
def test_on_cpus_it_is_the_reference_in_float64(
    seed: int,
    images: int,
    tower: int,
    groups: int | None,
    plane: tuple[int, int],
    size: int,
    beta: float,
    scale: float,
    last: bool,
) -> None:
    """Over channels and, without groups, over places; in either memory format, with an alpha that lets the sums
    dominate; a network's zeros among the inputs."""
    generator = torch.Generator().manual_seed(seed)
    x, g = (scale * torch.randn(images, (groups or 1) * tower, *plane, generator=generator) for _ in range(2))
    x = x.relu().contiguous(memory_format=CHANNELS_LAST) if last else x
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    constants = groups, size, 0.02, beta, 2.0
    y, expected = lrn_cpu.response_norm(ours, *constants), response_norm(theirs, *constants)
    y.backward(g)
    expected.backward(g.double())
    assert y.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(y.double(), expected, rtol=2e-6, atol=0)
    assert ours.grad is not None
    terms = torch.where(x == 0, g, g * expected / x).abs().max().item()  # of whose difference a gradient may be all
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=2e-6 * terms)


@pytest.mark.parametrize("groups", [2, None])
def test_threads_change_no_bit(groups: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 24, 55, 55).contiguous(memory_format=CHANNELS_LAST)
    assert x.numel() > lrn_cpu.SMALL
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        leaf = x.clone().requires_grad_()
        y = lrn_cpu.response_norm(leaf, groups, 5, 1e-4, 0.75, 2.0)
        found.append([y, *torch.autograd.grad(y, leaf, x)])
    assert all(map(torch.equal, *found))


def test_cpus_take_the_compiled_form_in_float32_only() -> None:
    model = AlexNet(Config.from_preset("original", width=1 / 16), 10)
    build_gradient(model, 1, torch.device("cpu"), 1, None)
    assert type(model.norm1) is type(model.norm2) is FusedResponseNorm
    assert type(model.spatial2) is FusedSpatialNorm
    assert type(model.conv1) is nn.Conv2d
    x = 50 * torch.randn(1, 6, 3, 3, dtype=torch.float64)
    for fused, plain in ((model.norm1, LocalResponseNorm(model.config)), (model.spatial2, SpatialResponseNorm())):
        assert torch.equal(fused(x), plain(x))
        torch.testing.assert_close(fused(x.float()).double(), plain(x), rtol=1e-5, atol=0)


CHECKS = """
import torch
from alexnet.train.config import Config
from alexnet.train.network.fast_layers import FusedResponseNorm, use_fast_layers
from alexnet.train.network import lrn, lrn_triton
from alexnet.train.network.lrn import LocalResponseNorm
from alexnet.train.network.lrn_triton import blocks, response_norm
from alexnet.train.network.model import AlexNet
from triton.runtime import interpreter

def patch_as_numpy_wants(tensor, *rest, patch=interpreter._patch_lang_tensor):
    # Triton 3.6 takes an array of one number for a number, as numpy did before 2.4 (Triton's issue 9171).
    patch(tensor, *rest)
    tensor.__index__ = lambda self: self.handle.data.item()

interpreter._patch_lang_tensor = patch_as_numpy_wants

def check(dtype, tolerance, channels, *constants, rows=(2, 5, 7), device="{device}"):
    n, *plane = rows
    x, g = (50 * torch.randn(n, channels, *plane, device=device).to(dtype) for _ in range(2))
    g = g.contiguous(memory_format=torch.channels_last) if channels % 3 else g
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = response_norm(ours, *constants), lrn.response_norm(theirs, *constants)
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    y.backward(g)
    expected.backward(g.double())
    for a, b in ((y, expected), (ours.grad, theirs.grad)):
        assert (a - b).abs().max() <= tolerance * b.abs().max(), (channels, constants, dtype, (a - b).abs().max())

torch.manual_seed(0)
PAPER, ORIGINAL, STEEP = (5, 1e-4, 0.75, 2.0), (5, 2e-5, 0.75, 2.0), (5, 0.02, 0.75, 2.0)
for channels, groups in ((96, 2), (256, 2), (256, 1), (24, 2), (2, 2), (6, 3)):
    check(torch.float32, 1e-6, channels, groups, *STEEP)
    check(torch.bfloat16, 1 / 128, channels, groups, *PAPER)
for size, beta in ((1, 1.0), (3, 0.5), (9, 0.6), (11, 0.75)):
    check(torch.float32, 2e-6, 130, 1, size, 0.02, beta, 1.5)
check(torch.float32, 1e-6, 8, 2, *ORIGINAL, rows=(1, 1, 1))
count, lrn_triton._multiprocessors = lrn_triton._multiprocessors, lambda device: 2  # programs with several blocks
check(torch.float32, 1e-6, 8, 2, *STEEP, rows=(3, 11, 13))
lrn_triton._multiprocessors = count
assert blocks(128, 5) == (64, 8, 3) and blocks(48, 5) == (64, 0, 1)

class Triton(LocalResponseNorm):
    def forward(self, x):
        return response_norm(x, self.groups, self.size, self.alpha, self.beta, self.k)

norm, fused = (kind(Config(lrn_alpha_over_n=True)) for kind in (LocalResponseNorm, Triton))
x = (100 * torch.randn(1, 96, 2, 3)).to("{device}")
torch.testing.assert_close(fused(x), norm(x), rtol=1e-6, atol=0)
torch.testing.assert_close(torch.compile(fused, backend="aot_eager", fullgraph=True)(x), fused(x))
torch.backends.cudnn.allow_tf32 = False  # which has no more digits than are compared
model = AlexNet(Config(width=1 / 4), 10).to("{device}", memory_format=torch.channels_last)  # cuDNN wants wide groups
images = torch.randn(1, 3, 224, 224, device="{device}")
model.eval()
expected = model(images)
use_fast_layers(model)
assert type(model.norm1) is type(model.norm2) is FusedResponseNorm
torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-5)
"""


def run_checks(device: str, **environment: str) -> None:
    """In a process of its own: Triton is told when it is imported whether to interpret."""
    import os

    command = [sys.executable, "-W", "ignore", "-c", CHECKS.replace("{device}", device)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr


@needs_triton
def test_triton_interpreted_is_the_reference_in_float64() -> None:
    run_checks("cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
@needs_triton
def test_triton_on_the_device_is_the_reference_in_float64() -> None:
    run_checks("cuda")


COMPILES = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from alexnet.train.network.lrn_triton import ROWS, _norm, blocks

names = _norm.arg_names
for tower, backward in ((48, False), (48, True), (128, True)):
    block, halo, tiles = blocks(tower, 5)
    constants = dict(ALPHA=1e-4, BETA=0.75, K=2.0, CHANNELS=2 * tower, TOWER=tower, HALF=2, TILES=tiles, HALO=halo,
                     BLOCK=block, ROWS=ROWS, PARTS=2, FACTOR=tl.bfloat16, BACKWARD=backward)
    types = {name: "constexpr" if name in constants else "i32" if name == "num_rows" else "*bf16" for name in names}
    source = triton.compiler.ASTSource(_norm, types, {(names.index(k),): v for k, v in constants.items()},
                                       {(i,): [["tt.divisibility", 16]] for i in range(3)})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4, num_stages=2))
    assert "wgmma.mma_async" in kernel.asm["ptx"] and kernel.metadata.shared <= 48 * 1024
"""


@needs_triton
def test_triton_compiles_for_hopper(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code, which takes no GPU; on its tensor cores, and several programs to a multiprocessor."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
