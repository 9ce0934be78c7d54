import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import ConfigError
from facekd.gallery.decision import Decision
from facekd.gallery.door import Door, DoorEvent, DoorPolicy, Sighting

AGAIN = "try again"


def _decision(answer):
    outcome = "try-again" if answer == AGAIN else "nobody" if answer is None else "match"
    person = answer if outcome == "match" else None
    return Decision(person, outcome, None, 0.7, 0.5, None, None, None, 0.001, None, False)


def _seen(answer, left=0.0):
    return Sighting(np.array([left, 0, left + 100, 100], np.float32), _decision(answer))


def _door(**rules):
    """A door that asks for agreeing frames, however short the time between them."""
    return Door(DoorPolicy(agree_over_s=0.0, **rules))


def _play(answers, door=None, step=0.1, start=0.0):
    """One face, one answer a frame; '-' is a frame without a face."""
    door = door or _door()
    events = []
    for number, answer in enumerate(answers):
        events += door.see(start + step * number, [] if answer == "-" else [_seen(answer)])
    return [(event.kind, event.person) for event in events]


def test_agreeing_frames_open_the_door():
    assert _play(["Ada"] * 2) == []
    assert _play(["Ada"] * 3) == [("granted", "Ada")]
    assert _play(["Ada"] * 30) == [("granted", "Ada")]  # once a visit


@pytest.mark.parametrize(
    ("answers", "granted"),
    [
        (["Ada", "Ada", None, "Ada", "Ada"], []),
        (["Ada", "Ada", "Grace", "Ada", "Ada"], []),
        (["Ada", "Ada", AGAIN, "Ada"], [("granted", "Ada")]),
        ([AGAIN] * 20, []),
        (["Ada", AGAIN, AGAIN, AGAIN], []),
        (["Grace", "Ada", "Ada", "Ada"], [("granted", "Ada")]),
        ([None] * 20, []),
    ],
)
def test_only_frames_that_agree_count(answers, granted):
    assert _play(answers) == granted


def test_frames_must_agree_in_time():
    assert _play(["Ada"] * 3, step=0.9) == [("granted", "Ada")]
    assert _play(["Ada"] * 3, step=2.01) == []


@pytest.mark.parametrize("step", [1 / 128, 1 / 32, 0.125, 0.5, 1.125, 1.5])
def test_a_door_asks_for_the_same_however_fast_the_machine_is(step):
    door = Door()
    events = [event for number in range(200) for event in door.see(step * number, [_seen("Ada")])]
    (granted,) = events
    assert granted.kind == "granted"
    assert granted.at == max(0.5, 2 * step)


def test_who_is_gone_for_one_slow_frame_has_not_left():
    assert _play([None, "-", None, "-", None], step=1.5) == []
    assert _play([None, "-", "-"], step=1.5) == [("failed", None)]


def test_who_comes_after_a_silence_is_somebody_else():
    door = _door()  # of a caller who hands over frames with faces alone
    assert _play(["Ada"] * 3, door) == [("granted", "Ada")]
    assert _play(["Grace"] * 3, door, start=60.0) == [("granted", "Grace")]


def test_frames_of_two_faces_do_not_add_up():
    door = Door()
    for number in range(6):
        assert door.see(0.1 * number, [_seen("Ada", left=1000.0 * number)]) == []


def test_two_faces_are_told_apart_and_the_first_to_agree_enters():
    door = _door()
    events = []
    for number in range(4):
        events += door.see(
            0.1 * number, [_seen("Ada", 500.0 + number), _seen(None if number == 0 else "Grace", number)]
        )
    assert events == [DoorEvent("granted", 0.2, 1, "Ada")]


