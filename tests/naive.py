"""The definitions written as loops over samples, neurons and features, in float64."""

import numpy as np


def contributions(codes, M):
    """``p[b, n, h] = codes[b, h] * M[h, n]``."""
    p = np.zeros((len(codes), M.shape[1], len(M)))
    for b in range(len(codes)):
        for n in range(M.shape[1]):
            for h in range(len(M)):
                p[b, n, h] = codes[b, h] * M[h, n]
    return p


def largest(p_h, n_dominant):
    """Features with the largest magnitudes that are not zero, ties to the first."""
    order = sorted(range(len(p_h)), key=lambda h: (-abs(p_h[h]), h))
    return [h for h in order[:n_dominant] if p_h[h] != 0]


def interaction(codes, M, output_norm, n_dominant=1):
    """``I(b) / Lip`` of each sample, and its gradients as (d codes, d M) sums."""
    p = contributions(codes, M)
    value = np.zeros(len(codes))
    d_codes, d_M = np.zeros(codes.shape), np.zeros(M.shape)
    for b, n in np.ndindex(p.shape[:2]):
        kept = largest(p[b, n], n_dominant)
        for h in range(len(M)):
            if h in kept:
                continue
            value[b] += output_norm[n] * abs(p[b, n, h])
            d_codes[b, h] += output_norm[n] * abs(M[h, n])
            d_M[h, n] += output_norm[n] * codes[b, h] * np.sign(M[h, n])
    return value, d_codes, d_M


def interaction_matrix(codes, M, output_norm):
    """Sum over samples of what ``j`` sends to the neurons that ``i`` dominates."""
    p = contributions(codes, M)
    A = np.zeros((len(M), len(M)))
    for b, n in np.ndindex(p.shape[:2]):
        for i in largest(p[b, n], 1):
            for j in range(len(M)):
                if j != i:
                    A[i, j] += output_norm[n] * abs(p[b, n, j])
    return A


def dominant_share(codes, M, n_dominant=1):
    """Shares of the neurons that receive anything."""
    p = contributions(codes, M)
    shares = []
    for b, n in np.ndindex(p.shape[:2]):
        total = np.abs(p[b, n]).sum()
        if total > 0:
            kept = largest(p[b, n], n_dominant)
            shares.append(np.abs(p[b, n, kept]).sum() / total)
    return shares
