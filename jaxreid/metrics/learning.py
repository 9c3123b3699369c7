"""Linear maps after which the Euclidean distance is a learned one: PCA, KISSME and LFDA.

"Where and When to Look" (section V-G, Table VII) reduces its features to 150 dimensions by PCA
and learns on those, from the training set, one of

* KISSME: Köstinger, Hirzer, Wohlhart, Roth, Bischof, "Large scale metric learning from
  equivalence constraints", CVPR 2012;
* LFDA: Sugiyama, "Dimensionality reduction of multimodal labeled data by local Fisher
  discriminant analysis", JMLR 8, 2007; for re-identification Pedagadi et al., CVPR 2013.

Both are sums over pairs of items, Σ w_ij (x_i - x_j)(x_i - x_j)ᵀ over i < j. With W the symmetric
matrix of the weights and D the diagonal one of its row sums, such a sum is Xᵀ (D - W) X, so no pair
is ever listed.

Where persons have few items, the scatter of one person's pairs is singular or nearly so: 89
persons of PRID2011, seen once by each of two cameras, leave a rank of 89 in 150 dimensions. The
papers say nothing about it. Here it is shrunk towards the scatter of two persons' pairs before its
inverse is taken, Σ_S ← (1 - β) Σ_S + β Σ_D: no direction is believed to be more than 1/β times
tighter within a person than between two. A multiple of I in the place of Σ_D, as is also usual,
drowns the last principal axes, whose variances are far below the mean one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float, Int

SHRINKAGE = 0.01
_BLOCK = 1024  # rows or columns that are in float64 at a time


class Projection(NamedTuple):
    """x ↦ (x - mean) matrix.

    Attributes:
        mean: of the items that it was learned from.
        matrix: its k columns span what is kept.
    """

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "d k"]

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Projects items, in float64."""
        out = np.empty((len(x), self.matrix.shape[1]))
        for start in range(0, len(x), _BLOCK):
            out[start : start + _BLOCK] = (x[start : start + _BLOCK] - self.mean) @ self.matrix
        return out


def pca(x: Float[np.ndarray, "n d"], dim: int) -> Projection:
    """The principal axes, in order of falling variance; orthonormal and not whitened.

    They come from the eigenvectors of the smaller one of the n x n and the d x d products of the
    centred items, so neither is as large as it looks: 8,298 clips of 12,544 numbers need the
    former. The products are summed in float64 over blocks, without a float64 copy of `x`.

    Args:
        x: one item in each row.
        dim: how many axes. At most min(n - 1, d) exist, fewer where items are dependent: then
            `matrix` has that many columns. Axes whose standard deviation is below a millionth or
            so of the first one's do not count: in float32 features they are rounding.

    Raises:
        ValueError: `x` is not a matrix of at least two different finite rows, or `dim` < 1.
    """
    _check(x)
    _check_positive("dim", dim)
    n, d = x.shape
    mean = x.mean(axis=0, dtype=np.float64)

    def blocks() -> Iterator[Float[np.ndarray, "m min_n_d"]]:
        for start in range(0, max(n, d), _BLOCK):
            part = slice(start, start + _BLOCK)
            yield (x[:, part] - mean[part]).T if n < d else x[part] - mean

    size = min(n, d)
    product = np.zeros((size, size))
    for block in blocks():
        product += block.T @ block
    values, vectors = scipy.linalg.eigh(
        product.T,  # symmetric, but LAPACK works in place only on columns
        subset_by_index=(max(0, size - dim), size - 1),
        overwrite_a=True,
        check_finite=False,
    )
    vectors = vectors[:, values > max(n, d) * np.finfo(float).eps * values[-1]][:, ::-1]
    if n < d:  # Xᵀ u is s v for a singular triple (u, s, v): QR takes the lengths off
        vectors = np.linalg.qr(np.concatenate([block @ vectors for block in blocks()])).Q
    return Projection(mean, vectors)


