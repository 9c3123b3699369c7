import subprocess
import sys

import numpy as np
import pytest

from jaxreid.metrics import Mixture, fisher_vector, fit_mixture


def some(seed=0, t=7, d=3, k=2):
    rng = np.random.default_rng(seed)
    weights = rng.random(k) + 0.2
    mixture = Mixture(weights / weights.sum(), rng.normal(size=(k, d)), rng.random((k, d)) + 0.5)
    return 2 * rng.normal(size=(t, d)), mixture


def density(h, mean, sigma):
    return np.prod(np.exp(-(((h - mean) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi)))


def by_equation_10(frames, mixture):
    t, sigmas, vector = len(frames), np.sqrt(mixture.variances), []
    joint = np.array(
        [
            [pi * density(h, mu, sigma) for pi, mu, sigma in zip(*mixture[:2], sigmas)]
            for h in frames
        ]
    )
    for k, (pi, mu, sigma) in enumerate(zip(*mixture[:2], sigmas)):
        u, v = np.zeros(len(mu)), np.zeros(len(mu))
        for i, h in enumerate(frames):
            q = joint[i, k] / joint[i].sum()
            u += q * (h - mu) / sigma / (t * np.sqrt(pi))
            v += q * (((h - mu) / sigma) ** 2 - 1) / (t * np.sqrt(2 * pi))
        vector += [u, v]
    return np.concatenate(vector)


def mean_log_likelihood(frames, weights, means, sigmas):
    return np.mean(
        [
            np.log(sum(pi * density(h, mu, s) for pi, mu, s in zip(weights, means, sigmas)))
            for h in frames
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_of_equation_10(seed):
    frames, mixture = some(seed, t=5 + seed, d=2 + seed, k=1 + seed)
    got = fisher_vector(frames, mixture, normalise=False)
    assert got.shape == (2 * (2 + seed) * (1 + seed),)
    np.testing.assert_allclose(got, by_equation_10(frames, mixture), rtol=1e-10)


def test_is_the_scaled_gradient_of_the_log_likelihood():
    frames, mixture = some()
    weights, means, sigmas = mixture.weights, mixture.means, np.sqrt(mixture.variances)
    step, want = 1e-5, np.zeros((2, 2, 3))
    for k in range(2):
        for i in range(3):
            for part, scale in ((0, np.sqrt(weights[k])), (1, np.sqrt(2 * weights[k]))):
                shift = np.zeros((2, 2, 3))  # of the means, of the deviations
                shift[part, k, i] = step
                up = mean_log_likelihood(frames, weights, means + shift[0], sigmas + shift[1])
                down = mean_log_likelihood(frames, weights, means - shift[0], sigmas - shift[1])
                want[k, part, i] = (up - down) / (2 * step) * sigmas[k, i] / scale
    got = fisher_vector(frames, mixture, normalise=False)
    np.testing.assert_allclose(got, want.ravel(), rtol=1e-7, atol=1e-9)


def test_literal_values_of_one_gaussian():
    mixture = Mixture(np.ones(1), np.array([[1.0, 0]]), np.array([[4.0, 1]]))
    frames = np.array([[3.0, 0], [1, 2]])  # z = (1, 0), (0, 2)
    got = fisher_vector(frames, mixture, normalise=False)
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(got, [0.5, 1, -0.5 * half, half], rtol=1e-12)
    rooted = np.array([np.sqrt(0.5), 1, -np.sqrt(0.5 * half), np.sqrt(half)])
    want = rooted / np.linalg.norm(rooted)
    np.testing.assert_allclose(fisher_vector(frames, mixture), want, rtol=1e-12)


def test_frames_of_the_mixture_itself_have_almost_none():
    _, mixture = some(1)
    rng = np.random.default_rng(0)
    k = rng.choice(2, 200_000, p=mixture.weights)
    frames = mixture.means[k] + np.sqrt(mixture.variances[k]) * rng.normal(size=(len(k), 3))
    assert np.abs(fisher_vector(frames, mixture, normalise=False)).max() < 0.01


def test_order_and_repetition_of_frames_do_not_matter():
    frames, mixture = some()
    want = fisher_vector(frames, mixture)
    np.testing.assert_allclose(fisher_vector(frames[::-1], mixture), want, atol=1e-12)
    np.testing.assert_allclose(fisher_vector(np.tile(frames, (3, 1)), mixture), want, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(want), 1, rtol=1e-12)


def test_frames_far_from_every_component():
    frames, mixture = some(d=200)
    got = fisher_vector(1e3 * frames, mixture)  # every density underflows
    assert np.isfinite(got).all()
    assert np.linalg.norm(got) == pytest.approx(1)


def test_a_vector_of_zeros_stays_zero():
    mixture = Mixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1)))
    assert fisher_vector(np.array([[1.0], [-1]]), mixture).tolist() == [0, 0]


