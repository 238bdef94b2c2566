#!/usr/bin/env bash
# transformers 5.23.0: what the processors of MaskFormer, Mask2Former and DETR make of masks is squeezed where pictures of unlike sizes share a batch.
#
# Expected: `post_process_semantic_segmentation(outputs, target_sizes)` of the processor that padded the pictures takes the padding off again before it
# resizes to the sizes of the pictures, as the authors' own code does (sem_seg_postprocess of detectron2, PostProcessSegm of DETR); what comes out for a
# picture does not depend on which others are in its batch.
# Seen: pictures of unlike sizes are padded on the right and below to the largest of them, the model's masks cover the padding too, and the whole padded
# square is resized to the picture's size: everything lies at two thirds of its height or width, and the rest is what the model makes of padding. For 640 x
# 427 beside 427 x 640 the masks of a perfect model are right on 51 to 53 % of the pixels, and so they are in post_process_panoptic_segmentation. Alone, or
# beside pictures of their own size, they are right on 99.8 to 100 %. No warning, no option takes the padding off, and these methods are not told of
# `pixel_mask`. So a mean IoU depends on the batch size, and a data set of one size (Cityscapes) or a batch of one hides it; ADE20K and COCO at a batch of
# eight do not.
# What to do: cut each picture's masks by its pixel_mask and post-process it alone (done below: right on 99.8 to 100 %), or a batch of one.
# Note: torch comes from the index that pip is set to; PyPI's wheel for Linux brings CUDA (5 GB unpacked). It runs on a CPU.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir \
    torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 pillow==12.3.0 numpy==2.4.6
HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
from types import SimpleNamespace

import numpy as np
import torch
from transformers import DetrImageProcessor, Mask2FormerImageProcessor, MaskFormerImageProcessor

torch.set_num_threads(1)
CLASSES, STEP = 5, 40  # a pixel of class c has the grey level c * STEP


def scene(rows: int, columns: int) -> np.ndarray:
    """Four boxes on a ground, uint8 ``[rows, columns]``."""
    truth = np.zeros((rows, columns), np.uint8)
    for number, (y, x) in enumerate(((0, 0.1), (0.3, 0.5), (0.55, 0.05), (0.6, 0.65)), start=1):
        truth[int(y * rows) : int((y + 0.4) * rows), int(x * columns) : int((x + 0.35) * columns)] = number
    return truth


def perfect(pixels: torch.Tensor) -> SimpleNamespace:
    """What a model gives that is right on all of ``[B, 3, h, w]`` and sure of it: query c is the mask of class c. Padding is ground."""
    seen = (pixels[:, 0] / STEP).round()
    masks = torch.stack([torch.where(seen == number, 20.0, -20.0) for number in range(CLASSES)], 1)
    logits = torch.full((len(pixels), CLASSES, CLASSES + 1), -20.0)
    logits[:, range(CLASSES), range(CLASSES)] = 20.0
    return SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks, logits=logits, pred_masks=masks)


def semantic(processor, outputs: SimpleNamespace, sizes: list) -> list[np.ndarray]:
    return [np.asarray(one) for one in processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)]


def panoptic(processor, outputs: SimpleNamespace, sizes: list) -> list[np.ndarray]:
    found = []
    for one in processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes, label_ids_to_fuse=set()):
        places = np.asarray(one["segmentation"])
        label = {segment["id"]: segment["label_id"] for segment in one["segments_info"]}
        found.append(np.vectorize(lambda place: label.get(place, -1))(places))
    return found


def right(maps: list[np.ndarray], truths: list[np.ndarray]) -> list[float]:
    return [round(float((one == truth).mean()), 3) for one, truth in zip(maps, truths, strict=True)]


wide, tall = scene(427, 640), scene(640, 427)
for kind in (MaskFormerImageProcessor, Mask2FormerImageProcessor, DetrImageProcessor):
    processor = kind(do_normalize=False, do_rescale=False, resample=0)
    for truths in ([wide], [tall], [wide, wide], [wide, tall]):
        given = processor([np.stack([truth * STEP] * 3, -1) for truth in truths], return_tensors="pt")
        sizes = [truth.shape for truth in truths]
        seen = [right(way(processor, perfect(given["pixel_values"]), sizes), truths) for way in (semantic, panoptic)]
        print(f"{kind.__name__}, pictures {sizes}, padded to {tuple(given['pixel_values'].shape[2:])}: right {seen[0]}, panoptic {seen[1]}")
        if sizes[0] == sizes[-1]:
            assert min(map(min, seen)) > 0.995, "changed: wrong without padding"
        else:
            assert max(map(max, seen)) < 0.55, "changed: padding is taken off"
            cut = []
            for pixels, mask, truth in zip(given["pixel_values"], given["pixel_mask"], truths, strict=True):
                rows, columns = int(mask.any(1).sum()), int(mask.any(0).sum())
                cut += semantic(processor, perfect(pixels[None, :, :rows, :columns]), [truth.shape])
            print("    cut by pixel_mask and alone:", right(cut, truths))
            assert min(right(cut, truths)) > 0.995
PYTHON
