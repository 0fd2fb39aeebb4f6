"""Samplers and schedules that diffusers lacks, against plain loops written from their papers; names and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import InvalidRequest
from diptych.core.samplers import SAMPLERS, SCHEDULES, parse_sampler, schedules_of
from diptych.core.specs import ImageSpec
from diptych.engines.image.samplers import Sampler, SamplerFactory

CONFIG = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"}
SHAPE = (1, 4, 4, 4)
BETAS = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
TABLE = ((1 - (1 - BETAS).cumprod(0)) / (1 - BETAS).cumprod(0)).sqrt().numpy()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
Denoise = Callable[[torch.Tensor, float], torch.Tensor]


def predict(scaled: torch.Tensor, timestep: float) -> torch.Tensor:
    """A model of noise that depends on the timestep."""
    return torch.tanh(scaled * 1.3) + 0.2 * math.sin(timestep / 90)


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    timestep = float(np.interp(math.log(sigma), np.log(TABLE), np.arange(1000)))
    return x - sigma * predict(x / math.sqrt(sigma ** 2 + 1), timestep)


def drive(lane: Sampler) -> torch.Tensor:
    latents = lane.start(lane.draw(SHAPE, torch.device("cpu"), torch.float32))
    while not lane.done:
        latents, _ = lane.advance(predict(lane.scale(latents), lane.timestep), latents)
    return latents


def ours(sampler: str, schedule: str = "automatic", steps: int = 7, **fields: Any) -> torch.Tensor:
    spec = ImageSpec(prompt="a", sampler=sampler, schedule=schedule, steps=steps, **fields)
    return drive(SamplerFactory(CONFIG).build(spec, seed=3))


def noises() -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return lambda: torch.randn(SHAPE, generator=generator)


def karras(high: float, low: float, steps: int) -> list[float]:
    return [*((high ** (1 / 7) + i / max(steps - 1, 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
              for i in range(steps)), 0.0]


def leading(steps: int) -> list[float]:
    return [*(float(TABLE[step * (1000 // steps) + 1]) for step in reversed(range(steps))), 0.0]


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, atol=2e-3 * float(wanted.abs().max()), rtol=0), (found - wanted).abs().max()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dpmpp_2s_ancestral(eta: float) -> None:
    """DPM-Solver++ (2211.01095) algorithm 1 with r = 1/2, to sigma_down; then noise of sigma_up."""
    noise, levels = noises(), karras(leading(7)[0], leading(7)[-2], 7)
    x = noise() * math.sqrt(levels[0] ** 2 + 1)
    for s, n in pairwise(levels):
        up = min(n, eta * math.sqrt(n * n * (s * s - n * n) / (s * s)))
        down = math.sqrt(n * n - up * up)
        if down == 0:
            x = denoise(x, s)
            continue
        t, t2 = -math.log(s), -math.log(down)
        middle = math.exp(-(t + t2) / 2)
        u = middle / s * x - math.expm1(-(t2 - t) / 2) * denoise(x, s)
        x = down / s * x - math.expm1(-(t2 - t)) * denoise(u, middle)
        if up:
            x = x + up * noise()
    assert_close(ours("DPM++ 2S a", eta=eta), x)


@pytest.mark.parametrize(("eta", "s_noise"), [(0.4, 1.0), (1.0, 0.7)])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM2 a"])
def test_ancestral_options(sampler: str, eta: float, s_noise: float) -> None:
    noise, levels = noises(), leading(7)
    x = noise() * math.sqrt(levels[0] ** 2 + 1)
    for s, n in pairwise(levels):
        up = min(n, eta * math.sqrt(n * n * (s * s - n * n) / (s * s)))
        down = math.sqrt(n * n - up * up)
        slope = (x - denoise(x, s)) / s
        if sampler == "DPM2 a" and down:
            middle = math.exp((math.log(s) + math.log(down)) / 2)
            half = x + slope * (middle - s)
            slope = (half - denoise(half, middle)) / middle
        x = x + slope * (down - s) + noise() * s_noise * up
    assert_close(ours(sampler, "normal", eta=eta, s_noise=s_noise), x)


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM2"])
def test_churn(sampler: str) -> None:
    """Karras et al. 2022 (2206.00364), algorithm 2; DPM2 takes the slope at the geometric mean."""
    noise, levels = noises(), leading(7)
    x = noise() * math.sqrt(levels[0] ** 2 + 1)
    for s, n in pairwise(levels):
        if 0.5 <= s <= 6:
            hat = s * (1 + min(3 / 7, math.sqrt(2) - 1))
            x, s = x + noise() * 1.01 * math.sqrt(hat ** 2 - s ** 2), hat
        slope = (x - denoise(x, s)) / s
        if sampler == "Heun" and n:
            ahead = x + slope * (n - s)
            slope = (slope + (ahead - denoise(ahead, n)) / n) / 2
        if sampler == "DPM2" and n:
            middle = math.sqrt(s * n)
            half = x + slope * (middle - s)
            slope = (half - denoise(half, middle)) / middle
        x = x + slope * (n - s)
    assert_close(ours(sampler, "normal", s_churn=3, s_tmin=0.5, s_tmax=6, s_noise=1.01), x)


@pytest.mark.parametrize("steps", [5, 22, 40])
def test_restart(steps: int) -> None:
    """Xu et al. 2023 (2306.14878) with A1111's settings: Heun's descent, and again from near 2 to near 0.1."""
    noise = noises()
    high, low = leading(steps)[0], leading(steps)[-2]
    again, times = {5: (0, 0), 22: (9, 1), 40: (10, 2)}[steps]
    levels = karras(high, low, steps - again * times)
    x = noise() * math.sqrt(high ** 2 + 1)

    def heun(x: torch.Tensor, s: float, n: float) -> torch.Tensor:
        slope = (x - denoise(x, s)) / s
        if n == 0:
            return x - slope * s
        ahead = x + slope * (n - s)
        return x + (slope + (ahead - denoise(ahead, n)) / n) / 2 * (n - s)

    lowest = min(levels, key=lambda level: abs(level - 0.1))
    highest = min(levels, key=lambda level: abs(level - 2))
    for s, n in pairwise(levels):
        x = heun(x, s, n)
        for _ in range(times if n == lowest else 0):
            x = x + noise() * math.sqrt(highest ** 2 - lowest ** 2)
            part = karras(highest, lowest, again + 1)[:-1]
            for a, b in pairwise(part):
                x = heun(x, a, b)
    assert_close(ours("Restart", steps=steps), x)


def exact(high: float, low: float) -> torch.Tensor:
    """Heun's method in 3,000 tiny steps of log sigma, as far as `low`."""
    x = noises()() * math.sqrt(high ** 2 + 1)
    levels = np.exp(np.linspace(math.log(high), math.log(low), 3001)).tolist()
    for s, n in pairwise(levels):
        slope = (x - denoise(x, s)) / s
        ahead = x + slope * (n - s)
        x = x + (slope + (ahead - denoise(ahead, n)) / n) / 2 * (n - s)
    return x


