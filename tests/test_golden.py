"""The parity runner passes the published fixtures."""
from tests.toy import GOLDEN, needs, run_script


@needs(GOLDEN)
def test_every_published_fixture_passes(tmp_path):
    told = run_script("tests/run_golden.py", GOLDEN, cwd=tmp_path).stdout
    assert told.splitlines()[-1].endswith(" passed, 0 failed")
