from helpers.rig import JOB
from helpers.tiny_job import add_unprepared_job, job_spec, job_toml
from sqlalchemy import update

from fwdllm_server.store import jobs, schema
from fwdllm_server.store.jobs import JobState


def test_a_new_job_prepares_its_model(connection):
    record = jobs.get(connection, JOB)

    assert (record.state, record.header, record.started_at, record.ended_at) == (JobState.PREPARING, None, None, None)


def test_a_job_keeps_the_defaults_that_it_was_submitted_with(connection):
    """Those of the version that resolved it, which are not those that its file has now."""
    submitted = job_spec({"rounds": {"max_devices": 7}})
    jobs.add(connection, "job2", submitted, job_toml(), "/", 0.0)

    assert jobs.get(connection, "job2").spec() == submitted


def test_a_job_without_a_resolved_specification_has_that_of_its_file(connection):
    connection.execute(update(schema.jobs).values(resolved_spec=None))

    assert jobs.get(connection, JOB).spec() == job_spec()


def test_a_prepared_job_runs_with_its_header(connection):
    jobs.prepared(connection, JOB, b"header", "a" * 64, "zeros", 14)
    record = jobs.get(connection, JOB)

    assert (record.state, record.header, record.trainable_parameters) == (JobState.RUNNING, b"header", 14)


def test_a_job_is_found_by_id_and_the_newest_by_name(connection):
    add_unprepared_job(connection, "job2", now=5.0)

    assert jobs.find(connection, JOB).id == JOB
    assert jobs.find(connection, "tiny").id == "job2"
    assert jobs.find(connection, "tine") is None


def test_ending_is_dated_and_going_on_takes_the_date_away(connection):
    jobs.set_state(connection, JOB, JobState.FAILED, "no devices", 9.0)
    assert (jobs.get(connection, JOB).ended_at, jobs.get(connection, JOB).message) == (9.0, "no devices")

    jobs.set_state(connection, JOB, JobState.RUNNING, "", 10.0)
    assert jobs.get(connection, JOB).ended_at is None


def test_the_first_start_stays(connection):
    jobs.started(connection, JOB, 3.0)
    jobs.started(connection, JOB, 8.0)

    assert jobs.get(connection, JOB).started_at == 3.0


def test_unused_scalars_add_up_by_reason(connection):
    jobs.count_unused(connection, JOB, repeated=1, late=2)
    jobs.count_unused(connection, JOB, late=3, unusable=4)
    record = jobs.get(connection, JOB)

    assert (record.scalars_repeated, record.scalars_late, record.scalars_unusable) == (1, 5, 4)


def test_jobs_are_listed_by_state_newest_first(connection):
    add_unprepared_job(connection, "job2", "other", 5.0)
    add_unprepared_job(connection, "job3", "third", 6.0)
    jobs.set_state(connection, "job2", JobState.STOPPED, "", 7.0)

    assert [record.id for record in jobs.in_state(connection)] == ["job3", "job2", JOB]
    assert [record.id for record in jobs.in_state(connection, JobState.PREPARING)] == ["job3", JOB]
