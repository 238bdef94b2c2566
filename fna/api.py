"""The library: swap a model's attention, compare what that does, call an attention on q, k, v, choose landmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from torch import Tensor, nn

from fna.configs import build_attention, instantiate, load_option
from fna.errors import NoOption, UserError
from fna.ops.checks import check_site, check_tensors
from fna.ops.contract import Attention, Site, Tokens, called
from fna.ops.landmarks import TokenSampler
from fna.ops.landmarks import sample_landmarks as sample_landmarks
from fna.options import UNUSED, follows, unused
from fna.schema import ACCEPTED
from fna.values import Landmarks, held

if TYPE_CHECKING:
    from fna.runner.compare import Comparison
    from fna.surgery.swap import Swap


def swap(
    model: nn.Module,
    attn: str | Attention | Mapping[str | int, str | Attention] = "fna",
    *,
    layers: str | int | Sequence[int] = "last-half",
    landmarks: int | float | str = 64,
    sampler: str | TokenSampler = "fps",
    mask: Any = None,
    reduce: Any = None,
    seed: int = 0,
    blocks: Sequence[nn.Module] | None = None,
    seam: Callable[..., Any] | None = None,
    prefix: int | None = None,
    grid: tuple[int, int] | None = None,
    part: str = "vision",
    **options: Any,
) -> Swap:
    """Route the attention of chosen blocks of ``model`` through ``attn``; a handle that is also a context manager.

    ``model``: an open_clip model or its visual tower, a timm or torchvision ViT, whatever asks transformers' attention table, or
    what holds blocks of one kind that call torch's attention (docs/models.md). ``part``: which tower of several, "vision",
    "language" or the path of a module inside ``model``. ``attn``: a name of ``conf/attn``, an attention of your own, or a plan,
    ``{"0-5": "exact", "6-11": "fna"}``. ``layers``: "all", "last-half", "13-23" or ints (negative from the end); blocks that
    attend in windows only where a number names them.
    ``blocks``: which modules of ``model`` those are, where it is none of these; ``seam(module, attend, *args, **kwargs)`` stands in
    for the forward of each and calls ``attend(q, k, v)``, where they do not call torch's attention (docs/models_timm.md).
    ``prefix``, ``grid``: tokens before the patches, and (rows, columns) of these, where the model does not say.
    ``sampler``: a name of ``conf/sampler``, or one of your own (`fna.ops.landmarks.TokenSampler`).
    ``mask``: a name of ``conf/mask`` or a `fna.masking.strategy.Masking` of your own; ``reduce``: likewise of ``conf/reduce``.
    ``options`` are keys of the method's YAML file; an attention of your own takes none. ``handle.restore()`` gives the model back
    bit for bit.

    A copy made inside the with block (``deepcopy``, ``torch.save`` of the whole model) is changed too, and stays so:
    ``fna.surgery.swap.current_swap(copy).restore()`` gives it back. So do graphs: ``torch.compile``, ``torch.export``,
    ``torch.jit.trace`` and ``torch.onnx.export`` inside the block hold the changed model, the last with plain operators only.

    Raises `UserError` for an unknown model, name, option or layer.
    """
    from fna.surgery.own import named_tower
    from fna.surgery.plan import parse_plan
    from fna.surgery.variant import Variant

    held(ACCEPTED["seed"], seed, "seed")
    shared = {"landmarks": landmarks, "sampler": sampler, "seed": seed, **options}
    tower = named_tower(model, blocks, seam, prefix, grid, part)
    if isinstance(attn, Mapping):
        methods = _plan(swap, attn, layers, shared)
        ops = parse_plan(methods, len(tower.blocks), "attn", tower.unasked)
    else:
        ops = dict.fromkeys(tower.layers(layers), _op(swap, attn, **shared))
    return Variant("fna.swap", ops, _masking(mask, seed), _reducer(reduce, seed)).swap(tower)


def _plan(caller: Callable[..., Any], plan: Mapping[Any, Any], layers: Any, options: dict[str, Any]) -> dict[str | int, Attention]:
    """The attention of each range; landmarks and sampler go to those that have any."""
    if layers != "last-half":
        raise UserError(f"layers={layers}: a plan says which blocks itself; leave layers out.")
    methods = {}
    for blocks, attn in plan.items():
        drawn = {knob: options[knob] for knob in UNUSED if isinstance(attn, str) and follows("attn", attn, knob)}
        others = {name: value for name, value in options.items() if name not in UNUSED}
        methods[blocks] = _op(caller, attn, **drawn, **others)
    return methods


# What torch's scaled_dot_product_attention and MultiheadAttention, or fna.swap, call what fna.attention is given otherwise.
_PADDING = "padding is keys=, bool [batch, tokens], True where a key may be seen"
SAID_ELSEWHERE = {
    **dict.fromkeys(("mask", "attn_mask", "attention_mask"), f"{_PADDING}; of masks of pairs there is causal=True alone"),
    "key_padding_mask": f"{_PADDING}, which is ~key_padding_mask",
    "is_causal": "write causal=True",
    "dropout_p": "nothing is dropped, it is for inference; leave it out",
    "enable_gqa": "repeat grouped keys and values with repeat_interleave",
    **dict.fromkeys(("layers", "reduce", "blocks", "part"), "it is of fna.swap, which changes a whole model; leave it out"),
}


def _op(caller: Callable[..., Any], attn: str | Attention, **options: Any) -> Attention:
    """The attention of that name, or ``attn`` itself, which has its options already: any but a default is refused.

    So are landmarks and a sampler, unless they are the defaults, of a name whose method follows none. ``caller``: the public
    function that was given the options, whose own keywords are told beside those of the method.
    """
    defaults = build_attention.__kwdefaults__ or {}
    given = [name for name, value in options.items() if name not in defaults or value != defaults[name]]
    if isinstance(attn, str):
        for knob in UNUSED:
            if knob in given and not follows("attn", attn, knob):
                raise unused(f"{knob}={options[knob]}", [attn], knob)
        if options.get("landmarks") == "auto":
            raise UserError(
                "landmarks=auto: is measured on the data of a run, on the command line alone; give a count, or a share of the "
                "tokens below 1."
            )
        held(Landmarks, options.get("landmarks", 64), "landmarks")
        try:
            return build_attention(attn, **options)
        except NoOption as error:
            own = [name for name, one in signature(caller).parameters.items() if one.kind is Parameter.KEYWORD_ONLY]
            raise UserError(f"{error} fna.{caller.__name__} itself takes {', '.join(own)}.") from None
    if not isinstance(attn, Attention) or isinstance(attn, type):
        raise UserError(f"attn={attn!r}: give a name of conf/attn, or an attention of your own, called on q, k, v and a site.")
    if given:
        raise UserError(
            f"{type(attn).__name__} is made already: give it {', '.join(given)} yourself, or hand over a name of conf/attn."
        )
    return attn


def _masking(mask: Any, seed: int = 0) -> Any:
    """What ``mask=NAME`` means on the command line, uncalibrated; a strategy is one already."""
    from fna.masking.strategy import Masking
    from fna.surgery.registers import Registers

    if mask is None or isinstance(mask, Masking | Registers):
        return mask
    if not isinstance(mask, str):
        raise UserError(f"mask={mask!r}: give a name of conf/mask, a Masking or Registers.")
    return _built("mask", mask, seed)


def _reducer(reduce: Any, seed: int = 0) -> Any:
    """What ``reduce=NAME`` means on the command line; a reducer of your own is one already."""
    from fna.surgery.smaller import Resize

    if reduce is None or (callable(reduce) and not isinstance(reduce, type)) or isinstance(reduce, Resize):
        return reduce
    if not isinstance(reduce, str):
        raise UserError(
            f"reduce={reduce!r}: give a name of conf/reduce, or a reducer of your own, called on tokens and their place."
        )
    return _built("reduce", reduce, seed)


def _built(group: str, name: str, seed: int) -> Any:
    """What an option's YAML builds, which may follow the seed."""
    return None if name == "none" else instantiate(OmegaConf.create({"seed": seed, group: load_option(group, name)})[group])


