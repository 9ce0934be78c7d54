"""Boxes and similarity transforms in NumPy: pure functions that both the run time and the training code use.

Boxes are ``x1, y1, x2, y2`` in pixels, continuous: a box from 2 to 5 is 3 wide (no "+1"). Points are ``x, y``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

# Points closer to one spot than this (root mean square, pixels) carry no direction that a similarity could follow.
_DEGENERATE_SPREAD_PX = 1e-6


def box_area(boxes: npt.ArrayLike) -> FloatArray:
    """Area of each box (N, 4) in square pixels, shape (N,); a box whose corners are swapped has area 0."""
    corners = _as_boxes(boxes)
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Intersection over union of every pair of boxes.

    Args:
        a: boxes (N, 4).
        b: boxes (M, 4).

    Returns:
        (N, M), each in 0..1; 0 where both boxes are empty.
    """
    first, second = _as_boxes(a), _as_boxes(b)
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = box_area(first)[:, None] + box_area(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def share_inside(boxes: npt.ArrayLike, regions: npt.ArrayLike) -> FloatArray:
    """The largest share of each box's area that lies in one region.

    Args:
        boxes: (N, 4).
        regions: (M, 4).

    Returns:
        (N,), each in 0..1; 0 for a box without area, and without regions.
    """
    inner, outer = _as_boxes(boxes), _as_boxes(regions)
    if not len(outer):
        return np.zeros(len(inner), inner.dtype)
    top_left = np.maximum(inner[:, None, :2], outer[None, :, :2])
    bottom_right = np.minimum(inner[:, None, 2:], outer[None, :, 2:])
    shared = np.maximum(bottom_right - top_left, 0).prod(axis=2).max(axis=1)
    area = box_area(inner)
    return np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)


def clip_boxes(boxes: npt.ArrayLike, width: float, height: float) -> FloatArray:
    """Boxes (N, 4) cut at the edges of a picture of that width and height; a box wholly outside becomes empty."""
    corners = _as_boxes(boxes).copy()
    corners[:, 0::2] = np.clip(corners[:, 0::2], 0, width)
    corners[:, 1::2] = np.clip(corners[:, 1::2], 0, height)
    return corners


def estimate_similarity(src: npt.ArrayLike, dst: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Least-squares similarity (rotation, one scale, shift; never a reflection) that takes ``src`` to ``dst``.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991,
    equations 40 to 42.

    Args:
        src: points (K, 2), K at least 2.
        dst: points (K, 2), the same number.

    Returns:
        (2, 3) float64: ``dst ≈ matrix[:, :2] @ src + matrix[:, 2]``.

    Raises:
        ValueError: the shapes differ, a coordinate is not finite, or the points determine no similarity.
    """
    source, target = np.asarray(src, np.float64), np.asarray(dst, np.float64)
    if source.ndim != 2 or source.shape[1] != 2 or source.shape != target.shape or len(source) < 2:
        raise ValueError(f"need two arrays of the same shape (K, 2) with K >= 2, got {source.shape} and {target.shape}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points must be finite numbers, got NaN or infinity")
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_centred, target_centred = source - source_mean, target - target_mean
    variance = float((source_centred**2).sum(1).mean())
    if variance < _DEGENERATE_SPREAD_PX**2:
        raise ValueError(f"all source points lie at {source_mean.tolist()}: no similarity can be estimated")
    u, singular, vt = np.linalg.svd(target_centred.T @ source_centred / len(source))
    signs = np.array([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) >= 0 else -1.0])
    scale = float(singular @ signs) / variance
    if scale <= 1e-9:
        raise ValueError(
            "the points determine no similarity: the targets coincide, or only a reflection would fit them"
        )
    linear = scale * (u * signs) @ vt
    return np.column_stack([linear, target_mean - linear @ source_mean])


def apply_affine(matrix: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Points (..., 2) taken through an affine matrix (2, 3), in float64."""
    affine = np.asarray(matrix, np.float64)
    return np.asarray(points, np.float64) @ affine[:, :2].T + affine[:, 2]


def compose_affine(second: npt.ArrayLike, first: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The affine matrix (2, 3) that does ``first`` (2, 3), then ``second`` (2, 3)."""
    outer, inner = np.asarray(second, np.float64), np.asarray(first, np.float64)
    return np.column_stack([outer[:, :2] @ inner[:, :2], apply_affine(outer, inner[:, 2])])


def invert_affine(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The affine matrix (2, 3) that undoes ``matrix`` (2, 3).

    Raises:
        ValueError: the matrix is singular.
    """
    affine = np.asarray(matrix, np.float64)
    try:
        linear = np.linalg.inv(affine[:, :2])
    except np.linalg.LinAlgError as error:
        raise ValueError(f"the affine matrix {affine.tolist()} is singular and cannot be inverted") from error
    return np.column_stack([linear, -linear @ affine[:, 2]])


def _as_boxes(boxes: npt.ArrayLike) -> FloatArray:
    array = np.asarray(boxes)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must have the shape (N, 4), got {array.shape}")
    return array