def kissme(
    x: Float[np.ndarray, "n d"],
    pids: Int[np.ndarray, " n"],
    camids: Int[np.ndarray, " n"] | None = None,
    *,
    shrinkage: float = SHRINKAGE,
) -> Projection:
    """KISSME: the log-likelihood ratio of a difference between one person and two.

    Differences of either kind are taken as Gaussian about zero. Their log-likelihood ratio is, up
    to a constant and a factor, (x_i - x_j)ᵀ M (x_i - x_j) with M = Σ_S⁻¹ - Σ_D⁻¹. M is projected
    on the cone of positive semidefinite matrices, its negative eigenvalues set to zero, and
    factored: M = L Lᵀ.

    Σ_S is the mean over all pairs of one person, shrunk (see the head of this file), and Σ_D over
    all pairs of two persons.

    Args:
        x: one item in each row, of few and independent dimensions: after `pca`.
        pids: person of each item; of a training set, so without junk (-1).
        camids: camera of each item. Where given, pairs of one person count only across cameras,
            which is what is asked of the metric; unless no person was seen by two cameras.
        shrinkage: β. At 0, Σ_S has to be regular.

    Returns:
        L, as many columns as M has positive eigenvalues, the largest first.

    Raises:
        ValueError: `x` holds something not finite or no two different rows, shapes disagree, a
            pid is negative, there are fewer than two persons or no two items of one, Σ_S or Σ_D is
            singular, or M has no positive eigenvalue.
    """
    _check(x, pids, camids)
    mean = x.mean(axis=0, dtype=np.float64)
    x = x - mean
    everyone, all_pairs = _scatter_within(x, np.zeros(len(x), int))
    similar, similar_pairs = _scatter_within(x, pids)
    sigma_d = (everyone - similar) / (all_pairs - similar_pairs)
    if camids is not None:
        _, tracks = np.unique(np.stack([pids, camids]), axis=1, return_inverse=True)
        same_camera, same_camera_pairs = _scatter_within(x, tracks)
        if same_camera_pairs < similar_pairs:
            similar, similar_pairs = similar - same_camera, similar_pairs - same_camera_pairs
    sigma_s = (1 - shrinkage) * similar / similar_pairs + shrinkage * sigma_d
    whiten_s, whiten_d = _whitening(sigma_s), _whitening(sigma_d)
    values, vectors = scipy.linalg.eigh(whiten_s @ whiten_s.T - whiten_d @ whiten_d.T)
    return Projection(mean, _scaled(values, vectors))


def lfda(
    x: Float[np.ndarray, "n d"],
    pids: Int[np.ndarray, " n"],
    dim: int | None = None,
    neighbours: int = 7,
    *,
    shrinkage: float = SHRINKAGE,
) -> Projection:
    """Local Fisher discriminant analysis: persons apart, and near items of a person together.

    Items i, j of one person have the affinity A_ij = exp(-‖x_i - x_j‖² / (σ_i σ_j)), where σ_i is
    the distance of x_i to its `neighbours`-th neighbour among that person's items (to the farthest
    where there are fewer). With n items, n_c of them of the person c, the weights of a pair are

        within:   A_ij / n_c                 between:  A_ij (1/n - 1/n_c)   for one person
                  0                                    1/n                  for two persons

    and the axes solve S_b φ = λ S_w φ. S_w is shrunk towards the second row of S_b (see the head of
    this file). Each φ has φᵀ S_w φ = 1 and is scaled by √λ, Sugiyama's weighted form, so that the
    Euclidean distance trusts an axis as far as it tells persons apart. Axes with λ ≤ 0 do not,
    and are left out.

    Args:
        x: one item in each row, of few and independent dimensions: after `pca`.
        pids: person of each item; of a training set, so without junk (-1).
        dim: how many axes at most, those of the largest λ. None: all with λ > 0.
        neighbours: which neighbour sets the scale; Sugiyama takes 7.
        shrinkage: β. At 0, S_w has to be regular.

    Returns:
        As many columns as there are axes.

    Raises:
        ValueError: `x` holds something not finite or no two different rows, shapes disagree, a
            pid is negative, there are fewer than two persons or no two items of one, `dim` or
            `neighbours` < 1, S_w is singular, or no λ is positive.
    """
    _check(x, pids)
    _check_positive("dim", 1 if dim is None else dim)
    _check_positive("neighbours", neighbours)
    n, d = x.shape
    mean = x.mean(axis=0, dtype=np.float64)
    x = x - mean
    within, local = np.zeros((d, d)), np.zeros((d, d))
    for pid in np.unique(pids):
        items = x[pids == pid]
        affinity = _affinity(items, neighbours)
        laplacian = np.diag(affinity.sum(axis=1)) - affinity
        scatter = items.T @ laplacian @ items
        within += scatter / len(items)
        local += scatter / n
    apart = (_scatter_within(x, np.zeros(n, int))[0] - _scatter_within(x, pids)[0]) / n
    between = local - within + apart
    # With P such that Pᵀ S_w P = I the problem is Pᵀ S_b P ψ = λ ψ, and φ = P ψ.
    whiten = _whitening((1 - shrinkage) * within + shrinkage * apart)
    values, vectors = scipy.linalg.eigh(whiten.T @ between @ whiten)
    return Projection(mean, whiten @ _scaled(values, vectors)[:, :dim])


