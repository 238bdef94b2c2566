"""FNA's cache: a few image tokens as landmarks, whose keys and new values stand for the whole image.

Fast Nyström Attention (arXiv 2507.16018) keeps (k~, v~), the landmarks' keys and v~ = A^+ B V, with A the softmax of landmark
queries over landmark keys and B over all image keys; text is exact. The released LLaVA path differs where it is wrong: it mixes
heads with tokens, knows no grouped heads, spends landmarks on text, and lets m entries weigh as m although they stand for N
(facts §2.3, §2.4). Here A and B of the query heads that share a key head are solved together, by least squares with a ridge
towards the landmarks' own values, which for one head a group does what the paper's six Newton steps do: small singular values are
damped.

``ladder``, each step a method of its own up to Attention Matching (`fna.kv.am`): ``none`` the pair alone; ``constant`` with
log(N/m) added to the landmarks' logits; ``fitted_bias`` with a bias each that matches the mass of attention; ``fitted_values``
with values fitted to reference queries as well, in the place of v~.

``prefill``: how the prompt itself attends in these blocks. ``exact``, as ever; ``landmark``, causally through the landmarks;
``bidirectional``, the paper's form, which is not causal: of the prompt's logits only the last ones are those of a language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fna.kv.contract import Kept, LayerState, Positions
from fna.kv.matching import fitted_values, masses
from fna.kv.prefill import bidirectional_rows, causal_rows, rows
from fna.kv.references import referred, stand_in
from fna.kv.select import counts, places, whole_prompt
from fna.ops.farthest import farthest_points
from fna.values import Budget, Count, Positive

Ladder = Literal["none", "constant", "fitted_bias", "fitted_values"]
Prefill = Literal["exact", "landmark", "bidirectional"]


@dataclass(frozen=True)
class LandmarkCache:
    """``budget``: landmarks among the image tokens, the same for all heads; ``features``: what farthest points are measured on.

    ``ridge``: of v~, ``damping``: of the causal one; ``references``: queries that the fitted steps match. ``layers``: blocks of the
    decoder; the others keep everything.
    """

    budget: Budget = 0.25
    ladder: Ladder = "constant"
    features: Literal["k", "v"] = "k"
    ridge: Positive = 1e-3
    references: Count = 256
    prefill: Prefill = "exact"
    damping: Positive = 1.0
    layers: int | str = "all"
    positions: Positions = "original"
    version: ClassVar[int] = 1

    def attend(self, state: LayerState) -> Tensor | None:
        """The prompt's attention where it is not exact. Raises `UserError` for a prompt in chunks."""
        if self.prefill == "exact" or state.step:
            return None
        whole_prompt(self, state)
        state.memo["landmarks"] = chosen = self._landmarks(state)
        if bool((chosen == state.image).all()):
            return None  # each stands for itself
        if self.prefill == "bidirectional":
            return bidirectional_rows(state, chosen)
        return causal_rows(state, chosen, self.damping, biased=self.ladder != "none")

    def keep(self, state: LayerState) -> Kept:
        """All text, and the landmarks with what they stand for."""
        chosen = state.memo.pop("landmarks", None)
        chosen = self._landmarks(state) if chosen is None else chosen
        bias: Literal["none", "constant", "fitted"]
        bias = "fitted" if self.ladder.startswith("fitted") else "none" if self.ladder == "none" else "constant"
        if self.ladder == "fitted_values":
            return stand_in(state, referred(state, self.references), chosen, bias=bias, values="fitted", ridge=self.ridge)
        image = referred(state, self.references) if bias == "fitted" else None
        return stand_in(state, image, chosen, bias=bias, values=self._nystrom(state, chosen), ridge=self.ridge)

    def _landmarks(self, state: LayerState) -> Tensor:
        """Which entries are landmarks, bool ``[B, G, N]``, the same for every head."""
        image = state.image[:, 0]
        count = counts(self.budget, image.sum(-1))
        most = int(count.max()) if count.numel() else 0
        if not most:
            return torch.zeros_like(state.image)
        x = (state.k if self.features == "k" else state.v).mean(1)
        index = farthest_points(x, most, allowed=image)
        taken = torch.arange(most, device=index.device) < count[:, None]
        chosen = torch.zeros_like(image, dtype=torch.int64).scatter_add(1, index, taken.long()) > 0
        return (chosen & image)[:, None].expand_as(state.image)

    def _nystrom(self, state: LayerState, chosen: Tensor) -> Tensor:
        """v~ in the places of the landmarks, v elsewhere: ``[B, G, N, d]``."""
        whole_prompt(self, state)
        index, valid = places(chosen[:, 0])
        if not index.shape[1]:
            return state.v
        groups = state.k.shape[1]
        k, v = state.k.float(), state.v.float()
        q = rows(state.q, index).unflatten(1, (groups, -1)).flatten(2, 3).float()  # [B, G, H / G * m, d]
        counted = valid.repeat(1, q.shape[2] // index.shape[1])[:, None, :, None]
        a = masses(q @ rows(k, index).mT * state.scale, valid[:, None, None]) * counted
        # A row without an image has no landmark either, and must not be NaN.
        seen = (state.image | ~state.image.any(-1, keepdim=True))[:, :, None]
        u = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=state.scale) * counted
        found = fitted_values(a, u, rows(v, index) * valid[:, None, :, None], self.ridge).to(state.v.dtype)
        out = state.v.clone()
        row, entries = valid.nonzero(as_tuple=True)
        out[row, :, index[row, entries]] = found[row, :, entries]
        return out
