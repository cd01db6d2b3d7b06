"""GenEval's eyes: Mask2Former on COCO finds objects, CLIP names their colors; both through transformers.

The benchmark's own detector is mmdet's Mask2Former of the same size and data, which also ranks second-best
classes of a query: scores differ a little, so a table names the detector that it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ablate.contract.errors import UserError
from ablate.contract.files import model_folder
from ablate.rewards.geneval_rules import LEAST_SCORE, Detection

CLASSES = (  # COCO's 80 in their order, as GenEval's prompts name them
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *(
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "umbrella",
        "handbag",
        "tie",
        "suitcase",
        "frisbee",
    ),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
    *(
        "surfboard",
        "tennis racket",
        "bottle",
        "wine glass",
        "cup",
        "fork",
        "knife",
        "spoon",
        "bowl",
        "banana",
    ),
    *("apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *(
        "couch",
        "potted plant",
        "bed",
        "dining table",
        "toilet",
        "tv",
        "laptop",
        "computer mouse",
        "tv remote",
    ),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_TEMPLATES = (
    "a photo of a {color} {label}",
    "a photo of a {color}-colored {label}",
    "a photo of a {color} object",
)
_GREY = 0x99 / 255  # what the colour classifier sees around an object


@dataclass(frozen=True)
class Mask2Former:
    """Detections of all 80 classes with a score above .3, and the colors of those that are asked for.

    Models are loaded at the first call, onto the images' device.

    Attributes:
        checkpoint: Mask2Former for COCO instances: a folder, or a hub id that is in the hub's cache.
        colors: CLIP, likewise.
        batch: images at a time.
    """

    checkpoint: str
    colors: str
    batch: int

    def __call__(self, images: Tensor, colored: Sequence[frozenset[str]]) -> list[list[Detection]]:
        """Raises UserError where a model is not on this machine, or is of another kind."""
        found: list[list[Detection]] = []
        with torch.no_grad():
            for first in range(0, len(images), self.batch):
                part = images[first : first + self.batch].detach().float()
                asked = colored[first : first + self.batch]
                segments = zip(part, self._segments(part), asked, strict=True)
                found += [self._detections(image, seen, wanted) for image, seen, wanted in segments]
        return found

    def _segments(self, images: Tensor) -> Any:
        processor, model = self._detector
        inputs = processor(images=_eight_bits(images), return_tensors="pt").to(images.device)
        return processor.post_process_instance_segmentation(
            model.to(images.device)(**inputs),
            threshold=LEAST_SCORE,
            target_sizes=[tuple(images.shape[2:])] * len(images),
            return_binary_maps=True,
        )

    def _detections(self, image: Tensor, seen: Any, colored: frozenset[str]) -> list[Detection]:
        found = []
        for mask, info in zip(seen["segmentation"], seen["segments_info"], strict=False):
            rows, columns = mask.bool().any(1).nonzero(), mask.bool().any(0).nonzero()
            if not len(rows):
                continue
            left, right, top, bottom = (
                *(int(columns.min()), int(columns.max()) + 1),
                *(int(rows.min()), int(rows.max()) + 1),
            )
            label = CLASSES[info["label_id"]]
            crop = torch.where(mask.bool().to(image.device), image, _GREY)[:, top:bottom, left:right]
            color = self._color(crop, label) if label in colored else ""
            box = (float(left), float(top), float(right), float(bottom))
            found.append(Detection(label, float(info["score"]), box, color))
        return found

    def _color(self, crop: Tensor, label: str) -> str:
        """The color whose three captions are nearest to the crop."""
        processor, model = self._classifier
        texts = [template.format(color=color, label=label) for color in COLORS for template in _TEMPLATES]
        inputs = processor(text=texts, images=_eight_bits(crop[None]), return_tensors="pt", padding=True)
        output = model.to(crop.device)(**inputs.to(crop.device))
        captions = output.text_embeds.unflatten(0, (len(COLORS), len(_TEMPLATES))).mean(1)
        near = torch.nn.functional.cosine_similarity(captions, output.image_embeds)
        return COLORS[int(near.argmax())]

    @cached_property
    def _detector(self) -> tuple[Any, Any]:
        import transformers

        kind: Any = transformers.Mask2FormerForUniversalSegmentation
        processor: Any = transformers.Mask2FormerImageProcessorPil
        folder = model_folder(self.checkpoint, "Mask2FormerForUniversalSegmentation")
        model = kind.from_pretrained(folder, local_files_only=True).eval()
        if model.config.num_labels != len(CLASSES):
            raise UserError(
                f"reward.detector.checkpoint = {self.checkpoint} knows {model.config.num_labels} classes, "
                f"and GenEval needs COCO's {len(CLASSES)}; name a checkpoint for COCO instances"
            )
        return processor.from_pretrained(folder, local_files_only=True), model

    @cached_property
    def _classifier(self) -> tuple[Any, Any]:
        import transformers

        kind: Any = transformers.CLIPModel
        processor: Any = transformers.CLIPProcessor
        folder = model_folder(self.colors, "CLIPModel")
        model = kind.from_pretrained(folder, local_files_only=True).eval()
        return processor.from_pretrained(folder, local_files_only=True), model


def _eight_bits(images: Tensor) -> list[Any]:
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return list(pixels)
