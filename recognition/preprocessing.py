"""How aligned crops enter the networks that facekd trains: read by recipes, and from there by the manifest."""

from __future__ import annotations

from facekd.zoo import Preprocessing

CENTRED = (127.5, 127.5, 127.5)
UNIT = (1 / 127.5, 1 / 127.5, 1 / 127.5)

ALIGNED_CROP = Preprocessing(mean=CENTRED, scale=UNIT, width=112, height=112, template="arcface-112")
