"""Names of timm's vision transformers, and what those of other libraries are called there."""

from __future__ import annotations

import re

from fna.errors import UserError
from fna.models import weights
from fna.spelling import begins_alike

SIZES = {"ti": "tiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
SIZED = re.compile(r"vit[-_]?(?:mae[-_])?(ti|[tsblhg])(?![a-z])|(?<![a-z])(tiny|small|base|large|huge|giant)(?![a-z])")
# Of a name in lower case: what tells a family, and how timm calls its networks, {size} and {patch} put in.
FAMILIES = (
    (r"dinov3", "vit_{size}_patch16_dinov3"),
    (r"dinov2.*reg", "vit_{size}_patch14_reg4_dinov2"),
    (r"dinov2", "vit_{size}_patch14_dinov2"),
    (r"dino[-_]", "vit_{size}_patch{patch}_224.dino"),
    (r"(^|[-_])mae([-_]|$)", "vit_{size}_patch{patch}_224.mae"),
    (r"siglip2", "vit_{size}_patch{patch}_siglip_{pixels}.v2_webli"),
    (r"siglip", "vit_{size}_patch{patch}_siglip_{pixels}.webli"),
    (r"clip", "vit_{size}_patch{patch}_clip_{pixels}.openai"),
    (r"deit.*distil", "deit_{size}_distilled_patch{patch}_{pixels}"),
    (r"deit", "deit_{size}_patch{patch}_{pixels}"),
    (r"beit", "beit_{size}_patch{patch}_{pixels}"),
    (r"vit", "vit_{size}_patch{patch}_{pixels}"),
)


def check_name(name: str) -> None:
    """Raise `UserError` for a model, or a tag of its weights, that timm does not have."""
    import timm

    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = [found] if (found := elsewhere(name)) else begins_alike(plain, timm.list_models())
        hint = f"did you mean {near[0]}?" if near else "timm.list_models('vit*') lists those that fna knows best."
        raise UserError(f"model.name={name}: timm has no such model; {hint}{on_hub(name)}")
    try:
        timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{plain}.*")]
        raise UserError(f"model.name={name}: timm has no weights {tag} of {plain}; it has {', '.join(tags) or 'none'}.") from error


def check_published(name: str) -> None:
    """Raise `UserError` for a model without published weights, and for ones that are out of reach."""
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if known is None or not known.has_weights:
        raise UserError(f"model.name={name}: timm has no weights for it; give model.checkpoint=PATH, or another model.name.")
    where = None if known.file else known.hf_hub_id
    weights.check_published(f"the weights of timm {name}", where, ("model.safetensors", "pytorch_model.bin"))


def elsewhere(name: str) -> str | None:
    """timm's name for a network that another library (torch hub, torchvision, open_clip, Hugging Face) calls ``name``, with the
    tag of its weights where those are known; None where there is none."""
    import timm

    plain = name.rpartition("/")[2] if re.match(r"[\w.-]+/[\w.-]{4,}", name) else name
    if timm.is_model(plain.partition(".")[0]):  # timm/NAME on the hub
        return plain
    words = plain.lower()
    sized, numbers = SIZED.search(words), re.findall(r"\d+", re.sub(r"(dinov|siglip)\d", "", words))
    family = next((pattern for sign, pattern in FAMILIES if re.search(sign, words)), None)
    if sized is None or family is None:
        return None
    patch = next((number for number in numbers if 8 <= int(number) <= 32), "16")
    pixels = next((number for number in numbers if int(number) >= 100), "224")
    found = family.format(size=sized[2] or SIZES[sized[1]], patch=patch, pixels=pixels)
    bare = found.partition(".")[0]
    if not timm.is_model(bare):
        return None
    tags = timm.list_pretrained(f"{bare}.*")
    return found if found in tags else tags[0] if "dino" in bare and tags else bare


def on_hub(name: str) -> str:
    """How weights on the Hugging Face hub are run as they are there."""
    if name.startswith("timm/") or not re.fullmatch(r"[\w.-]+/[\w.-]{4,}", name):
        return ""
    return f" A name of the Hugging Face hub: once it is downloaded, model=hf model.checkpoint=FOLDER runs {name} as it is."
