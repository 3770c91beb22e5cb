"""Renting and giving back: what is tried again, what is not, and what is said."""

import pytest

NO_CAPACITY = 'There is no more capacity in the zone "z"; you can try in another zone [EID: 0x1]'
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV2sPreemptiblePerProjectPerZoneForTPUAPI' has been exceeded. Limit: 8 in zone z."


def last_line(result) -> str:
    return result.err.splitlines()[-1]


def test_quota_that_is_used_up_is_asked_for_again(cloud):
    cloud.queue("create_errors", QUOTA, QUOTA)
    result = cloud.run("create.sh")
    assert result.code == 0, result.err
    assert len(cloud.calls("create")) == 3
    assert "mmdiff is READY in us-central1-b: v2-8 with 1 host(s)" in last_line(result)


def test_zones_are_tried_in_turn(cloud):
    cloud.queue("create_errors", NO_CAPACITY, NO_CAPACITY, QUOTA)
    result = cloud.run("create.sh", TPU_ZONES="zone-a zone-b")
    assert result.code == 0, result.err
    assert [call[-2] for call in cloud.calls("create")] == [f"--zone=zone-{z}" for z in "abab"]
    assert cloud.vm["zone"] == "zone-b"


def test_rounds_are_bounded_and_may_be_tried_later(cloud):
    cloud.queue("create_errors", *[NO_CAPACITY] * 9)
    result = cloud.run("create.sh", TPU_CREATE_TRIES="3")
    assert result.code == 75
    assert len(cloud.calls("create")) == 3
    assert "no v2-8 in us-central1-b after 3 rounds" in last_line(result)


@pytest.mark.parametrize(
    "error, said",
    [
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'", "roles/tpu.admin"),
        (
            "PERMISSION_DENIED: Cloud TPU API has not been used in project p. reason: SERVICE_DISABLED",
            "enable tpu.google",
        ),
        ("There was a problem refreshing your current auth tokens: run gcloud auth login", "gcloud auth login"),
        ("The required property [project] is not currently set.", "TPU_PROJECT"),
        ("FAILED_PRECONDITION: This API method requires billing to be enabled.", "billing is not enabled"),
        ("NOT_FOUND: The network 'n' was not found", "something that the request names does not exist"),
        ("INVALID_ARGUMENT: something that nobody has seen before", "gcloud failed"),
    ],
)
def test_what_waiting_does_not_help_is_not_tried_again(cloud, error, said):
    cloud.queue("create_errors", error)
    result = cloud.run("create.sh", TPU_ZONES="zone-a zone-b")
    assert result.code == 1
    assert len(cloud.calls("create")) == 1
    assert error in result.err
    assert said in last_line(result)


def test_a_type_that_a_zone_does_not_offer_leaves_the_other_zones(cloud):
    unknown = "Cloud TPU received a bad request. the accelerator v2-8 was not found in zone zone-a [EID: 0x1]"
    cloud.queue("create_errors", unknown, NO_CAPACITY)
    result = cloud.run("create.sh", TPU_ZONES="zone-a zone-b")
    assert result.code == 0, result.err
    assert [call[-2] for call in cloud.calls("create")] == ["--zone=zone-a", "--zone=zone-b", "--zone=zone-b"]


def test_a_type_that_no_zone_offers_and_a_quota_of_zero_end_it(cloud):
    none = (
        "the accelerator v2-8 was not found in zone zone-a",
        "Quota limit 'TPU' has been exceeded. Limit: 0 in region r.",
    )
    cloud.queue("create_errors", *none)
    result = cloud.run("create.sh", TPU_ZONES="zone-a zone-b")
    assert result.code == 1
    assert len(cloud.calls("create")) == 2
    assert "no zone of TPU_ZONES=zone-a zone-b can have a v2-8" in last_line(result)


def test_a_vm_that_exists_is_kept_and_waited_for(cloud):
    cloud.give_vm()
    cloud.queue("states", "CREATING", "CREATING", "READY")
    result = cloud.run("create.sh", TPU_ZONES="us-east1-d us-central1-b")
    assert result.code == 0, result.err
    assert not cloud.calls("create")
    assert "mmdiff exists in us-central1-b (CREATING): not creating another" in result.err


def test_a_vm_of_another_type_is_said(cloud):
    cloud.give_vm(type="v3-8")
    result = cloud.run("create.sh")
    assert result.code == 1
    assert "is a v3-8, not v2-8" in last_line(result)


def test_a_vm_that_never_becomes_ready_is_not_waited_for_for_ever(cloud):
    cloud.queue("states", *["CREATING"] * 9)
    result = cloud.run("create.sh", TPU_READY_CHECKS="4")
    assert result.code == 75
    assert "not READY after 4 looks" in last_line(result)


def test_the_words_of_the_variables_reach_gcloud(cloud):
    variables = {
        "TPU_TYPE": "v5e-16",
        "TPU_SPOT": "yes",
        "TPU_PROJECT": "mine",
        "TPU_CREATE_FLAGS": "--network=n --reserved",
    }
    assert cloud.run("create.sh", **variables).code == 0
    assert cloud.calls("create")[0][3:] == [
        *("create", "mmdiff", "--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"),
        *("--network=n", "--reserved", "--spot", "--zone=us-central1-b", "--project=mine", "--quiet"),
    ]


def test_a_file_of_variables_is_heard_before_the_environment(cloud, tmp_path):
    (tmp_path / "mine.sh").write_text("TPU_TYPE=v3-8\n")
    assert cloud.run("create.sh", "--variables", str(tmp_path / "mine.sh"), TPU_TYPE="v4-8", TPU_NAME="other").code == 0
    assert cloud.calls("create")[0][4:6] == ["other", "--accelerator-type=v3-8"]


def test_deleting_asks_and_can_be_repeated(cloud):
    cloud.give_vm()
    result = cloud.run("delete.sh")
    assert (result.code, cloud.vm["state"]) == (1, "READY")
    assert "add --yes" in last_line(result)

    cloud.queue("delete_errors", "UNAVAILABLE: try later")
    assert cloud.run("delete.sh", "--yes").code == 0
    assert cloud.vm is None
    again = cloud.run("delete.sh", "--yes")
    assert again.code == 0
    assert "nothing to delete" in last_line(again)
    assert len(cloud.calls("delete")) == 2
