from server.profiler.quadratic import exact_scalars

from fwdllm_server.profiler.traffic import traffic_of_round


def test_four_bytes_up_and_a_coefficient_down():
    traffic = traffic_of_round(exact_scalars(500), 500, snapshot_bytes=10**6)
    assert 2000 < traffic.up < 2020
    assert 500 * 4 < traffic.down < 500 * 8


def test_a_snapshot_if_it_is_smaller():
    assert traffic_of_round(exact_scalars(500), 500, snapshot_bytes=900).down == 900


def test_many_scalars_are_several_reports():
    scalars = exact_scalars(5000)
    assert traffic_of_round(scalars, 5000, 1).up > traffic_of_round(scalars, 4096, 1).up + 4 * 904
