"""An unnormalised density of the plane by NCE and by MECO: train, estimate log Z, compare the likelihoods.

python examples/energy_model.py
"""

import torch

from rl_contrastive.energy.energies import MLPEnergy, tilted
from rl_contrastive.energy.gaussian_mixture import fitted_noise
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.partition import Quadrature, log_partition
from rl_contrastive.energy.trainer import TrainConfig, Trainer


def moons(n: int, rng: torch.Generator) -> torch.Tensor:
    """Two half circles with noise: (n, 2)."""
    angle, upper = torch.pi * torch.rand(n, generator=rng), torch.rand(n, generator=rng) < 0.5
    x = torch.stack([torch.where(upper, angle.cos(), 1 - angle.cos()), angle.sin() * torch.where(upper, 1, -1)], 1)
    return x + torch.tensor([0.0, 0.25]) * torch.where(upper, -1, 1)[:, None] + 0.1 * torch.randn(n, 2, generator=rng)


def main(steps: int = 500) -> None:
    """Mean log-likelihood of unseen points under the noise law and under both models."""
    rng = torch.Generator().manual_seed(0)
    train, test = moons(2000, rng), moons(2000, rng)
    q = fitted_noise(train, rng=rng)  # a Gaussian mixture, made wider: the law of the negatives
    print(f"noise law: {q.log_prob(test).mean():.3f} nats")
    for name in ("nce", "meco"):
        f = tilted(q, MLPEnergy.for_data(train, rng=torch.Generator().manual_seed(1)))  # log q + a network at 0
        trainer = Trainer(f, make(name), train, q=q, config=TrainConfig(steps=steps), rng_seed=0)
        trainer.run()
        estimate = log_partition(trainer.model, Quadrature((-4.0, -4.0), (5.0, 4.0)))
        nats = (trainer.model(test) - estimate.log_z).mean()
        print(f"{name}: {nats:.3f} nats, log Z = {estimate.log_z:.3f} +- {estimate.error:.0e}")


if __name__ == "__main__":
    main()
