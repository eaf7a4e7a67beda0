"""Autoencoders of digits for the claim `cmim`: how each method is trained, and what is read from its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.claims.objectives.digits import Digits, draw_rows, normal, rows_of
from rl_contrastive.claims.stacked import (
    SEEDS,
    Stack,
    descend,
    generators,
    linear_probe,
    nearest_neighbour,
)
from rl_contrastive.config import Ge, Gt, Options, require
from rl_contrastive.features.embedding import effective_rank
from rl_contrastive.objectives.learned import MIM, MIMConfig, draw_code
from rl_contrastive.objectives.softmax import InfoNCE, InfoNCEConfig
from rl_contrastive.objectives.views import unit
from rl_contrastive.spec import FloatArray

Found = dict[str, FloatArray]
"""What is read, by name: (S,) each."""


@dataclass(frozen=True)
class CmimClaimConfig(Options, where="cmim"):
    """The models and their training."""

    code: Annotated[int, Ge(2)] = 16
    """d."""
    hidden: Annotated[int, Ge(2)] = 128
    """Width of encoder and decoder."""
    batch: Annotated[int, Ge(4)] = 64
    """B; the negatives of an image are the B - 1 others, or a single one."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """tau."""
    noise: Annotated[float, Gt(0)] = 0.1
    """Standard deviation of the augmentation of pixels, which lie between 0 and 1, for the one method that has any."""
    steps: Annotated[int, Ge(1)] = 350
    """Gradient steps."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of Adam."""
    labels: Annotated[int, Ge(10)] = 300
    """Images with labels, for the probes."""
    settings: bool = True
    """Also try the other settings."""
    seeds: tuple[int, ...] = SEEDS
    """Splits and networks."""

    @classmethod
    def quick(cls) -> CmimClaimConfig:
        """Seconds."""
        return cls(settings=False, seeds=SEEDS[:2])

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "cmim: give at least two seeds.")
        require(self.batch % 2 == 0, f"cmim: the batch must be even, got {self.batch}.")


@dataclass(frozen=True)
class Method:
    """What is trained."""

    negatives: int
    """M."""
    decoder: bool = True
    """-log p(x|z) and the Gaussian code; without it the code is the encoder's mean."""
    contrast: Literal["none", "cmim", "infonce"] = "cmim"
    """Term beside it."""
    augmented: bool = False
    """InfoNCE's positive is the code of an augmented image; else the code itself."""
    mean_pixels: bool = False
    """Reconstruction averaged over pixels, log q and log P by coordinate."""
    unit_code: bool = False
    """The decoder sees z/|z|."""


class Autoencoder:
    """Encoders and decoders of all seeds."""

    def __init__(self, config: CmimClaimConfig, method: Method, data: Digits) -> None:
        self.config, self.method, self.data = config, method, data
        pixels, d, h = data.x.shape[-1], config.code, config.hidden
        self.encoder = Stack([pixels, h, 2 * d], rngs=generators(config.seeds, 1))
        self.decoder = Stack([d, h, pixels], rngs=generators(config.seeds, 2))
        self.rngs = generators(config.seeds, 3)
        weight = float(method.contrast == "cmim")
        self.mim = MIM(MIMConfig(per_dim=method.mean_pixels, contrast=weight, temperature=config.temperature))
        self.infonce = InfoNCE(InfoNCEConfig(config.temperature))

    def fit(self) -> None:
        """All steps."""
        used = [*self.encoder.parameters(), *(self.decoder.parameters() if self.method.decoder else [])]
        descend(used, self.loss, self.config.steps, self.config.lr)

    def loss(self, step: int) -> Tensor:
        """(S,) of a batch; an image is compared with those of its group of M + 1."""
        del step
        x = rows_of(self.data.x, draw_rows(self.data.x.shape[1], self.config.batch, rngs=self.rngs))
        mean, log_scale = self.encoder(x).chunk(2, -1)
        total = torch.zeros(len(x))
        z = mean
        if self.method.decoder:
            z = self._drawn(mean, log_scale)
            code = [self._grouped(t) for t in (mean, log_scale, z)]
            total = total + self.mim(code[0], code[1], code[2], self._reconstruction(x, z)).loss.mean(-1)
        if self.method.contrast == "infonce":
            other = z
            if self.method.augmented:
                other = self.encoder(x + self.config.noise * normal(x, rngs=self.rngs)).chunk(2, -1)[0]
            total = total + self._infonce(self._grouped(z), self._grouped(other)).mean(-1)
        return total

    def _drawn(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        parts = zip(mean, log_scale, self.rngs, strict=True)
        return torch.stack([draw_code(m, s, rng=rng) for m, s, rng in parts])

    def _grouped(self, t: Tensor) -> Tensor:
        """(S, B, ...) -> (S, B/(M+1), M+1, ...)."""
        return t.reshape(len(t), -1, self.method.negatives + 1, *t.shape[2:])

    def _reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) of pixels taken as probabilities, grouped."""
        terms = nn.functional.binary_cross_entropy_with_logits(self.decode(z), x, reduction="none")
        return self._grouped(terms.mean(-1) if self.method.mean_pixels else terms.sum(-1))

    def decode(self, z: Tensor) -> Tensor:
        """Logits of pixels."""
        out: Tensor = self.decoder.last(self.layer(z))
        return out

    def layer(self, z: Tensor) -> Tensor:
        """The decoder's hidden layer, the paper's informative embedding."""
        return self.decoder.hidden(unit(z) if self.method.unit_code else z)

    def _infonce(self, z: Tensor, other: Tensor) -> Tensor:
        """(S, G): z_i with other_i among itself and the M others of its group."""
        cosine = unit(z) @ unit(other).mT  # (S, G, M+1, M+1)
        n = cosine.shape[-1]
        off = ~torch.eye(n, dtype=torch.bool)
        neg = cosine[..., off].reshape(*cosine.shape[:-1], n - 1)
        pos = cosine.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        weight = torch.full_like(neg, 1.0 / (n - 1))
        return self.infonce(pos, neg, torch.full_like(pos, 1.0 / n), weight).loss

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Means (S, n, d)."""
        mean: Tensor = self.encoder(x).chunk(2, -1)[0]
        return mean

    def judge(self) -> Found:
        """(S,) each: nearest neighbour, probes, error of the reconstruction, effective rank of the codes."""
        data, n = self.data, self.config.labels
        z, z_test, y, y_test = self.codes(data.x[:, :n]), self.codes(data.x_test), data.y[:, :n], data.y_test
        out = {"1-NN": nearest_neighbour(z, y, z_test, y_test), "probe": linear_probe(z, y, z_test, y_test, 10)}
        out["rank"] = np.array([effective_rank(part.numpy()) for part in z_test])
        if self.method.decoder:
            out["layer"] = linear_probe(self.layer(z), y, self.layer(z_test), y_test, 10)
            out["layer, 1-NN"] = nearest_neighbour(self.layer(z), y, self.layer(z_test), y_test)
            fresh = Stack([z.shape[-1], self.config.hidden, 1], rngs=generators(self.config.seeds, 4)).hidden
            out["untrained layer"] = linear_probe(fresh(z), y, fresh(z_test), y_test, 10)
            error = self.decode(z_test).sigmoid() - data.x_test
            out["MSE"] = error.square().double().mean((-2, -1)).detach().numpy()
        return out
