"""The CTF, against two other programs' formulas. Ours has torch-ctf's sign; cryoDRGN's is the opposite."""

import numpy as np
import pytest
import torch
import torch_ctf

from equipose.core.ctf import CTF_COLUMNS, ctf, electron_wavelength

BOX, PIXEL = 64, 2.5
ASTIGMATIC = {
    "defocus_u": 22000.0,
    "defocus_v": 17000.0,
    "defocus_angle": 35.0,
    "voltage": 300.0,
    "spherical_aberration": 2.7,
    "amplitude_contrast": 0.1,
    "phase_shift": 20.0,
}


def parameters(**changes: float) -> torch.Tensor:
    values = ASTIGMATIC | changes
    return torch.tensor([values[name] for name in CTF_COLUMNS], dtype=torch.float64)


def grid() -> torch.Tensor:
    """All frequencies (BOX², 2) in cycles per box, in the order of fftfreq along y, then x."""
    k = torch.fft.fftfreq(BOX, 1 / BOX, dtype=torch.float64)
    y, x = torch.meshgrid(k, k, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def test_agrees_with_torch_ctf_with_astigmatism_and_a_phase_plate() -> None:
    expected = torch_ctf.calculate_ctf_2d(
        defocus=torch.tensor((2.2 + 1.7) / 2),
        astigmatism=(2.2 - 1.7) / 2,
        astigmatism_angle=ASTIGMATIC["defocus_angle"],
        voltage=ASTIGMATIC["voltage"],
        spherical_aberration=ASTIGMATIC["spherical_aberration"],
        amplitude_contrast=ASTIGMATIC["amplitude_contrast"],
        phase_shift=ASTIGMATIC["phase_shift"],
        pixel_size=PIXEL,
        image_shape=(BOX, BOX),
        rfft=False,
        fftshift=False,
    )
    ours = ctf(parameters(), grid(), BOX * PIXEL).reshape(BOX, BOX)
    torch.testing.assert_close(ours, expected.double().squeeze(), atol=2e-3, rtol=0)


def test_arrays_and_tensors_have_one_ctf() -> None:
    both = torch.stack([parameters(), parameters(defocus_u=9000.0, phase_shift=90.0)])
    with_envelope = torch.cat([both, torch.tensor([[60.0, 0.9], [0.0, 1.1]], dtype=torch.float64)], dim=1)
    for values in (both, with_envelope):
        found = ctf(values.numpy(), grid().numpy(), BOX * PIXEL)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, ctf(values, grid(), BOX * PIXEL).numpy(), atol=1e-12)
        single = ctf(values.float().numpy(), grid().float().numpy(), BOX * PIXEL)
        assert single.dtype == np.float32


def test_is_minus_cryodrgns_formula() -> None:
    x, y = (grid() / (BOX * PIXEL)).numpy().T
    p = ASTIGMATIC
    volts, cs, contrast = p["voltage"] * 1e3, p["spherical_aberration"] * 1e7, p["amplitude_contrast"]
    wavelength = 12.2639 / np.sqrt(volts + 0.97845e-6 * volts**2)
    angle, s2 = np.arctan2(y, x), x**2 + y**2
    u, v = p["defocus_u"], p["defocus_v"]
    defocus = 0.5 * (u + v + (u - v) * np.cos(2 * (angle - np.radians(p["defocus_angle"]))))
    gamma = 2 * np.pi * (-0.5 * defocus * wavelength * s2 + 0.25 * cs * wavelength**3 * s2**2)
    gamma -= np.radians(p["phase_shift"])
    expected = np.sqrt(1 - contrast**2) * np.sin(gamma) - contrast * np.cos(gamma)
    # cryoDRGN rounds the constant of the wavelength: 3.5e-5 of a phase that reaches 90 radians.
    np.testing.assert_allclose(-ctf(parameters(), grid(), BOX * PIXEL).numpy(), expected, atol=5e-3)


def test_is_the_amplitude_contrast_at_zero_frequency_and_rises_from_there() -> None:
    k = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    values = ctf(parameters(phase_shift=0.0), k, 128 * 4.25)
    assert values[0].item() == pytest.approx(0.1)
    assert (values.diff() > 0).all()


def test_a_quarter_wave_phase_plate_gives_full_contrast_at_zero_frequency() -> None:
    values = ctf(parameters(phase_shift=90.0, amplitude_contrast=0.0), torch.zeros(1, 2, dtype=torch.float64), 100.0)
    assert values.item() == pytest.approx(1.0)


@pytest.mark.parametrize("angle, k", [(0.0, (9.0, 0.0)), (90.0, (0.0, 9.0)), (45.0, (7.0, 7.0)), (-45.0, (7.0, -7.0))])
def test_defocus_u_acts_along_its_own_axis_measured_from_x_towards_y(angle: float, k: tuple[float, float]) -> None:
    frequency = torch.tensor([k], dtype=torch.float64)
    along = ctf(parameters(defocus_angle=angle), frequency, BOX * PIXEL)
    round_ = ctf(parameters(defocus_v=ASTIGMATIC["defocus_u"]), frequency, BOX * PIXEL)
    torch.testing.assert_close(along, round_)


@pytest.mark.parametrize("voltage, wavelength", [(300.0, 0.019687), (200.0, 0.025079), (100.0, 0.037014)])
def test_the_electron_wavelength_is_relativistic(voltage: float, wavelength: float) -> None:
    assert electron_wavelength(torch.tensor(voltage)).item() == pytest.approx(wavelength, rel=1e-4)


def test_a_batch_of_parameters_gives_a_row_for_each() -> None:
    batch = torch.stack([parameters(), parameters(defocus_u=15000.0)])
    values = ctf(batch, grid(), BOX * PIXEL)
    assert values.shape == (2, BOX * BOX)
    torch.testing.assert_close(values[1], ctf(batch[1], grid(), BOX * PIXEL))


def test_with_nine_parameters_amplitudes_fall_off_and_scale_as_in_relion() -> None:
    k = torch.tensor([[0.0, 0.0], [3.0, -4.0], [10.0, 0.0]])
    plain = torch.tensor([[2e4, 1.9e4, 30.0, 300.0, 2.7, 0.1, 0.0]])
    envelope = 0.7 * torch.exp(-100.0 / 4 * k.square().sum(-1) / 128.0**2)
    torch.testing.assert_close(
        ctf(torch.cat([plain, torch.tensor([[100.0, 0.7]])], 1), k, 128.0), ctf(plain, k, 128.0) * envelope
    )


def test_images_may_each_have_frequencies_of_their_own() -> None:
    batch = torch.stack([parameters(), parameters(defocus_u=15000.0)])
    frequencies = torch.stack([grid(), grid().flip(0)])
    values = ctf(batch, frequencies, BOX * PIXEL)
    for row in range(2):
        torch.testing.assert_close(values[row], ctf(batch[row], frequencies[row], BOX * PIXEL))
