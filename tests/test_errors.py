"""Errors travel: to other processes, and into copies."""

from __future__ import annotations

import copy
import pickle

import pytest

from facekd import errors
from facekd.errors import EnrolmentRefused, FacekdError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FacekdError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_a_pickle_and_a_copy(kind: type[FacekdError]) -> None:
    error = kind("two faces", "several-faces") if kind is EnrolmentRefused else kind("two faces")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(other), str(other), vars(other)) == (kind, "two faces", vars(error))
