"""Samplers by their A1111 names: diffusers' schedulers, and solvers of our own where diffusers has none."""

from diptych.engines.image.samplers.base import Sampler
from diptych.engines.image.samplers.factory import SamplerFactory

__all__ = ["Sampler", "SamplerFactory"]
