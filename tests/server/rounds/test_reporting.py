from collections import Counter

import pytest
from helpers.rig import JOB, derivative
from sqlalchemy import event

from fwdllm.v1 import device_pb2
from fwdllm_common.counts import Counts
from fwdllm_server.rounds import reporting
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.store import assignments, job_devices, scalars
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.rounds import Phase

ABC = ("a", "b", "c")
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def rig(make_rig):
    return make_rig(federated_evaluate_every=1)


@pytest.fixture
def work(rig):
    """Device a's five directions."""
    return rig.begin_round(*ABC)[0]


def counted(response):
    return response.accepted, response.repeated, response.late, response.unusable


def stored(rig):
    with rig.database.transaction() as connection:
        return {scalar.seed: scalar.value for scalar in scalars.of_round(connection, JOB, 1)}


def state_of(rig, work):
    with rig.database.transaction() as connection:
        return assignments.get(connection, work.id).state


def send_all(rig, *reports):
    """Messages that arrived together: (work, derivatives, first_index)."""
    with rig.database.transaction() as connection:
        batch = [
            Report(
                assignments.get(connection, work.id),
                device_pb2.ReportRequest(
                    assignment_id=work.id,
                    derivatives=derivatives,
                    first_index=first,
                    usage=device_pb2.ResourceUsage(seconds=1),
                ),
                30.0,
            )
            for work, derivatives, first in reports
        ]
        return reporting.record(connection, batch, rig.now)


def send(rig, work, request):
    request.assignment_id = work.id
    with rig.database.transaction() as connection:
        report = Report(assignments.get(connection, work.id), request, 30.0)
        return reporting.record(connection, [report], rig.now)[0]


def test_scalars_are_stored_under_the_seeds_of_their_indices(rig, work):
    assert counted(rig.report(work.id, [0.25, -0.5], first_index=2)) == (2, 0, 0, 0)
    assert stored(rig) == {work.seeds[2]: 1 << 22, work.seeds[3]: -(1 << 23)}


def test_the_answer_names_the_message_it_answers(rig, work):
    response = rig.report(work.id, [0.5], first_index=3)

    assert (response.assignment_id, response.first_index) == (work.id, 3)


def test_a_repeated_message_counts_once(rig, work):
    rig.report(work.id, [0.5, 0.5])

    assert counted(rig.report(work.id, [0.5, 0.5, 0.5])) == (1, 2, 0, 0)
    assert rig.record.scalars_repeated == 2


def test_a_repeated_scalar_does_not_change_the_first(rig, work):
    rig.report(work.id, [0.5])
    rig.report(work.id, [0.25])

    assert stored(rig) == {work.seeds[0]: 1 << 23}


def test_a_whole_report_sent_again_is_no_reason_to_stop(rig, work):
    rig.finish(work)
    response = rig.finish(work)

    assert (counted(response), response.stop) == ((0, 5, 0, 0), False)
    assert state_of(rig, work) == AssignmentState.DONE


def test_an_assignment_is_done_when_its_last_scalar_is_in(rig, work):
    rig.report(work.id, [0.5] * 4, first_index=1)
    assert state_of(rig, work) == AssignmentState.TAKEN

    rig.report(work.id, [0.5])
    assert state_of(rig, work) == AssignmentState.DONE


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 65537.0, -1e30])
def test_a_number_that_is_no_derivative_is_unusable_and_stops_the_device(rig, work, bad):
    response = rig.report(work.id, [0.5, bad, 0.5])

    assert (counted(response), response.stop) == ((2, 0, 0, 1), True)
    assert state_of(rig, work) == AssignmentState.UNUSABLE
    assert rig.record.scalars_unusable == 1
    assert set(stored(rig)) == {work.seeds[0], work.seeds[2]}


def test_the_largest_derivative_is_used(rig, work):
    assert counted(rig.report(work.id, [65536.0, -65536.0])) == (2, 0, 0, 0)


@pytest.mark.parametrize(("first_index", "usable"), [(3, 2), (5, 0), (4_000_000_000, 0)])
def test_scalars_outside_the_assignment_are_unusable(rig, work, first_index, usable):
    response = rig.report(work.id, [0.5] * 4, first_index)

    assert (counted(response), response.stop) == ((usable, 0, 0, 4 - usable), True)
    assert set(stored(rig)) == set(work.seeds[first_index:])


