"""facedetctl against a daemon that says anything: hostile text in each string, numbers that no enum or clock has."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import pytest
from ctl_harness import Ctl
from google.protobuf.descriptor import FieldDescriptor

from facedetctl import output
from facedetd.v1 import daemon_pb2, detection_pb2, stream_pb2

HOSTILE = "a\x1b[2J\x9b31m\x7f\r\n\u202eb"
ODD = {
    FieldDescriptor.TYPE_STRING: HOSTILE,
    FieldDescriptor.TYPE_BYTES: b"\xff",
    FieldDescriptor.TYPE_BOOL: True,
    FieldDescriptor.TYPE_ENUM: 99,
    FieldDescriptor.TYPE_FLOAT: math.nan,
    FieldDescriptor.TYPE_DOUBLE: math.inf,
}


def odd(message):
    """Each field filled, messages to the bottom."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "next_page_token":
            continue
        value = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            value[HOSTILE] = HOSTILE if field.message_type.fields_by_name["value"].type == field.TYPE_STRING else 7
        elif field.message_type and field.message_type.full_name.startswith("google."):
            value.seconds, value.nanos = 1 << 62, -5
        elif field.message_type:
            odd(value.add() if output.repeated(field) else value)
        elif output.repeated(field):
            value.append(ODD.get(field.type, 3))
        else:
            setattr(message, field.name, ODD.get(field.type, 3))
    return message


class Rogue(grpc.GenericRpcHandler):
    """Answers every method: with odd messages, or with an error of hostile text."""

    refuses = stalls = False
    ended = threading.Event()

    def service(self, details):
        _, service, name = details.method.split("/")
        for file in (daemon_pb2, detection_pb2, stream_pb2):
            if service.rpartition(".")[2] in file.DESCRIPTOR.services_by_name:
                method = file.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
                answer = getattr(file, method.output_type.name)
                if method.server_streaming:
                    wrap, call = grpc.unary_stream_rpc_method_handler, self.many
                else:
                    wrap, call = grpc.unary_unary_rpc_method_handler, self.one
                return wrap(partial(call, answer), response_serializer=answer.SerializeToString)
        return None

    def one(self, answer, _, context):
        if self.refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, HOSTILE)
        return odd(answer())

    def many(self, answer, request, context):
        yield self.one(answer, request, context)
        if self.stalls:
            self.ended.wait(20)


@pytest.fixture
def rogue(tmp_path, monkeypatch):
    handler = Rogue()
    server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    server.add_insecure_port(f"unix:{tmp_path}/rogue.sock")
    server.start()
    ctl = Ctl(monkeypatch)
    handler.ctl = lambda *argv: ctl("--socket", f"{tmp_path}/rogue.sock", *argv)
    yield handler
    server.stop(None).wait(10)


@pytest.fixture(
    params=[
        "health", "stats", "stats --watch", "watch", "list-streams", "version", "reload", "doctor --seconds 0.01",
        "add-stream a rtsp://h/", "update-stream a --priority 3", "remove-stream a", "pause-stream a",
        "snapshot a -o SHOT", "import LIST", "model activate m",
    ]
)  # fmt: skip
def command(request, tmp_path):
    (tmp_path / "list.csv").write_text("id,url\na,rtsp://h/\n")
    return request.param.replace("SHOT", str(tmp_path / "a.jpg")).replace("LIST", str(tmp_path / "list.csv")).split()


def is_tame(text):
    return text.replace("\n", "").isprintable() and "\nb" not in text


def test_what_it_says_can_not_drive_the_terminal(rogue, command):
    done = rogue.ctl(*command)
    assert done.code in (0, 6) and done.out and is_tame(done.out) and is_tame(done.err)


def test_what_it_says_is_json(rogue, command):
    done = rogue.ctl("--json", *command)
    assert done.code in (0, 6) and is_tame(done.out)
    for line in done.out.splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_why_it_refuses_can_not_drive_the_terminal(rogue, command):
    rogue.refuses = True
    for more in ((), ("--json",)):
        done = rogue.ctl(*more, *command)
        assert done.code == 1 and "x1b[2J" in done.err and is_tame(done.out) and is_tame(done.err)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_stats_of_a_daemon_that_hangs_do_not_stand_there_for_ever(rogue, more):
    rogue.stalls, rogue.ended = True, threading.Event()
    done = rogue.ctl(*more, "--timeout", "3", "stats", "--watch", "--interval", "0.2")  # the first must come in time
    rogue.ended.set()
    assert done.code == 7 and done.out and "no answer within 3 s" in done.err
