"""Two views of one picture: the teacher sees it clean, the student a stronger augmentation of the same pixels.

Only light, colour, noise and small covers are changed, never the geometry, so that features of the same place still
show the same part of the face and imitation of feature maps stays right. Flips and crops belong before the split, on
both views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from facekd.engine.settings import Fraction, Section


class StrongView(Section):
    """How much stronger the student's view is.

    Attributes:
        light: largest relative change of contrast and (of the value range) of brightness, a picture.
        tint: largest relative change of a channel.
        noise: largest standard deviation of noise, as a share of the value range.
        grey: share of pictures without colour.
        blur: share of pictures averaged over 3x3 pixels.
        cover: share of pictures with a flat rectangle over up to a tenth of the picture.
    """

    light: Fraction = 0.3
    tint: Fraction = 0.1
    noise: Fraction = 0.03
    grey: Fraction = 0.1
    blur: Fraction = 0.1
    cover: Fraction = 0.0


def strong_view(pictures: Tensor, settings: StrongView, generator: torch.Generator, low: float = -1.0) -> Tensor:
    """A stronger view of a batch.

    Args:
        pictures: (N, 3, H, W) float in low..1.
        settings: how strong.
        generator: of everything drawn.
        low: smallest value of the range (-1 for facekd's crops, 0 for pictures in 0..1).

    Returns:
        A new tensor of the same shape within the same range.
    """
    count, channels, height, width = pictures.shape
    span, middle = 1.0 - low, (1.0 + low) / 2

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(pictures) * 2 - 1

    def chosen(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share).to(pictures.device).view(-1, 1, 1, 1)

    view = (pictures - middle) * (1 + settings.light * drawn(count, 1, 1, 1)) + middle
    view = view + settings.light * span / 2 * drawn(count, 1, 1, 1)
    view = view * (1 + settings.tint * drawn(count, channels, 1, 1))
    view = torch.where(chosen(settings.grey), view.mean(dim=1, keepdim=True), view)
    blurred = F.avg_pool2d(F.pad(view, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    view = torch.where(chosen(settings.blur), blurred, view)
    level = settings.noise * span * drawn(count, 1, 1, 1).abs()
    view = view + level * torch.randn(view.shape, generator=generator).to(pictures)
    covered = chosen(settings.cover).flatten()
    for n in range(count):  # rectangles differ from picture to picture
        tall, wide = (0.1 + 0.2 * torch.rand(2, generator=generator)).tolist()
        top, left = (torch.rand(2, generator=generator) * torch.tensor([1 - tall, 1 - wide])).tolist()
        if covered[n]:
            rows = slice(int(top * height), int((top + tall) * height))
            view[n, :, rows, int(left * width) : int((left + wide) * width)] = middle
    return view.clamp(low, 1.0)
