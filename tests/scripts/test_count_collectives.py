"""A training step meets once over several TPUs, the replicas of a sweep not at all; reading a program's collectives."""

import pytest

from scripts import count_collectives
from tests.scripts.test_compile_kernels import site

assert site  # A fixture: the folder with the plugins.


@pytest.mark.accelerator
@pytest.mark.exhaustive
@pytest.mark.parametrize("topology", count_collectives.TOPOLOGIES)
def test_chips_meet_once_a_step_where_they_share_a_batch_and_never_for_replicas(site, topology):
    cases = count_collectives.counts(site, [topology])
    assert len(cases) == 3
    for case in cases:
        meets = case["replicas"] is None or case["replicas"] < case["chips"]
        assert case["a step"] == ["all-reduce"] * meets
        assert case["a time step"] == case["elsewhere"] == []


@pytest.mark.parametrize(
    ("groups", "several"),
    [
        *[("{{0},{1}}", False), ("{{0,1}}", True), ("{{0,2},{1,3}}", True), ("{{0,1},{2}}", True)],
        *[("[4,1]<=[4]", False), ("[2,2]<=[4]", True), ("{}", True)],
        ("mesh['replica'=2,'data'=1,'model'=1] {'data','model'}", False),
        ("mesh['replica'=2,'data'=4] {'data'}", True),
    ],
)
def test_a_collective_of_one_device_each_is_none(groups, several):
    line = f"  %psum.1 = f32[8]{{0}} all-reduce(%a), channel_id=1, replica_groups={groups}, to_apply=%add"
    assert count_collectives._of_several(line) == several
