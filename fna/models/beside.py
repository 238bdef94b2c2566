"""What the config.json beside Hugging Face weights says of an architecture, for towers that timm or open_clip builds.

A tower's tensors do not show its activation, its number of heads or the epsilon of its LayerNorms: those are in config.json, or in
transformers' defaults for what it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fna.errors import UserError, is_memory
from fna.models.hf_files import model_config
from fna.models.settings import activation_name, is_activation

KINDS = ("clip", "clip_vision_model", "siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers")  # that model=hf runs


def _quick_gelu() -> nn.Module:
    from timm.layers.activations import QuickGELU

    return QuickGELU()


_TANH = partial(nn.GELU, approximate="tanh")
# transformers' names of activations.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_python": nn.GELU,
    "quick_gelu": _quick_gelu,
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh"), _TANH),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
}


@dataclass(frozen=True)
class Said:
    """Of one tower: number of heads, epsilon of LayerNorms, activation by transformers' name; None where nobody says.

    ``file``: the config.json. ``otherwise``: what to do about a tower that cannot be built so.
    """

    file: Path
    otherwise: str
    heads: int | None = None
    eps: float | None = None
    activation: str | None = None


def said(folder: Path | None) -> dict[str, Said]:
    """What the folder's config.json says of each tower, "vision" and "text"; a config of one tower says it of "vision"."""
    config, file = model_config(folder), (folder or Path()) / "config.json"
    if "model_type" in config:
        config = filled(config, file)
    otherwise = "model=hf runs it as it says" if config.get("model_type") in KINDS else "take a model that has it"
    towers = {"vision": config.get("vision_config") or config, "text": config.get("text_config") or {}}
    return {name: _said(tower, file, otherwise) for name, tower in towers.items()}


def _said(tower: Mapping[str, Any], file: Path, otherwise: str) -> Said:
    gated = tower.get("use_swiglu_ffn")  # transformers runs those with SiLU, whatever hidden_act says
    activation = None if gated else tower.get("hidden_act")
    return Said(file, otherwise, tower.get("num_attention_heads"), tower.get("layer_norm_eps"), activation)


def filled(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """The config with transformers' defaults for what it leaves out; as it is where transformers does not know its kind."""
    import transformers

    if config["model_type"] not in transformers.CONFIG_MAPPING:
        return config
    with followed(file, config["model_type"]):
        return dict(transformers.AutoConfig.for_model(**config).to_dict())


@contextmanager
def followed(file: Path, kind: object) -> Iterator[None]:
    """What transformers raises of the settings in ``file``, each kind of model in its own way, as a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_memory(error):
            raise
        reason = str(error).strip().splitlines()[-1:] or [""]
        named = "" if isinstance(error, ValueError) else f"{type(error).__name__} "  # "KeyError 'foo'"
        raise UserError(f"{file}: no {kind} to transformers ({named}{reason[0].strip(' .')}); mend it.") from error


def check_heads(tower: Sequence[nn.Module], said: Said, name: str) -> None:
    """Raise `UserError` where the blocks of a built tower have another number of heads than the config says."""
    modules = (module for part in tower for module in part.modules())
    built = next((module.num_heads for module in modules if isinstance(getattr(module, "num_heads", None), int)), said.heads)
    if said.heads is not None and said.heads != built:
        what = f"num_attention_heads is {said.heads}, {name} has {built} heads in that tower"
        raise UserError(f"{said.file}: {what}; {said.otherwise}.")


def set_eps(tower: Sequence[nn.Module], eps: float | None) -> bool:
    """Give every LayerNorm this epsilon; whether that changed one."""
    norms = [module for part in tower for module in part.modules() if isinstance(module, nn.LayerNorm)]
    changed = [norm for norm in norms if eps is not None and norm.eps != eps]
    for norm in changed:
        norm.eps = float(eps or 0)
    return bool(changed)


def set_activation(tower: Sequence[nn.Module], said: Said) -> None:
    """Give every plain MLP this activation. Raises `UserError` for one that is not known here."""
    if said.activation is None:
        return
    if said.activation not in ACTIVATIONS:
        built = ", ".join(sorted({activation_name(module) for part in tower for module in part.modules() if is_activation(module)}))
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{said.file}: hidden_act is {said.activation}, not {built} or any of {known}; {said.otherwise}.")
    wanted = ACTIVATIONS[said.activation]()
    for part in tower:
        for mlp in list(part.modules()):
            if "glu" in type(mlp).__name__.lower():
                continue
            for name, module in list(mlp.named_children()):
                if is_activation(module) and activation_name(module) != activation_name(wanted):
                    setattr(mlp, name, ACTIVATIONS[said.activation]())
