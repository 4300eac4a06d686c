"""Each control error becomes its own status with its own details, and nothing secret gets out."""

import logging

import grpc
import pytest
from api_harness import serving
from google.rpc import error_details_pb2 as rich
from grpc_status import rpc_status

from facedetd import control
from facedetd.api import errors
from facedetd.api.errors import RULES, redacted, status_of
from facedetd.v1 import stream_pb2, stream_pb2_grpc

VIOLATIONS = [control.FieldViolation("spec.url", "not rtsp://"), control.FieldViolation("spec.priority", "over 100")]

TABLE = [
    (control.InvalidError(VIOLATIONS), "INVALID_ARGUMENT", "INVALID", rich.BadRequest),
    (control.NotFoundError("no stream 'a'"), "NOT_FOUND", "NOT_FOUND", rich.ResourceInfo),
    (control.ConflictError("taken"), "ALREADY_EXISTS", "ALREADY_EXISTS", rich.ResourceInfo),
    (control.ReadOnlyError("in the TOML"), "FAILED_PRECONDITION", "STREAM_READ_ONLY", rich.PreconditionFailure),
    (control.CapacityError("4 at most"), "RESOURCE_EXHAUSTED", "LIMIT_REACHED", rich.QuotaFailure),
    (control.UnavailableError("no frame"), "UNAVAILABLE", "NOT_NOW", rich.RetryInfo),
    (control.StorageError("disk is full"), "FAILED_PRECONDITION", "STORAGE_FAILED", rich.PreconditionFailure),
    (control.ControlError("no"), "FAILED_PRECONDITION", "REFUSED", None),
    (errors.AuthError("no token"), "UNAUTHENTICATED", "NOT_AUTHENTICATED", None),
    (errors.DeniedError("not you"), "PERMISSION_DENIED", "ROLE_TOO_LOW", None),
    (errors.RateError("too many calls"), "RESOURCE_EXHAUSTED", "TOO_MANY_CALLS", rich.RetryInfo),
    (errors.UnknownMethodError("no method"), "UNIMPLEMENTED", "UNKNOWN_METHOD", None),
]


def details_of(status, kind):
    found = [detail for detail in status.details if detail.Is(kind.DESCRIPTOR)]
    assert len(found) == 1, status
    message = kind()
    found[0].Unpack(message)
    return message


@pytest.fixture(scope="module")
def served():
    with serving() as running:
        yield running


def failing_call(served, error, stream_id="cam1"):
    served.control.fail = error
    with served.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        stream_pb2_grpc.StreamServiceStub(channel).GetStream(stream_pb2.GetStreamRequest(id=stream_id), timeout=10)
    return caught.value


@pytest.mark.parametrize(("error", "code", "reason", "detail"), TABLE, ids=[type(row[0]).__name__ for row in TABLE])
def test_codes_and_details_over_the_wire(served, error, code, reason, detail):
    call = failing_call(served, error)
    assert call.code() is grpc.StatusCode[code]
    status = rpc_status.from_call(call)
    assert status.message == str(error)
    info = details_of(status, rich.ErrorInfo)
    assert (info.reason, info.domain, info.metadata["stream"]) == (reason, "facedetd.v1", "cam1")
    if detail is not None:
        details_of(status, detail)
    if detail is rich.BadRequest:
        fields = [(v.field, v.description) for v in details_of(status, rich.BadRequest).field_violations]
        assert fields == [("spec.url", "not rtsp://"), ("spec.priority", "over 100")]
    if detail is rich.ResourceInfo:
        assert details_of(status, rich.ResourceInfo).resource_name == "cam1"


def test_the_table_above_is_whole():
    def below(cls):
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__()))

    # Only what the API itself may meet: other rooms' subclasses are there or not, by what else was imported before
    rooms = (control.__name__, errors.__name__)
    known = {cls for cls in below(control.ControlError) if cls.__module__ in rooms}
    assert known == set(RULES)
    assert {type(row[0]) for row in TABLE} == known
    assert len({rule.reason for rule in RULES.values()}) == len(RULES)


def test_a_subclass_takes_its_parents_rule():
    class Deeper(control.NotFoundError):
        pass

    assert status_of(Deeper("gone")).code == grpc.StatusCode.NOT_FOUND.value[0]


def test_the_unexpected_is_logged_under_an_id_and_told_without_details(served, caplog):
    with caplog.at_level(logging.ERROR, "facedetd.api.errors"):
        call = failing_call(served, ValueError("open failed: rtsp://admin:hunter2@cam/1?password=hunter2"))
    assert call.code() is grpc.StatusCode.INTERNAL
    incident = details_of(rpc_status.from_call(call), rich.ErrorInfo).metadata["incident"]
    assert incident in call.details()
    for secret in ("hunter2", "ValueError", "Traceback", "open failed"):
        assert secret not in repr(call)
    assert incident in caplog.text and "ValueError: open failed" in caplog.text
    assert "hunter2" not in caplog.text


def test_redaction_hides_passwords_with_an_at_sign():
    assert "w0" not in redacted("x rtsp://u:w0@w0@cam:554/a y") and "cam:554/a y" in redacted(
        "x rtsp://u:w0@cam:554/a y"
    )


@pytest.mark.parametrize("letter", ["x", "ü", "𝄞"])
def test_a_long_list_is_cut_not_lost(served, letter):
    many = [control.FieldViolation(f"streams[{i}].spec.url", letter * 300) for i in range(500)]
    call = failing_call(served, control.InvalidError(many))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    fields = list(details_of(rpc_status.from_call(call), rich.BadRequest).field_violations)
    assert fields[0].field == "streams[0].spec.url"
    assert fields[-1].description == f"and {500 - (len(fields) - 1)} more"


def test_an_id_of_any_length_and_sort_comes_back_as_an_answer(served):
    for name in ("", "é" * 3000, "a\nb\x00c"):
        call = failing_call(served, None, name)
        assert call.code() is grpc.StatusCode.NOT_FOUND


def test_a_file_name_that_is_no_utf8_is_told_all_the_same(served):
    words = "conf.d/\udcff.toml:1: is not TOML"  # as os.fsdecode gives it
    call = failing_call(served, control.InvalidError([control.FieldViolation("config", words)]))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details_of(rpc_status.from_call(call), rich.BadRequest).field_violations[0].description
    assert found == "conf.d/?.toml:1: is not TOML"
