"""Fisher vectors: how the frames of a tracklet differ from a mixture of Gaussians.

Eq. (10) of "Where and When to Look" (its Table IV), after Sánchez, Perronnin, Mensink, Verbeek,
"Image classification with the Fisher vector: theory and practice", IJCV 105, 2013.
"""

from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float


class Mixture(NamedTuple):
    """A mixture of k Gaussians with diagonal covariances.

    Attributes:
        weights: π, of sum 1.
        means: μ.
        variances: σ², of each dimension.
    """

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    variances: Float[np.ndarray, "k d"]


def fit_mixture(
    frames: Float[np.ndarray, "n d"], components: int, seed: int, *, max_frames: int = 20_000
) -> Mixture:
    """Fits a mixture to the descriptors of frames: scikit-learn's EM, started from k-means.

    Diagonal covariances suit decorrelated descriptors, and EM works on a few float64 copies of
    the frames: Sánchez et al. reduce them by PCA first (see `jaxreid.metrics.pca`).

    Args:
        frames: one descriptor in each row, of the training set's tracklets.
        components: k.
        seed: of EM's start and of the choice of frames.
        max_frames: where there are more, EM sees this many, drawn without replacement.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: `frames` is not a matrix of finite numbers, or has fewer rows than `components`.
    """
    from sklearn.mixture import GaussianMixture  # An extra.

    if np.ndim(frames) != 2:
        raise ValueError(f"frames has shape {np.shape(frames)}; expected (n, d)")
    if len(frames) > max_frames:
        frames = frames[np.random.default_rng(seed).choice(len(frames), max_frames, replace=False)]
    frames = frames.astype(np.float64)
    if not np.isfinite(frames).all():
        raise ValueError("frames holds numbers that are not finite")
    if not 1 <= components <= len(frames):
        raise ValueError(f"components is {components}; expected 1 to {len(frames)}, the frames")
    # So that a dimension that is silent in training does not rule the posteriors where it speaks.
    floor = 1e-3 * frames.var(axis=0).mean()
    mixture = GaussianMixture(
        components, covariance_type="diag", reg_covar=floor, random_state=seed
    )
    mixture.fit(frames)
    return Mixture(mixture.weights_, mixture.means_, mixture.covariances_)


def fisher_vector(
    frames: Float[np.ndarray, "t d"], mixture: Mixture, *, normalise: bool = True
) -> Float[np.ndarray, " f"]:
    """The Fisher vector of one tracklet: u_1, v_1, ..., u_k, v_k of Eq. (10), f = 2 d k numbers.

    They are the gradients of the frames' mean log-likelihood by μ and σ, times σ / √π and
    σ / √(2π), which makes them comparable (the inverse root of the Fisher information).

    Args:
        frames: one descriptor in each row; their order does not matter.
        mixture: of as many dimensions.
        normalise: whether to take signed square roots and then unit length, as Sánchez et al. do.
            The paper does not say; without, it is Eq. (10) as it stands.

    Raises:
        ValueError: there is no frame, or a number is not finite.
    """
    if not len(frames) or not np.isfinite(frames).all():
        raise ValueError(f"frames {np.shape(frames)} is empty or holds numbers that are not finite")
    pi, sigma = mixture.weights, np.sqrt(mixture.variances)

    # One component at a time: frames x components x dimensions can be gigabytes.
    log_joint = [
        np.log(pi_k) - np.log(sigma_k).sum() - np.square((frames - mu_k) / sigma_k).sum(axis=1) / 2
        for pi_k, mu_k, sigma_k in zip(pi, mixture.means, sigma)
    ]
    q = scipy.special.softmax(np.stack(log_joint), axis=0)  # [k t]
    vector = []
    for q_k, pi_k, mu_k, sigma_k in zip(q, pi, mixture.means, sigma):  # Eq. (10)
        z = (frames - mu_k) / sigma_k
        vector.append(q_k @ z / (len(frames) * np.sqrt(pi_k)))
        vector.append(q_k @ (np.square(z) - 1) / (len(frames) * np.sqrt(2 * pi_k)))
    out = np.concatenate(vector)
    if normalise:
        out = np.sign(out) * np.sqrt(np.abs(out))
        out /= max(np.linalg.norm(out), np.finfo(float).tiny)
    return out
