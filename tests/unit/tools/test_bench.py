"""`frameseal bench`: every row does what it is named after, and the table has them all."""

from frameseal.tools import bench


def test_every_row_seals_or_opens_the_frame():
    frame = bytes(range(100))
    for row in bench.rows():
        result = row.call(row.prepare(frame))
        assert isinstance(result, bytes)
        assert (result == frame) == row.name.endswith("decrypt"), row.name


def test_the_table_has_a_row_for_each_measurement_and_a_column_for_each_size(monkeypatch, capsys):
    monkeypatch.setattr(bench, "SIZES", (120, 1_200))
    assert bench.run(seconds=0.01) == 0
    printed = capsys.readouterr().out
    assert all(row.name.split(",")[0] in printed for row in bench.rows())
    assert "120 B" in printed and "1,200 B" in printed