def test_more_scalars_than_one_message_may_hold_are_unusable(make_rig):
    rig = make_rig({"blocks.head": {"directions": 5000}}, min_devices=1)
    (work,) = rig.begin_round("a")

    assert counted(rig.report(work.id, [0.5] * 5000)) == (4096, 0, 0, 904)


def test_scalars_of_a_committed_round_are_late_and_change_nothing(rig):
    work = rig.begin_round(*ABC)
    for assignment in work:
        rig.finish(assignment)
    rig.settle()
    before = rig.ledger_bytes()
    response = rig.report(work[0].id, [0.5, NAN])
    rig.settle()

    assert (counted(response), response.stop) == ((0, 0, 2, 0), True)
    assert rig.record.scalars_late == 2
    assert rig.ledger_bytes() == before
    assert stored(rig) == {}


def test_a_scalar_that_comes_while_the_round_commits_is_late(make_rig):
    """The verdict of pacing was about others; what was handed out beyond the need is too late for it."""
    rig = make_rig(over_assign=1.5)
    first, second, third = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    rig.machine.advance(rig.now)

    assert rig.round.phase == Phase.COMMITTING
    assert rig.finish(third).late == third.directions


def test_scalars_that_come_while_the_last_version_is_evaluated_are_late(make_rig):
    rig = make_rig(count=1)
    work = rig.begin_round(*ABC)
    for assignment in work:
        rig.finish(assignment)
    rig.settle()

    assert rig.round.phase == Phase.COMMITTED
    assert rig.finish(work[0]).late == 5
    assert stored(rig) == {}


def test_scalars_of_an_abandoned_round_are_late(rig, work):
    rig.later(1000)

    assert rig.phases()[0] == "abandoned"
    assert counted(rig.finish(work)) == (0, 0, 5, 0)


def test_scalars_of_an_expired_assignment_are_late(rig, work):
    rig.later(31)
    response = rig.finish(work)

    assert (counted(response), response.stop) == ((0, 0, 5, 0), True)


def test_scalars_that_come_after_the_time_but_before_anyone_noticed_count(rig, work):
    rig.now += 31

    assert rig.finish(work).accepted == 5


def test_news_prolong_an_open_assignment(rig, work):
    rig.now += 20
    rig.report(work.id, [0.5])

    assert rig.work_of_round()[0].expires_at == rig.now + 30


def test_what_is_no_new_scalar_prolongs_nothing(rig, work):
    expires_at = rig.work_of_round()[0].expires_at
    rig.report(work.id, [0.5])
    rig.now += 20
    send(rig, work, device_pb2.ReportRequest(usage=device_pb2.ResourceUsage(seconds=1)))
    rig.report(work.id, [0.5])

    assert rig.work_of_round()[0].expires_at == expires_at


def test_a_federated_evaluation_is_counted(rig, work):
    send(rig, work, device_pb2.ReportRequest(evaluation=device_pb2.EvaluationCounts(correct=7, total=9)))

    with rig.database.transaction() as connection:
        assert assignments.federated_counts(connection, JOB) == Counts(7, 9)


@pytest.mark.parametrize(
    ("f1", "believed"), [(2.5, True), (2.0, True), (9.0, True), (1.5, False), (9.5, False), (NAN, False)]
)
def test_f1_lies_between_the_exact_matches_and_the_rows(rig, work, f1, believed):
    counts = device_pb2.EvaluationCounts(correct=2, total=9, f1=f1)
    send(rig, work, device_pb2.ReportRequest(evaluation=counts))

    with rig.database.transaction() as connection:
        found = assignments.federated_counts(connection, JOB)
    assert found == (Counts(2, 9, f1) if believed else Counts(0, 0))


def test_more_correct_predictions_than_rows_are_not_believed(rig, work):
    send(rig, work, device_pb2.ReportRequest(evaluation=device_pb2.EvaluationCounts(correct=10, total=9)))

    with rig.database.transaction() as connection:
        assert assignments.federated_counts(connection, JOB) == Counts(0, 0)


