#!/usr/bin/env bash
# transformers 5.23.0: a SwinModel is changed for good by one smaller image: afterwards it computes something else, or nothing, for the size it was made for.
#
# Expected: a forward pass in eval() leaves a model as it was, whatever the sizes of its inputs (interpolate_pos_encoding=True is there for other sizes).
# Seen: a block whose grid is no larger than its window sets its own shift_size to 0 and its window_size to the grid's side, and never sets them back.
# 1. Where a small image's last grid is just a window (64 px model with windows of 4, an image of 32 px): no error, but the shifted windows are gone, and
#    the 64 px image that was encoded before comes out differently (.025 off, relative, with the random weights below).
# 2. Where it is smaller than one (windows of 8): the small image is refused (its table of relative positions is that of whole windows), and so is from
#    then on every image of the model's own size, which worked before. The published Swin sizes (window 7 at 224 px, 12 at 384 px) are of this kind.
# Swinv2Model keeps its windows in both cases. What to do: one size for each instance, or copy window_size and shift_size aside and put them back.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir torch==2.15.0 transformers==5.23.0 numpy==2.4.6
"$room/venv/bin/python" -I - <<'PYTHON'
import torch
from transformers import SwinConfig, SwinModel, Swinv2Config, Swinv2Model


def encoded(config_class, model_class, window: int) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """A 64 px image before and after one of 32 px (None where it is refused then), and what became of the small one."""
    torch.manual_seed(0)
    config = config_class(image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=window)
    net = model_class(config).eval()
    large, small, told = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 32), "encoded"
    with torch.no_grad():
        before = net(large).last_hidden_state
        again = net(large).last_hidden_state
        assert torch.equal(before, again)
        try:
            net(small, interpolate_pos_encoding=True)
        except RuntimeError:
            told = "refused"
        try:
            return before, net(large).last_hidden_state, told
        except RuntimeError:
            return before, None, told


before, after, told = encoded(SwinConfig, SwinModel, 4)
assert told == "encoded" and after is not None
off = float((after - before).norm() / before.norm())
print(f"SwinModel, windows of 4: the small image is {told}, the large one then {off:.3f} off what it was")
assert off > 0.01
before, after, told = encoded(SwinConfig, SwinModel, 8)
print(f"SwinModel, windows of 8: the small image is {told}, the large one then {'refused' if after is None else 'encoded'}")
assert told == "refused" and after is None
for window in (4, 8):
    before, after, told = encoded(Swinv2Config, Swinv2Model, window)
    print(f"Swinv2Model, windows of {window}: the small image is {told}, the large one as before: {torch.equal(before, after)}")
    assert told == "encoded" and torch.equal(before, after)
PYTHON