def test_a_face_that_leaves_begins_anew():
    assert _play(["Ada", "Ada"] + ["-"] * 12 + ["Ada"]) == []  # who was named and goes has not failed
    assert _play(["Ada", None] + ["-"] * 12 + ["Ada"]) == [("failed", None)]
    assert _play([None, "Ada"] + ["-"] * 12 + ["Ada"]) == []
    assert _play(["Ada", "Ada"] + ["-"] * 5 + ["Ada"]) == [("granted", "Ada")]  # a blink is no departure
    assert _play([AGAIN, AGAIN] + ["-"] * 12) == []  # nobody was judged: a passer-by


def test_an_attempt_ends():
    assert _play([None] * 100) == [("failed", None)]
    assert _play([None] * 100 + ["Ada"] * 10) == [("failed", None)]  # the face must leave first
    assert _play([None] * 100 + ["-"] * 12 + ["Ada"] * 3) == [("failed", None), ("granted", "Ada")]


def test_after_a_grant_nobody_enters_for_a_while():
    door = _door(cool_down_s=2.0)
    _play(["Ada"] * 3, door)
    assert _play(["-"] * 12, door, start=0.3) == []
    assert _play(["Grace"] * 7, door, start=1.5) == []  # until 2.1; granted was at 0.2
    assert _play(["Grace"] * 3, door, start=2.3) == [("granted", "Grace")]


def test_failures_lock_the_door():
    door = _door(failures=3, lock_s=10.0)
    visit = [None] + ["-"] * 12
    assert _play(visit * 3, door) == [("failed", None)] * 3 + [("locked", None)]
    assert _play(["Ada"] * 20, door, start=4.0) == []
    assert _play(["-"] * 12 + ["Ada"] * 3, door, start=14.0) == [("granted", "Ada")]


def test_faces_that_leave_during_a_lock_do_not_count():
    door = _door(failures=2, lock_s=10.0)
    door.see(0.0, [_seen(None, left=1000.0 * place) for place in range(6)])
    door.see(0.5, [])
    assert [event.kind for event in door.see(2.0, [])] == ["failed", "failed", "locked"]
    assert _play([None] + ["-"] * 12, door, start=13.0) == [("failed", None)]  # the first one since


def test_old_failures_are_forgotten():
    door = _door(failures=3, failure_window_s=5.0)
    events = []
    for visit in range(6):
        events += _play([None] + ["-"] * 12, door, start=10.0 * visit)
    assert events == [("failed", None)] * 6


def test_time_runs_forwards():
    door = Door()
    door.see(2.0, [])
    for wrong in (1.0, float("nan")):
        with pytest.raises(ConfigError, match="go back"):
            door.see(wrong, [])


@pytest.mark.parametrize(
    "wrong",
    [{"agreeing_frames": 0}, {"failures": 0}, {"lock_s": -1.0}, {"same_face_iou": 1.0}, {"agree_over_s": 4.5}],
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        DoorPolicy(**wrong)


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(
        st.tuples(st.sampled_from(["Ada", "Grace", None, AGAIN, "-"]), st.floats(0.01, 3.0)), min_size=1, max_size=60
    ),
    frames=st.integers(1, 4),
)
def test_a_grant_always_has_its_frames(answers, frames):
    policy = DoorPolicy(agreeing_frames=frames, failures=2, lock_s=4.0, cool_down_s=3.0)
    door = Door(policy)
    now = 0.0
    history = []
    grants, locks = [], []
    for answer, step in answers:
        now += step
        history.append((now, answer))
        for event in door.see(now, [] if answer == "-" else [_seen(answer)]):
            if event.kind == "granted":
                named = [(at, said) for at, said in history if said not in (AGAIN, "-")][-frames:]
                assert [said for _, said in named] == [event.person] * frames
                assert now - named[0][0] <= policy.agree_within_s
                agreeing = [at for at, said in history if said == event.person and now - at <= policy.agree_within_s]
                assert now - agreeing[0] >= policy.agree_over_s
                assert answer == event.person
                assert all(now >= at + policy.cool_down_s for at in grants)
                assert all(now >= at + policy.lock_s for at in locks)
                grants.append(now)
            elif event.kind == "locked":
                locks.append(now)