def test_an_evaluation_that_was_not_asked_for_is_not_used(make_rig):
    rig = make_rig(federated_evaluate_every=0)
    work = rig.begin_round(*ABC)[0]
    send(rig, work, device_pb2.ReportRequest(evaluation=device_pb2.EvaluationCounts(correct=7, total=9)))

    with rig.database.transaction() as connection:
        assert assignments.federated_counts(connection, JOB) == Counts(0, 0)


@pytest.mark.parametrize(
    "usage", [{"seconds": NAN}, {"seconds": -1}, {"example_passes": INF}, {"bytes_sent": (1 << 64) - 1}]
)
def test_an_impossible_usage_is_left_out_and_the_scalars_kept(rig, work, usage):
    request = device_pb2.ReportRequest(derivatives=[derivative(work.seeds[0])], usage=device_pb2.ResourceUsage(**usage))

    assert send(rig, work, request).accepted == 1
    with rig.database.transaction() as connection:
        (row,) = job_devices.of_job(connection, JOB)
    assert (row.scalars, row.seconds, row.example_passes, row.joules, row.bytes_sent) == (1, 0.0, 0.0, None, 0)


def test_what_the_work_cost_is_kept_by_device(rig, work):
    send(rig, work, device_pb2.ReportRequest(derivatives=[0.5], usage=device_pb2.ResourceUsage(seconds=2)))
    with rig.database.transaction() as connection:
        (row,) = job_devices.of_job(connection, JOB)

    assert (row.device_id, row.seconds, row.scalars) == ("a", 2.0, 1)


def test_a_message_that_is_sent_again_costs_nothing_more(rig, work):
    for _ in range(2):
        send(rig, work, device_pb2.ReportRequest(derivatives=[0.5], usage=device_pb2.ResourceUsage(seconds=2)))
    with rig.database.transaction() as connection:
        (row,) = job_devices.of_job(connection, JOB)

    assert (row.seconds, row.scalars) == (2.0, 1)


def test_messages_that_come_together_are_answered_as_if_they_came_one_after_the_other(rig):
    first, second, third = rig.begin_round(*ABC)
    messages = [
        (first, [0.5, 0.25], 0),
        (second, [0.5] * 5, 0),
        (first, [0.5, 0.25, 0.125], 0),  # its answer was lost; with one more
        (third, [NAN], 0),
        (third, [0.5], 1),  # too late: the device was told to stop
        (first, [0.5, 0.5], 3),
        (second, [0.5], 0),
    ]
    answers = send_all(rig, *messages)

    assert [counted(answer) for answer in answers] == [
        (2, 0, 0, 0),
        (5, 0, 0, 0),
        (1, 2, 0, 0),
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (2, 0, 0, 0),
        (0, 1, 0, 0),
    ]
    assert [answer.stop for answer in answers] == [False, False, False, True, True, False, True]
    assert [state_of(rig, work) for work in (first, second, third)] == ["done", "done", "unusable"]
    assert (rig.record.scalars_repeated, rig.record.scalars_late, rig.record.scalars_unusable) == (3, 1, 1)
    assert set(stored(rig)) == {*first.seeds, *second.seeds}
    with rig.database.transaction() as connection:
        spent = {row.device_id: (row.seconds, row.scalars) for row in job_devices.of_job(connection, JOB)}
    assert spent == {"a": (2.0, 5), "b": (1.0, 5), "c": (2.0, 0)}


def test_messages_that_come_together_share_their_statements(make_rig):
    """One for each kind of thing, to look for scalars one for each of two blocks, and not for each message."""
    statements = Counter()
    rig = make_rig()
    work = rig.begin_round(*ABC)
    event.listen(rig.database._engine, "before_cursor_execute", lambda *found: statements.update([found[2]]))
    counts = []
    for some in (work[:1], work[1:]):
        statements.clear()
        with rig.database.transaction() as connection:
            batch = [
                Report(
                    each, device_pb2.ReportRequest(derivatives=[0.5], usage=device_pb2.ResourceUsage(seconds=1)), 30.0
                )
                for each in some
            ]
            reporting.record(connection, batch, rig.now)
        counts.append(sum(statements.values()))

    assert counts[0] == counts[1] <= 8