def compare(
    model: nn.Module,
    loader: Iterable[Any],
    attn: str | Attention | Mapping[str | int, str | Attention] = "fna",
    *,
    versus: Sequence[Any] = (),
    metric: Any = None,
    lower_is_better: bool = False,
    forward: Callable[[Tensor], Any] | None = None,
    layers: str | int | Sequence[int] = "last-half",
    rounds: int = 15,
    bootstrap: int = 2000,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Full attention against ``attn`` on a module and a loader of your own: quality, intervals, cost; printed, it is a table.

    ``loader``: anything that can be gone through more than once and gives images ``[b, 3, h, w]`` or (images, targets), such as a
    DataLoader. ``metric``: "top1", "top5", or a function of (outputs, targets) that gives a number ``[b]`` from 0 (wrong) to 1
    (right) a sample, with ``lower_is_better`` from 0 (right) to 1 (wrong); None compares outputs alone (agreement: the same
    class first where the model has as many ``num_classes`` as outputs, else the same nearest other sample). ``forward``: images to
    a tensor of outputs, where calling ``model`` is not it. ``versus``: further contenders, timed in the same turns: names,
    attentions, or dicts (``dict(attn="fna", landmarks=16)``); those named have the ``layers`` and ``landmarks`` of the first where
    they say none, and a dict without ``attn`` is the first with what it names changed (``dict(reduce="tome")``). ``attn`` may be a
    plan as in `swap`, in a dict too. ``rounds``: turns of timing, 0 for none.
    ``options``: ``landmarks``, ``sampler``, ``mask``, ``reduce`` and keys of the method, as in `swap`.

    ``.result`` is what ``result.json`` holds, ``.save(folder)`` writes it with ``report.html``. Raises `UserError` as `swap` does,
    and for a loader that cannot be used.
    """
    from fna.runner.compare import compare as run

    scored: dict[str, Any] = {"metric": metric, "lower_is_better": lower_is_better, "forward": forward, "bootstrap": bootstrap}
    return run(model, loader, attn, _parts, versus=versus, layers=layers, options=options, rounds=rounds, seed=seed, **scored)


def _parts(attn: Any, layers: Any, *, mask: Any = None, reduce: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    """The op, or the op of each range of a plan, the mask and the reducer that a contender is made of."""
    if isinstance(attn, Mapping):
        op: Any = _plan(compare, attn, layers, {"landmarks": 64, "sampler": "fps", **options})
    else:
        op = _op(compare, attn, **options)
    seed = options.get("seed", 0)
    return op, _masking(mask, seed), _reducer(reduce, seed)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn: str | Attention = "fna",
    *,
    landmarks: int | float | str = 64,
    sampler: str | TokenSampler = "fps",
    scale: float | None = None,
    keys: Tensor | None = None,
    causal: bool = False,
    prefix: int = 1,
    grid: tuple[int, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """One attention on q, k, v ``[batch, heads, tokens, head_dim]``; the result has q's shape and dtype.

    ``scale`` defaults to ``head_dim ** -0.5``. ``keys`` bool ``[batch, tokens]``: which keys may be seen. ``prefix`` tokens at the
    front are kept as landmarks; ``grid`` is (rows, columns) of the others. A NaN in q, k or v comes out as NaN.

    Raises `UserError` for unknown names and for what does not fit together, and `Unsupported`, which is one, for what the method
    cannot honour.
    """
    for name in options:
        if name in SAID_ELSEWHERE:
            raise UserError(f"fna.attention has no {name}: {SAID_ELSEWHERE[name]}.")
    check_tensors(q, k, v)
    held(ACCEPTED["seed"], seed, "seed")
    check_site(k, scale=scale, keys=keys, causal=causal, prefix=prefix, grid=grid)
    op = _op(attention, attn, landmarks=landmarks, sampler=sampler, seed=seed, **options)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    site = Site(scale=scale, keys=keys, causal=causal, tokens=Tokens(prefix=prefix, grid=grid))
    return called(op, q, k, v, site)
