"""An auto-encoder whose middle is binary: rows to codes of a few bits, and back.

`codes.py` gives it rows of features; the `Encoder` of `hamming.py` is what remains. The paper proposes one in section
6.1, since Euclidean distances between vectors of 4,096 numbers take long to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from .hamming import Encoder

COMPONENTS = 256  # that PCA leaves of a row: the input, and what is reconstructed
EPOCHS, BATCH, RATE = 10, 256, 1e-3
BALANCE, DISTANCE = 0.1, 100.0  # weights of terms of the loss; reconstruction has 1
NEAR = 0.05  # of the mean distance, squared: below this, near pairs weigh no more


def train_encoder(
    rows: NDArray[np.float32], bits: int, seed: int, progress: Callable[[int], None] = lambda epoch: None
) -> Encoder:
    """Train on rows (n, d), of which at least two differ; the result follows from `seed`.

    Encoder and decoder are linear. The encoder begins as a random rotation of the principal components, which alone
    beats random hyperplanes; gradients pass through the signs as through tanh (straight-through estimation). The loss
    adds up three terms: how much of the rows is not reconstructed; how far bits are from being 1 in half of the rows;
    how far Hamming distances are from Euclidean ones, relatively, so that near pairs count most.
    """
    pca = PCA(min(COMPONENTS, *rows.shape), svd_solver="randomized", random_state=seed).fit(rows)
    inputs = torch.from_numpy(pca.transform(rows).astype(np.float32))
    scale = inputs.square().sum(1).mean().sqrt()
    inputs /= scale
    generator = torch.Generator().manual_seed(seed)
    weight, bias = _Autoencoder(inputs, bits, generator).train(generator, progress)
    projection = torch.from_numpy(pca.components_.astype(np.float32).T) / scale
    return Encoder(pca.mean_.astype(np.float32), (projection @ weight).numpy(), bias.numpy())


class _Autoencoder:
    """Trained on inputs (n, r) whose mean is 0 and whose mean square length is 1."""

    def __init__(self, inputs: Tensor, bits: int, generator: torch.Generator) -> None:
        num_inputs, self._bits = min(bits, inputs.shape[1]), bits
        rotation = torch.linalg.qr(torch.randn(bits, num_inputs, generator=generator)).Q.T  # (inputs, bits)
        weight = torch.zeros(inputs.shape[1], bits)
        weight[:num_inputs] = rotation
        weight /= (inputs @ weight).std()  # so that tanh is neither flat nor straight
        decoder = torch.linalg.lstsq((inputs @ weight).sign(), inputs).solution
        some = inputs[:1000]
        self._inputs, self._mean_distance = inputs, torch.cdist(some, some).mean()
        self._weight, self._decoder = weight.requires_grad_(), decoder.requires_grad_()
        self._bias, self._shift = torch.zeros(bits, requires_grad=True), torch.zeros_like(inputs[0]).requires_grad_()
        self._slope = torch.tensor(0.5, requires_grad=True)  # share of differing bits per mean distance

    def train(self, generator: torch.Generator, progress: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        """Return the encoder's weight (r, bits) and bias (bits,)."""
        parameters = [self._weight, self._bias, self._decoder, self._shift, self._slope]
        optimizer = torch.optim.Adam(parameters, RATE)
        steps = EPOCHS * -(-len(self._inputs) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(EPOCHS):
            for batch in self._batches(generator):
                optimizer.zero_grad()
                self._loss(batch).backward()
                optimizer.step()
                schedule.step()
            progress(epoch + 1)
        return self._weight.detach(), self._bias.detach()

    def _batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        for some in torch.randperm(len(self._inputs), generator=generator).split(BATCH):
            yield self._inputs[some]

    def _loss(self, x: Tensor) -> Tensor:
        soft = torch.tanh(x @ self._weight + self._bias)
        code = soft + (soft.sign() - soft).detach()  # -1 or 1; its gradient is tanh's
        reconstruction = (code @ self._decoder + self._shift - x).square().sum(1).mean()
        balance = code.mean(0).square().mean()
        distance = torch.cdist(x, x) / self._mean_distance
        differing = (1 - code @ code.T / self._bits) / 2  # the share of bits
        error = (differing - self._slope * distance).square() / (distance.square() + NEAR)
        return reconstruction + BALANCE * balance + DISTANCE * error.mean()