def _scatter_within(
    x: Float[np.ndarray, "n d"], groups: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "d d"], int]:
    """Σ (x_i - x_j)(x_i - x_j)ᵀ over the pairs i < j of one group, and how many those are.

    W is 1 within a group: D holds the sizes of the groups, and Xᵀ W X the products of their sums.
    """
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    member = scipy.sparse.csr_array((np.ones(len(x)), (group, np.arange(len(x)))))
    sums = member @ x
    return (size[group] * x.T) @ x - sums.T @ sums, int((size * (size - 1) // 2).sum())


def _affinity(x: Float[np.ndarray, "n d"], neighbours: int) -> Float[np.ndarray, "n n"]:
    """Sugiyama's A of the items of one person. Its diagonal has no part in a scatter."""
    squared = np.square(x[:, None] - x[None]).sum(axis=2)
    sigma = np.sqrt(np.sort(squared, axis=1)[:, min(neighbours, len(x) - 1)])  # 0 is the item
    scale = sigma[:, None] * sigma
    # Where copies of an item leave no scale, only they are near it, and they add no scatter.
    ratio = np.divide(squared, scale, out=np.full_like(squared, np.inf), where=scale > 0)
    return np.exp(-ratio)


def _whitening(scatter: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """P with P Pᵀ = Σ⁻¹ and Pᵀ Σ P = I."""
    values, vectors = scipy.linalg.eigh(scatter)
    if values[0] <= len(values) * np.finfo(float).eps * values[-1]:
        raise ValueError(
            f"the scatter of the pairs has no inverse in {len(values)} dimensions: "
            "reduce them by pca, or give a shrinkage above 0"
        )
    return vectors / np.sqrt(values)


def _scaled(
    values: Float[np.ndarray, " d"], vectors: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "d k"]:
    """L with L Lᵀ the positive part of V diag(values) Vᵀ; ascending in, the largest first out."""
    positive = values > len(values) * np.finfo(float).eps * np.abs(values).max()
    if not positive.any():
        raise ValueError("nothing to learn: items of one person are no more alike than others")
    return (vectors[:, positive] * np.sqrt(values[positive]))[:, ::-1]


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; expected 1 or more")


def _check(
    x: Float[np.ndarray, "n d"],
    pids: Int[np.ndarray, " n"] | None = None,
    camids: Int[np.ndarray, " n"] | None = None,
) -> None:
    if np.ndim(x) != 2:
        raise ValueError(f"x has shape {np.shape(x)}; expected (n, d)")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise ValueError(f"item {finite.argmin()} has features that are not finite")
    if (x == x[:1]).all():
        raise ValueError(f"the {len(x)} items all have the same features")
    for name, labels in (("pids", pids), ("camids", camids)):
        if labels is not None and np.shape(labels) != (len(x),):
            raise ValueError(
                f"shapes disagree: x {np.shape(x)}, {name} {np.shape(labels)}; "
                "expected (n, d) and (n,)"
            )
    if pids is not None:
        persons, count = np.unique(pids, return_counts=True)
        if persons[0] < 0:
            raise ValueError(f"item {np.argmin(pids)} has pid {persons[0]}, which is nobody")
        if len(persons) < 2:
            raise ValueError(f"all items are of person {persons[0]}; expected two or more persons")
        if count.max() < 2:
            raise ValueError(f"none of the {len(persons)} persons has two items")
