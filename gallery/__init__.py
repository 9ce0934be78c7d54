"""People and their templates: enrolment, identification, verification, and what keeps them safe."""

from facekd.gallery.calibration import Calibration
from facekd.gallery.decision import Candidate, Decision, Verification
from facekd.gallery.gallery import Gallery
from facekd.gallery.location import default_location
from facekd.gallery.policy import EnrolmentPolicy
from facekd.gallery.records import NewTemplate, Person, Removal, UnknownPerson

__all__ = [
    "Calibration",
    "Candidate",
    "Decision",
    "EnrolmentPolicy",
    "Gallery",
    "NewTemplate",
    "Person",
    "Removal",
    "UnknownPerson",
    "Verification",
    "default_location",
]
