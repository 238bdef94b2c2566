"""Networks by the names that they have elsewhere (ViT-B-16, dinov2-base, clip-vit-large), and what is typed for them here."""

from __future__ import annotations

import re

# What a name looks like, and the option that takes it as model.name.
BY_NAME = {
    r"\w+_patch\d+\w*(\.\w+)?": "vit",
    r"(ViT|EVA\d*|coca_ViT)-[\w-]+": "clip_l14",
    r"(?!ViT-)[\w.-]+/[\w.-]+": "hf",  # OpenAI's ViT-B/16 has no owner before its slash
}
LETTERS = {"ti": "tiny", "s": "small", "b": "base", "l": "large", "g": "giant"}
SIZE = re.compile(r"(?<![a-z])(tiny|small|base|large|giant)(?![a-z])|vit[-_]?(ti|[sblg])(?![a-z])")
# What a name holds, in small letters, and what is typed behind model= for each of its sizes; the first that fits counts.
FAMILIES: tuple[tuple[str, dict[str, str]], ...] = (
    (
        r"dinov3",
        {"base": "dinov3"} | {size: f"vit model.name=vit_{size}_patch16_dinov3.lvd1689m" for size in ("small", "large")},
    ),
    (
        r"dinov2.*reg",
        {"base": "dinov2_reg"}
        | {size: f"vit model.name=vit_{size}_patch14_reg4_dinov2.lvd142m" for size in ("small", "large", "giant")},
    ),
    (
        r"dinov2",
        {"small": "dinov2_s14", "base": "dinov2", "large": "dinov2_l14"}
        | {"giant": "vit model.name=vit_giant_patch14_dinov2.lvd142m"},
    ),
    (r"dino[-_]vit.*16", {size: f"vit model.name=vit_{size}_patch16_224.dino" for size in ("small", "base")}),
    (r"siglip2", {"base": "siglip2"}),
    (r"siglip", {"base": "siglip"}),
    (r"(clip|^vit-l/14).*336", {"large": "clip_l336"}),
    (r"(clip.*|^vit-b/)32", {"base": "clip_b32"}),
    (r"(clip.*|^vit-b/)16", {"base": "clip_b16"}),
    (r"clip|^vit-l/14$", {"base": "clip_b16 or clip_b32", "large": "clip_l14"}),
    (r"^sam[-_]", {"base": "sam_b"}),
    (r"^deit[-_](?!.*distil)", {size: f"vit model.name=deit_{size}_patch16_224" for size in ("tiny", "small", "base")}),
    (r"^beit[-_]", {size: f"vit model.name=beit_{size}_patch16_224" for size in ("base", "large")}),
    (
        r"^vit[-_]?(tiny|small|base|large|ti|[sbl])([-_]?(patch)?[-_]?16)?([-_]224)?$",
        {"base": "vit_b16"} | {size: f"vit model.name=vit_{size}_patch16_224" for size in ("tiny", "small", "large")},
    ),
)


def meant(name: str) -> str:
    """What to type behind ``model=`` for a network called ``name`` elsewhere, as a sentence before a list; "" if unknown."""
    if option := next((option for looks, option in BY_NAME.items() if re.fullmatch(looks, name)), None):
        return f"a network by its name is model={option} model.name={name}; "
    sizes = next((sizes for sign, sizes in FAMILIES if re.search(sign, name.lower())), {})
    size = SIZE.search(name.lower())
    typed = sizes.get(size[1] or LETTERS[size[2]]) if size else None
    return f"did you mean model={typed}? " if typed else ""
