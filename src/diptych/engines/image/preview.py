"""A cheap look at latents: one linear map from latent channels to colours, fitted once per model."""

from __future__ import annotations

import numpy as np
import torch

from diptych.engines.image.model import ImageModel

SAMPLES = 12
SIDE = 8


class LatentPreview:
    """Colours from latents by `rgb = latents @ factors + offset`, fitted at first use."""

    def __init__(self, model: ImageModel) -> None:
        self._model = model
        self._factors: torch.Tensor | None = None

    def pixels(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (1, C, h, w) to uint8 (h, w, 3)."""
        if self._factors is None:
            self._factors = self._fit()
        channels, height, width = latents.shape[1:]
        rows = _with_ones(latents[0].float().cpu().permute(1, 2, 0).reshape(-1, channels))
        colours = (rows @ self._factors).clamp(0, 255).round().to(torch.uint8)
        return colours.reshape(height, width, 3).numpy()

    def _fit(self) -> torch.Tensor:
        """Least squares over decoded smooth noise: (C + 1, 3), the last row the offset."""
        generator = torch.Generator("cpu").manual_seed(0)
        rows, colours = [], []
        for index in range(SAMPLES):
            latents = self._smooth_noise(generator, cells=1 + index % 4)
            decoded = torch.from_numpy(self._model.decode(latents.to(self._model.device, self._model.dtype)))
            small = torch.nn.functional.avg_pool2d(decoded.permute(2, 0, 1).float(), self._model.scale_factor)
            rows.append(latents[0].permute(1, 2, 0).reshape(-1, self._model.latent_channels))
            colours.append(small.permute(1, 2, 0).reshape(-1, 3))
        inputs = _with_ones(torch.cat(rows))
        # A little ridge keeps channels that hardly vary from taking wild factors.
        ridge = 1e-3 * inputs.shape[0] * torch.eye(inputs.shape[1])
        factors: torch.Tensor = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ torch.cat(colours))
        return factors

    def _smooth_noise(self, generator: torch.Generator, cells: int) -> torch.Tensor:
        """(1, C, SIDE, SIDE) of unit-scale noise that varies over `cells` cells a side."""
        coarse = torch.randn((1, self._model.latent_channels, cells, cells), generator=generator)
        return torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def _with_ones(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows, torch.ones(rows.shape[0], 1)], dim=1)