def test_frames_that_are_missing_or_not_finite():
    frames, mixture = some()
    with pytest.raises(ValueError, match=r"frames \(0, 3\) is empty"):
        fisher_vector(frames[:0], mixture)
    frames[2, 1] = np.inf
    with pytest.raises(ValueError, match=r"frames \(7, 3\) .* not finite"):
        fisher_vector(frames, mixture)


# The mixture


def two_clusters(n=600):
    rng = np.random.default_rng(0)
    near = np.arange(n) % 3 == 0
    means, sigmas = np.array([[5.0, -5], [0, 8]]), np.array([[1.0, 2], [0.5, 1]])
    chosen = np.where(near, 0, 1)
    return means[chosen] + sigmas[chosen] * rng.normal(size=(n, 2)), means, sigmas


def test_a_mixture_finds_clusters():
    frames, means, sigmas = two_clusters()
    mixture = fit_mixture(frames.astype(np.float32), 2, seed=0)
    order = np.argsort(mixture.weights)
    np.testing.assert_allclose(mixture.weights[order], [1 / 3, 2 / 3], atol=0.01)
    np.testing.assert_allclose(mixture.means[order], means, atol=0.5)
    np.testing.assert_allclose(np.sqrt(mixture.variances[order]), sigmas, rtol=0.1)
    assert all(part.dtype == np.float64 for part in mixture)


def test_a_seed_decides_frames_and_mixture():
    frames, _, _ = two_clusters()
    one, same = (fit_mixture(frames, 3, seed=1, max_frames=200) for _ in range(2))
    for a, b in zip(one, same):
        np.testing.assert_array_equal(a, b)
    other = fit_mixture(frames, 3, seed=2, max_frames=200)
    assert np.abs(other.means - one.means).max() > 0.01


def test_only_so_many_frames_are_seen():
    frames = np.arange(50.0)[:, None]
    mean = fit_mixture(frames, 1, seed=5, max_frames=10).means.item()
    drawn = np.random.default_rng(5).choice(50, 10, replace=False)
    assert mean == pytest.approx(drawn.mean())
    assert fit_mixture(frames, 1, seed=5, max_frames=50).means.item() == pytest.approx(24.5)


def test_a_silent_dimension_has_a_variance():
    frames, _, _ = two_clusters()
    frames[:, 1] = 0
    variances = fit_mixture(frames, 2, seed=0).variances
    np.testing.assert_allclose(variances[:, 1], 1e-3 * frames.var(axis=0).mean(), rtol=1e-6)


def test_mixtures_that_cannot_be_fitted():
    frames, _, _ = two_clusters()
    with pytest.raises(ValueError, match="components is 8; expected 1 to 7, the frames"):
        fit_mixture(frames[:7], 8, seed=0)
    with pytest.raises(ValueError, match="components is 0; expected 1 to 600"):
        fit_mixture(frames, 0, seed=0)
    frames[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_mixture(frames, 2, seed=0)


def test_scikit_learn_is_imported_when_a_mixture_is_fitted():
    code = "import sys, jaxreid.metrics; assert not {'sklearn', 'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
