"""A decoder group that lost its CUDA context is started anew, not at once and ever more rarely."""

from facedetd.supervisor.losses import LONGEST_S, Loss, is_due, lost, pause_s


def test_nothing_is_due_before_something_is_lost() -> None:
    assert not is_due(Loss(), 1e9)


def test_it_waits_and_pauses_double_while_losses_follow_one_another() -> None:
    loss, now, pauses = Loss(), 1000.0, []
    for _ in range(12):
        loss = lost(loss, "CUDA is lost to this process: an error", now)
        pauses.append(pause_s(loss))
        assert not is_due(loss, now + pauses[-1] - 1) and is_due(loss, now + pauses[-1])
        now += pauses[-1] + 5
    assert pauses[:4] == [30.0, 60.0, 120.0, 240.0] and pauses[-1] == LONGEST_S


def test_an_hour_of_peace_forgets() -> None:
    loss = lost(lost(Loss(), "x", 0.0), "x", 40.0)
    assert pause_s(loss) == 60
    assert pause_s(lost(loss, "x", 40.0 + LONGEST_S + 61)) == 30


def test_a_reason_is_always_there() -> None:
    assert lost(Loss(), "", 5.0).why