def test_dpm_fast_and_adaptive_solve_the_equation() -> None:
    """DPM-Solver (2206.00927) is of third order: few calls come near the exact solution, more come nearer."""
    wanted = exact(float(TABLE[-1]), float(TABLE[0]))
    errors = [float((ours("DPM fast", steps=steps) - wanted).abs().max()) for steps in (9, 30, 90)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01 * float(wanted.abs().max())
    assert_close(ours("DPM adaptive", steps=20) / 10, wanted / 10)
    assert not torch.equal(ours("DPM fast", eta=0.5), ours("DPM fast"))


@pytest.mark.parametrize(("schedule", "wanted"), [
    ("simple", [float(TABLE[-1 - int(i * 1000 / 6)]) for i in range(6)]),
    ("sgm uniform", [float(np.exp(np.interp(999 * (1 - i / 6), np.arange(1000), np.log(TABLE)))) for i in range(6)]),
    ("kl optimal", [math.tan((1 - i / 5) * math.atan(leading(6)[0]) + i / 5 * math.atan(leading(6)[5]))
                    for i in range(6)]),
    ("polyexponential", [math.exp(math.log(leading(6)[5]) + (1 - i / 5) * math.log(leading(6)[0] / leading(6)[5]))
                         for i in range(6)]),
    ("align your steps", [14.615, 3.861, 1.886, 0.963, 0.399, 0.029]),
])
def test_schedules_that_diffusers_lacks(schedule: str, wanted: list[float]) -> None:
    """A plain Euler descent over levels computed here."""
    x = noises()() * math.sqrt(wanted[0] ** 2 + 1)
    for s, n in zip(wanted, [*wanted[1:], 0.0], strict=True):
        x = x + (x - denoise(x, s)) / s * (n - s)
    assert_close(ours("Euler", schedule, steps=6), x)


def test_bounds_and_rho() -> None:
    levels = karras(10.0, 0.1, 6)
    x = noises()() * math.sqrt(101)
    for s, n in pairwise(levels):
        x = x + (x - denoise(x, s)) / s * (n - s)
    assert_close(ours("Euler", "karras", steps=6, sigma_min=0.1, sigma_max=10), x)
    assert not torch.equal(ours("Euler", "karras", rho=3), ours("Euler", "karras"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_schedule_ends_well_and_repeats(sampler: str) -> None:
    factory = SamplerFactory(CONFIG)
    slow = sampler in ("DPM++ SDE", "LMS")
    for schedule in schedules_of(sampler)[::5 if slow else 1]:
        spec = ImageSpec(prompt="a", sampler=sampler, schedule=schedule, steps=4)
        lane = factory.build(spec, seed=5)
        first = drive(lane)
        assert lane.step == 4
        assert bool(torch.isfinite(first).all())
        assert torch.equal(first, drive(factory.build(spec, seed=5))), "not the same a second time"
        assert not torch.equal(first, drive(factory.build(spec, seed=6)))


@pytest.mark.parametrize(("name", "schedule", "wanted"), [
    ("DPM++ 2M Karras", "automatic", ("DPM++ 2M", "karras")),
    ("dpmpp_2m_sde", "SGM Uniform", ("DPM++ 2M SDE", "sgm uniform")),
    ("k_euler_ancestral", "automatic", ("Euler a", "normal")),
    ("DPM++ 3M SDE", "Automatic", ("DPM++ 3M SDE", "exponential")),
    ("Euler SGM Uniform", "automatic", ("Euler", "sgm uniform")), ("uni_pc", "turbo", ("UniPC", "trailing")),
    ("DPM++ 2M SDE Heun Exponential", "automatic", ("DPM++ 2M SDE Heun", "exponential")),
    ("DDIM", "linear", ("DDIM", "uniform")), ("Restart", "automatic", ("Restart", "karras")),
])
def test_names(name: str, schedule: str, wanted: tuple[str, str]) -> None:
    assert parse_sampler(name, schedule) == wanted


@pytest.mark.parametrize(("fields", "param", "words"), [
    ({"sampler": "Eule"}, "sampler", [*SAMPLERS]), ({"schedule": "wavy"}, "schedule", ["automatic", *SCHEDULES]),
    ({"sampler": "LCM", "schedule": "karras"}, "schedule", ["LCM", "karras", "normal"]),
    ({"sampler": "DDPM", "eta": 0.5}, "eta", ["0.5", "DDPM", "Euler a", "DDIM"]),
    ({"sampler": "Euler a", "s_churn": 4}, "s_churn", ["4", "Euler a", "Heun"]),
    ({"s_tmin": 3, "s_tmax": 2}, "s_tmin", ["3", "s_tmax", "2"]),
    ({"rho": 5, "schedule": "beta"}, "rho", ["5", "beta", "karras"]),
    ({"sigma_min": 2, "sigma_max": 1, "schedule": "karras"}, "sigma_min", ["2", "sigma_max", "1"]),
    ({"sampler": "LMS", "zero_terminal_snr": True}, "zero_terminal_snr", ["LMS", "Euler"]),
    ({"sampler": "PLMS", "prediction_type": "sample"}, "prediction_type", ["PLMS"]),
])
def test_refused(fields: dict[str, Any], param: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ImageSpec(prompt="a", **fields)
    assert caught.value.param == param
    assert all(word in caught.value.message for word in words), caught.value.message


@pytest.mark.parametrize(("fields", "param"), [
    ({"zero_terminal_snr": True}, "zero_terminal_snr"), ({"sigma_min": 20.0, "schedule": "karras"}, "sigma_min"),
    ({"sigma_max": 0.01, "schedule": "karras"}, "sigma_max")])
def test_refused_by_the_model(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplerFactory(CONFIG).check(ImageSpec(prompt="a", **fields))
    assert caught.value.param == param


def test_values_that_change_nothing_are_taken() -> None:
    assert ImageSpec(prompt="a", sampler="DDPM", s_churn=0, s_noise=1, s_tmin=0).sampler == "DDPM"
