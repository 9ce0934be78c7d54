"""MobileFaceNet with a narrow start, for processors that must train it.

At 56x56 and 28x28 pixels a depthwise convolution's backward pass moves memory rather than multiplies. With 32 and 48
channels there instead of 64 and 64, two cores train twice as many photographs a second; three more bottlenecks at 7x7
pixels, where they cost next to nothing, give back the parameters.
"""

from __future__ import annotations

from functools import partial

from facekd.recognition.backbones.mobilefacenet import MobileFaceNet

narrow_mobilenet = partial(MobileFaceNet, widths=(32, 48, 128, 128), blocks=(4, 6, 5))
