"""Tables of pretrained/README.md out of reports."""
import json
from pathlib import Path

from benchmarks.bundled_scores import SCRIPTS, cell, markdown
from tests.toy import run_script


def estimate(mean: float | None, interval: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "interval": interval, "repeats": 20, "not_finite": 0}


def test_a_number_has_the_digits_that_its_interval_allows() -> None:
    assert cell(estimate(39.618, 0.83)) == "39.6 ± 0.8"
    assert cell(estimate(1.66312, 0.0871)) == "1.66 ± 0.09"
    assert cell(estimate(43.2, 2.3)) == "43 ± 2"
    assert cell(estimate(0.02134)) == "0.0213"
    assert cell(19.06) == "19.1"
    assert cell(estimate(None)) == "not finite"
    assert cell(None) == ""


def test_rows_and_columns_without_a_number_are_left_out() -> None:
    results = {"real motion": {"R1": estimate(43.2, 0.5), "jerk": 8.0}, "made": {"fid": estimate(2.0, 0.1)},
               "sides": {"captions": 3}}
    assert markdown(results, {"fid": "FID", "R1": "R@1", "mpjpe": "MPJPE"}) == [
        "| | FID | R@1 |", "| --- | --- | --- |", "| real motion |  | 43.2 ± 0.5 |", "| made | 2.0 ± 0.1 |  |"]


def test_tables_of_all_reports_are_printed_with_what_made_them(tmp_path: Path) -> None:
    for name, key in zip(SCRIPTS.values(), ("mpjpe", "fid", "m2t_R1"), strict=True):
        path = tmp_path / "checkpoints" / "t2m" / name / "eval" / "bundled.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"settings": {"checkpoint": name, "clips": 442, "repeat_times": 20, "hardware": "x"},
                                    "results": {"row": {key: estimate(2.0, 0.1)}}}))
    printed = run_script("benchmarks/bundled_scores.py", cwd=tmp_path).stdout
    assert printed.count("442 clips, 20 repeats") == 3 and printed.count("| row | 2.0 ± 0.1 |") == 3
    path.unlink()
    missing = run_script("benchmarks/bundled_scores.py", cwd=tmp_path, check=False)
    assert missing.returncode == 2 and "--data_root DATA creates it" in missing.stderr
