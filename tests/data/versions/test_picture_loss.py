"""SSIM: its definition written out, scikit-image's number, and the manifest's fields in older versions."""

import numpy as np
import pytest

from rlhive.data._pictures import find_layout
from rlhive.data.versions._picture_loss import PictureErrors, PictureLoss, compare_pictures, compute_ssim


def draw_pair(height=48, width=64):
    """Return a picture of ramps, and the same with noise."""
    ramps = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([1, 2, 0.5])
    original = (ramps % 256).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 12, original.shape)
    return original, np.clip(original + noise, 0, 255).astype(np.uint8)


def to_luma(picture):
    return picture @ np.array([0.299, 0.587, 0.114])


def ssim_by_windows(before, after):
    """Return the mean over all windows of 11 x 11 pixels, as the paper defines it."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for row in range(5, before.shape[0] - 5):
        for column in range(5, before.shape[1] - 5):
            x, y = (part[row - 5 : row + 6, column - 5 : column + 6] for part in (before, after))
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            variance_x, variance_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
            covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append(
                (2 * mean_x * mean_y + c1)
                * (2 * covariance + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
            )
    return np.mean(values)


def test_it_is_the_mean_over_gaussian_windows():
    original, noisy = draw_pair()
    assert compute_ssim(original, noisy) == pytest.approx(ssim_by_windows(to_luma(original), to_luma(noisy)), abs=2e-6)


def test_it_is_the_number_of_scikit_image():
    """structural_similarity(luma, luma, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=255) of scikit-image 0.26.0, in float64.
    """
    assert compute_ssim(*draw_pair()) == pytest.approx(0.5736309523463015, abs=1e-6)


def test_equal_pictures_have_one_and_even_ones_follow_the_formula():
    original, _ = draw_pair()
    assert compute_ssim(original, original) == pytest.approx(1.0, abs=1e-6)
    light, dark = np.full((16, 16, 1), 200, np.uint8), np.full((16, 16, 1), 100, np.uint8)
    expected = (2 * 200 * 100 + 2.55**2) / (200**2 + 100**2 + 2.55**2)
    assert compute_ssim(light, dark) == pytest.approx(expected, abs=1e-5)


def test_large_pictures_are_reduced_by_means_of_blocks():
    original, noisy = draw_pair(480, 645)
    reduced = [
        to_luma(picture)[:, :644].reshape(240, 2, 322, 2).mean((1, 3))[..., None] for picture in (original, noisy)
    ]
    assert compute_ssim(original, noisy) == pytest.approx(
        ssim_by_windows(*(part[..., 0] for part in reduced)), abs=1e-5
    )


def test_a_picture_smaller_than_a_window_is_continued_by_its_mirror_image():
    original, noisy = draw_pair(6, 8)
    mirrored = [np.pad(to_luma(picture), 5, mode="symmetric") for picture in (original, noisy)]
    assert compute_ssim(original, noisy) == pytest.approx(ssim_by_windows(*mirrored), abs=2e-6)


@pytest.mark.parametrize("shape", [(2, 48, 64, 3), (3, 48, 64)])
def test_pictures_of_rows_are_compared_one_by_one(shape):
    layout = find_layout("uint8", shape)
    original, noisy = (np.moveaxis(part, 2, 0) if shape[0] == 3 else part for part in draw_pair())
    pictures = [(original, noisy), (original, original)]
    if shape[0] == 3:
        rows = [np.stack(part) for part in zip(*pictures, strict=True)]
    else:
        rows = [np.stack(part)[None] for part in zip(*pictures, strict=True)]
    errors = compare_pictures(*rows, layout)
    assert errors.similarity == pytest.approx([0.573631, 1.0], abs=1e-5)
    assert errors.mean_squared[0] == np.square(original.astype(int) - noisy).mean()
    assert errors.mean_squared[1] == 0


def test_a_split_has_the_means_and_the_worst():
    loss = PictureLoss(
        [
            PictureErrors(np.array([0.0, 2.0]), np.array([1.0, 0.9])),
            PictureErrors(np.array([4.0]), np.array([0.5])),
        ]
    )
    assert loss.to_json() == {
        "num_pictures": 3,
        "psnr": round(10 * np.log10(255**2 / 2), 2),
        "min_psnr": round(10 * np.log10(255**2 / 4), 2),
        "ssim": 0.8,
        "min_ssim": 0.5,
    }
