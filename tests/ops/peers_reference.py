"""Slow readings of the peers' formulas, in float64, one image and one head at a time, token by token: q, k, v ``[N, d]``.

Prefix tokens come first, then the patches of a grid. ``draws`` are the random numbers that the method itself would have drawn.
"""

from __future__ import annotations

import math

import torch
from scipy.special import lambertw
from torch import Tensor

from tests.ops.reference import farthest, newton_inverse


def softmax_over(query: Tensor, keys: Tensor, values: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """One query's attention."""
    logits = scale * keys @ query
    return (logits if bias is None else logits + bias).softmax(0) @ values


def each(q: Tensor, keys: Tensor, values: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    return torch.stack([softmax_over(query, keys, values, scale, bias) for query in q])


def cell_members(prefix: int, grid: tuple[int, int], cells: tuple[int, int]) -> list[list[int]]:
    """Tokens of each pooled token: prefix tokens alone, then the windows of adaptive pooling, row by row."""
    members = [[token] for token in range(prefix)]
    (rows, columns), (down, across) = grid, cells
    for i in range(down):
        for j in range(across):
            lines = range(math.floor(i * rows / down), math.ceil((i + 1) * rows / down))
            places = range(math.floor(j * columns / across), math.ceil((j + 1) * columns / across))
            members.append([prefix + line * columns + place for line in lines for place in places])
    return members


def means(x: Tensor, members: list[list[int]]) -> Tensor:
    return torch.stack([x[tokens].mean(0) for tokens in members])


def clusters(k: Tensor, count: int, lloyd: int) -> list[list[int]]:
    """k-means from farthest points, token 0 a cluster of its own."""
    tokens = list(range(len(k)))
    chosen = farthest(k, count, [0], tokens)
    centres = k[chosen].clone()

    def nearest() -> list[list[int]]:
        groups: list[list[int]] = [[0]] + [[] for _ in chosen[1:]]
        for token in tokens[1:]:
            distance = [float((k[token] - centre).square().sum()) for centre in centres[1:]]
            groups[1 + distance.index(min(distance))].append(token)
        return groups

    groups = nearest()
    for _ in range(lloyd):
        for number, group in enumerate(groups):
            if group:
                centres[number] = k[group].mean(0)
        groups = nearest()
    return [group for group in groups if group]


def nystrom_ratio(q: Tensor, k: Tensor, v: Tensor, index: list[int], scale: float, steps: int, least: float) -> Tensor:
    out = torch.empty_like(q)
    block, kernel = (torch.exp(scale * q[index] @ x.T) for x in (k[index], k))
    size = block.sum(1, keepdim=True)
    block, kernel = block / size, kernel / size
    inverse = newton_inverse(block, steps)
    masses = inverse @ kernel.sum(1)
    for i, query in enumerate(q):
        seen = torch.exp(scale * k[index] @ query)
        row = seen @ inverse @ kernel
        trusted = float(seen @ masses) > least * float(seen @ masses.abs())
        out[i] = row @ v / row.sum() if trusted else softmax_over(query, k[index], v[index], scale)
    return out


def pnp_nystra(q: Tensor, k: Tensor, v: Tensor, members: list[list[int]], scale: float, steps: int) -> Tensor:
    def phi(x: Tensor) -> Tensor:
        return torch.where(x > 0, 1 + x, x.clamp_max(0).exp())

    queries, keys = means(q, members), means(k, members)
    block = phi(scale * queries @ keys.T)
    eye = torch.eye(len(block), dtype=block.dtype)
    z = block.T / (block.sum(0).max() * block.sum(1).max())
    for _ in range(steps):
        y = block @ z
        z = 0.25 * z @ (13 * eye - y @ (15 * eye - y @ (7 * eye - y)))
    rows = phi(scale * q @ keys.T) @ z @ phi(scale * queries @ k.T)
    return rows @ v / rows.sum(1, keepdim=True)


def wildcat(q: Tensor, k: Tensor, v: Tensor, scale: float, draws: Tensor) -> Tensor:
    """With the whole N x N kernel and its Schur complement after every pivot."""
    keys = k - k.mean(0)
    most_q, most_k = float(q.norm(dim=1).max()), float(keys.norm(dim=1).max())
    rho = math.sqrt(1 + math.exp(lambertw(2 / math.e**2).real + 2))
    b = math.log(len(k)) / (scale * most_q * most_k) + 2
    tau = math.sqrt(most_k / most_q * b / (2 * lambertw(b / (2 * rho)).real))
    h = torch.exp(scale / tau**2 * keys @ keys.T)
    left, pivots = h.clone(), []
    for draw in draws.tolist():
        share = left.diagonal().clamp_min(0).cumsum(0)
        pivots.append(int((share > draw * share[-1]).nonzero()[0, 0]))
        column = left[:, pivots[-1]]
        left = left - torch.outer(column, column) / column[pivots[-1]]
    weights = torch.linalg.solve(h[pivots][:, pivots], h[pivots])
    out = torch.empty_like(q)
    for i, query in enumerate(q):
        row = torch.exp(scale * keys[pivots] @ query) @ weights
        out[i] = row @ v / row.sum()
    return torch.minimum(torch.maximum(out, v.min(0).values), v.max(0).values)


def performer(q: Tensor, k: Tensor, v: Tensor, scale: float, omega: Tensor) -> Tensor:
    def exponent(x: Tensor) -> Tensor:
        x = x * math.sqrt(scale)
        return omega @ x - x.square().sum() / 2

    largest = max(float(exponent(key).max()) for key in k)
    features = [torch.exp(exponent(key) - largest) + 1e-4 for key in k]
    out = torch.empty_like(q)
    for i, query in enumerate(q):
        own = exponent(query)
        own = torch.exp(own - own.max()) + 1e-4
        row = torch.stack([own @ feature for feature in features])
        out[i] = row @ v / row.sum()
    return out


def gray(number: int) -> int:
    return number ^ (number >> 1)


def hyper(q: Tensor, k: Tensor, v: Tensor, scale: float, block: int, planes: Tensor, draws: Tensor, order: str) -> Tensor:
    """``planes`` ``[d, P]``; ``draws`` in 0..1, one a sampled key."""
    many = 1 << planes.shape[1]
    bucket_of = {code: gray(code) for code in range(many)}
    if order == "inverse":
        bucket_of = {code: number for number, code in bucket_of.items()}

    def in_order(x: Tensor) -> list[int]:
        code = [sum(1 << p for p in range(planes.shape[1]) if float(row @ planes[:, p]) > 0) for row in x]
        return sorted(range(len(x)), key=lambda token: (bucket_of[code[token]], token))

    by_q, by_k = in_order(q), in_order(k)
    out = torch.empty_like(q)
    for place, token in enumerate(by_q):
        first = place // block * block
        near = by_k[first : first + block]
        far = [by_k[int(draw * len(k))] for draw in draws.tolist() if int(draw * len(k)) // block != place // block]
        logits = torch.cat((scale * k[near] @ q[token], scale * k[far] @ q[token] + math.log(len(k) / len(draws))))
        out[token] = logits.softmax(0) @ v[near + far]
    return out


def window(q: Tensor, k: Tensor, v: Tensor, scale: float, prefix: int, grid: tuple[int, int], size: int) -> Tensor:
    rows, columns = grid

    def near(at: int, side: int) -> range:
        width = min(size, side)
        start = max(at - width // 2, 0)
        if at + width // 2 + width % 2 - 1 >= side:
            start = side - width
        return range(start, start + width)

    out = each(q, k, v, scale)
    for row in range(rows):
        for column in range(columns):
            token = prefix + row * columns + column
            seen = [*range(prefix), *(prefix + r * columns + c for r in near(row, rows) for c in near(column, columns))]
            out[token] = softmax_over(q[token], k[seen], v[seen], scale)
    return out


def thin(k: Tensor, v: Tensor, scale: float, count: int, lengths: list[int], draws: list[Tensor], failure: float) -> list[int]:
    """The coreset: halving in buckets of ``lengths``, a round each, ``draws`` ``[buckets, length / 2 + 1]`` of each round."""
    norm = float(v.abs().max()) ** 2

    size = count * 2 ** len(lengths)
    tokens = [i * len(k) // size for i in range(size)]
    for length, numbers in zip(lengths, draws, strict=True):
        kept: list[int] = []
        for number, start in enumerate(range(0, len(tokens), length)):
            bucket = tokens[start : start + length]
            shift = max(float(k[i].square().sum()) for i in tokens)

            def kappa(i: int, j: int, shift: float = shift) -> float:
                return math.exp(scale * (float(k[i] @ k[j]) - shift)) * (float(v[i] @ v[j]) + norm)

            halves: tuple[list[int], list[int]] = ([], [])
            largest = 0.0
            for pair in range(length // 2):
                a, b = bucket[2 * pair], bucket[2 * pair + 1]
                spread = math.sqrt(kappa(a, a) - kappa(a, b) - kappa(b, a) + kappa(b, b))
                largest = max(largest, spread)
                lean = sum(kappa(i, a) - kappa(i, b) for i in halves[0]) - sum(kappa(i, a) - kappa(i, b) for i in halves[1])
                bound = (0.5 + math.log(2 * length / failure)) * spread * largest
                straight = float(numbers[number, pair]) < 0.5 * (1 - lean / bound)
                halves[0].append(a if straight else b)
                halves[1].append(b if straight else a)
            kept += halves[0] if float(numbers[number, -1]) < 0.5 else halves[1]
        tokens = kept
    return tokens
