"""The reducers' formulas read slowly: one image, one token at a time, Python lists. Tokens are (vector, originals) pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Group = list[int]


@dataclass(eq=False)
class Token:
    """``x`` its features, ``key`` its head-mean key of length 1, ``members`` the originals that it stands for, ``weight`` CLS's."""

    x: np.ndarray
    key: np.ndarray
    members: Group
    given: float = 0.0

    @property
    def size(self) -> int:
        return len(self.members)


def cosine(a: Token, b: Token) -> float:
    return float(a.key @ b.key / (np.linalg.norm(a.key) * np.linalg.norm(b.key)))


def weighted(group: list[Token]) -> Token:
    """The size-weighted mean, at the place of the first."""
    total = sum(one.size for one in group)
    x = sum(one.size * one.x for one in group) / total
    key = sum(one.size * one.key for one in group) / total
    return Token(x, key, [member for one in group for member in one.members])


def best(one: Token, others: list[Token]) -> tuple[float, int]:
    """The most alike of ``others`` and its number; of equal ones the first."""
    alike = [cosine(one, other) for other in others]
    return max(alike), alike.index(max(alike))


def pairs(a: list[Token], b: list[Token], r: int) -> list[tuple[int, int]]:
    """(number in a, number in b) of the r most alike pairs, each of ``a`` with its best."""
    found = [(best(one, b), number) for number, one in enumerate(a)]
    ranked = sorted(found, key=lambda entry: -entry[0][0])  # stable: of equal ones the first
    return [(number, host) for (_, host), number in ranked[:r]]


def halves(tokens: list[Token], prefix: int) -> tuple[list[int], list[int]]:
    """Numbers of patches at even and at odd places of the sequence."""
    places = range(prefix, len(tokens))
    return [i for i in places if i % 2 == 0], [i for i in places if i % 2 == 1]


def tome(tokens: list[Token], prefix: int, r: int) -> list[Token]:
    even, odd = halves(tokens, prefix)
    r = min(r, (len(tokens) - prefix) // 2)
    chosen = pairs([tokens[i] for i in even], [tokens[i] for i in odd], r)
    gone = {even[a] for a, _ in chosen}
    merged = {odd[b]: [tokens[odd[b]]] for b in range(len(odd))}
    for a, b in chosen:
        merged[odd[b]].append(tokens[even[a]])
    return [*tokens[:prefix], *(tokens[i] for i in even if i not in gone), *(weighted(merged[i]) for i in odd)]


def pitome(tokens: list[Token], prefix: int, keep: float, margin: float, shaping: bool) -> list[Token]:
    body = tokens[prefix:]
    count = len(body)
    r = math.floor(round(count - count * keep, 9))

    def elu(z: float) -> float:
        return z if z > 0 else math.exp(z) - 1

    energy = [sum(elu(cosine(one, other) - margin) for other in body) / count for one in body]
    ranks = sorted(range(count), key=lambda i: -energy[i])
    ranks = ranks if shaping else ranks[: 2 * r]
    a, b = ranks[::2], ranks[1::2]
    chosen = pairs([body[i] for i in a], [body[i] for i in b], r)
    merged = {i: [body[i]] for i in range(count)}
    for one, other in chosen:
        merged[b[other]].append(body[a[one]])
        del merged[a[one]]
    return [*tokens[:prefix], *(weighted(merged[i]) for i in sorted(merged))]


def tofu(tokens: list[Token], prefix: int, keep: float, prune: bool) -> list[Token]:
    even, odd = halves(tokens, prefix)
    r = math.floor(round(len(tokens) - len(tokens) * keep, 9))
    chosen = pairs([tokens[i] for i in even], [tokens[i] for i in odd], min(r, (len(tokens) - prefix) // 2))
    gone = {even[a] for a, _ in chosen}
    groups = {i: [tokens[i]] for i in odd}
    for a, b in chosen:
        groups[odd[b]].append(tokens[even[a]])

    def joined(group: list[Token]) -> Token:
        members = [member for one in group for member in one.members]
        if prune or len(group) == 1:
            return Token(group[0].x, group[0].key, members)
        mean = sum(one.x for one in group) / len(group)
        return Token(mean / np.linalg.norm(mean) * max(np.linalg.norm(one.x) for one in group), group[0].key, members)

    return [*tokens[:prefix], *(tokens[i] for i in even if i not in gone), *(joined(groups[i]) for i in odd)]


def evit(tokens: list[Token], prefix: int, keep: float, normalise: bool) -> list[Token]:
    body = tokens[prefix:]
    stay = math.ceil(round(keep * len(body), 9))
    ranked = sorted(range(len(body)), key=lambda i: -body[i].given)
    gone = [body[i] for i in ranked[stay:]]
    total = sum(one.given for one in gone) if normalise else 1.0
    fused = Token(sum(one.given / total * one.x for one in gone), body[0].key, [m for one in gone for m in one.members])
    return [*tokens[:prefix], *(body[i] for i in sorted(ranked[:stay])), fused]


def atc(tokens: list[Token], prefix: int, keep: float) -> list[Token]:
    """Average linkage by its definition: the mean distance over all pairs of members."""
    body = tokens[prefix:]
    groups = [[one] for one in body]

    def apart(a: list[Token], b: list[Token]) -> float:
        return float(np.mean([1 - cosine(one, other) for one in a for other in b]))

    while len(groups) > math.ceil(round(keep * len(body), 9)):
        _, i, j = min((apart(a, b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups) if i < j)
        groups[i] = groups[i] + groups.pop(j)
    groups.sort(key=lambda group: min(body.index(one) for one in group))
    return [*tokens[:prefix], *(weighted(group) for group in groups)]


def cubist(tokens: list[Token], prefix: int, grid: tuple[int, int], keep: float) -> list[Token]:
    rows = [[tokens[prefix + r * grid[1] + c] for c in range(grid[1])] for r in range(grid[0])]
    rows = [_line(row, keep) for row in rows]
    columns = [_line([row[c] for row in rows], keep) for c in range(len(rows[0]))]
    return [*tokens[:prefix], *(column[r] for r in range(len(columns[0])) for column in columns)]


def _line(line: list[Token], keep: float) -> list[Token]:
    count = len(line)
    found = []
    for place in range(0, count, 2):
        beside = [other for other in (place - 1, place + 1) if 0 <= other < count]
        alike, host = max(((cosine(line[place], line[other]), -other) for other in beside), default=(-math.inf, 0))
        found.append((alike, place, -host))
    ranked = sorted(found, key=lambda entry: -entry[0])[: count - math.ceil(round(keep * count, 9))]
    groups = {i: [line[i]] for i in range(count)}
    for _, place, host in ranked:
        groups[host].append(line[place])
        del groups[place]
    return [_largest(groups[i]) for i in sorted(groups)]


def _largest(group: list[Token]) -> Token:
    mean = weighted(group)
    stacked = np.stack([one.x for one in group])
    pick = np.abs(stacked).argmax(0)
    return Token(stacked[pick, np.arange(stacked.shape[1])], mean.key, mean.members)
