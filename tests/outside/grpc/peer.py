"""A server and a client of gRPC on grpcio, for the tests of lb. Messages are plain bytes.

    peer.py server [NAME [CERTIFICATE KEY]]  prints its port; each line of standard input changes the health or prints what was seen
    peer.py client ADDRESS SCENARIO [ARGUMENT...]
"""

import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
seen = []


class Handler(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name

    def service(self, details):
        method = details.method.rsplit("/", 1)[-1]
        if method == "Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if method == "Down":
            return grpc.unary_stream_rpc_method_handler(self.down)
        if method == "Up":
            return grpc.stream_unary_rpc_method_handler(self.up)
        if method == "Both":
            return grpc.stream_stream_rpc_method_handler(self.both)
        return None

    def unary(self, request, context):
        """Does what the request says: a word and an argument."""
        word, _, argument = request.partition(b" ")
        if word == b"fail":
            code, _, message = argument.decode().partition(" ")
            context.abort(CODES[int(code)], message)
        if word == b"sleep":
            context.add_callback(lambda: seen.append("ended"))
            seen.append("sleeping")
            time.sleep(float(argument))
        if word == b"left":
            return b"%f" % (context.time_remaining() or -1)
        if word == b"name":
            return self.name.encode()
        if word == b"metadata":
            got = dict(context.invocation_metadata())
            context.send_initial_metadata([("x-first", "1"), ("x-first-bin", got["x-sent-bin"])])
            context.set_trailing_metadata([("x-last", "2"), ("x-last-bin", bytes(range(256)))])
            return got["x-sent"].encode()
        return request

    def down(self, request, context):
        """Sends messages: their number, their size and the seconds before each."""
        number, size, pause = request.split()
        for _ in range(int(number)):
            time.sleep(float(pause))
            yield b"x" * int(size)

    def up(self, requests, context):
        total = sum(len(request) for request in requests)
        return b"%d" % total

    def both(self, requests, context):
        """Sends each message back; `stop` ends the call, while its client still sends."""
        context.add_callback(lambda: seen.append("ended"))
        for request in requests:
            if request == b"stop":
                return
            if request == b"unavailable":
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            yield request


def server(name="one", certificate=None, key=None):
    grpc_server = grpc.server(futures.ThreadPoolExecutor(64), options=LARGE + [("grpc.so_reuseport", 0)])
    grpc_server.add_generic_rpc_handlers((Handler(name),))
    service = health.HealthServicer()
    if name != "healthless":
        health_pb2_grpc.add_HealthServicer_to_server(service, grpc_server)
        service.set("shop.Orders", health_pb2.HealthCheckResponse.SERVING)
    if certificate:
        pair = (open(key, "rb").read(), open(certificate, "rb").read())
        port = grpc_server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    print(port, flush=True)
    for line in sys.stdin:
        if line.strip() == "seen":
            print(" ".join(seen), flush=True)
        else:
            status = getattr(health_pb2.HealthCheckResponse, line.strip())
            service.set("", status)
            service.set("shop.Orders", status)
            print(line.strip(), flush=True)


class Client:
    def __init__(self, address, ca=None):
        self.channel = channel(address, ca)
        self.unary = self.channel.unary_unary("/t.T/Unary")
        self.down = self.channel.unary_stream("/t.T/Down")
        self.up = self.channel.stream_unary("/t.T/Up")
        self.both = self.channel.stream_stream("/t.T/Both")


def channel(address, ca=None):
    # A channel of its own, not a connection that another one has.
    options = LARGE + [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if ca:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(open(ca, "rb").read()), options)
    return grpc.insecure_channel(address, options)


def failure(call):
    """The code and the message of a call that fails."""
    try:
        result = call()
        if not isinstance(result, bytes):
            result = list(result)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"no failure, but {result!r}")


def calls(client):
    """One call of each kind, and of the largest that matter."""
    assert client.unary(b"hello") == b"hello"
    assert [len(m) for m in client.down(b"5 3 0")] == [3] * 5
    assert client.up(iter([b"ab", b"cde", b""])) == b"5"
    assert list(client.both(iter([b"1", b"22", b"333"]))) == [b"1", b"22", b"333"]
    assert client.unary(b"") == b""
    assert list(client.down(b"0 0 0")) == []
    assert list(client.both(iter([]))) == []


def scenario_kinds(address, ca=None):
    calls(Client(address, ca))


def scenario_large(address):
    client = Client(address)
    large = b"y" * (9 << 20)
    assert client.unary(large) == large
    assert client.up(iter([large, b"z"])) == b"%d" % (len(large) + 1)
    assert [len(m) for m in client.down(b"3 5000000 0")] == [5000000] * 3


def scenario_pingpong(address):
    """Each message is sent after the response to the last one: both directions are open."""
    client = Client(address)
    turn = threading.Semaphore(0)

    def requests():
        for number in range(50):
            yield b"%d" % number
            turn.acquire()

    for number, message in enumerate(client.both(requests())):
        assert message == b"%d" % number
        turn.release()
    assert number == 49


def scenario_early(address):
    """The server ends calls whose clients go on sending."""
    client = Client(address)
    done = threading.Event()

    def forever(last):
        yield b"1"
        yield last
        while not done.wait(0.01):
            yield b"more"

    for _ in range(5):
        call = client.both(forever(b"stop"))
        assert list(call) == [b"1"] and call.code() == grpc.StatusCode.OK
        assert failure(lambda: client.both(forever(b"unavailable"))) == (grpc.StatusCode.UNAVAILABLE, "not now")
    done.set()


def scenario_metadata(address):
    client = Client(address)
    sent = [("x-sent", "a, b"), ("x-sent-bin", bytes(range(255, -1, -1)))]
    response, call = client.unary.with_call(b"metadata", metadata=sent)
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert response == b"a, b"
    assert first["x-first"] == "1" and first["x-first-bin"] == bytes(range(255, -1, -1)), first
    assert last["x-last"] == "2" and last["x-last-bin"] == bytes(range(256)), last


def scenario_errors(address):
    """Statuses of the server arrive as they are."""
    client = Client(address)
    for code in [1, 2, 3, 5, 7, 13, 14, 16]:
        message = f"nö {code} 100%"
        assert failure(lambda: client.unary(b"fail %d %s" % (code, message.encode()))) == (CODES[code], message)
    missing = client.channel.unary_unary("/t.T/Missing")
    assert failure(lambda: missing(b""))[0] == grpc.StatusCode.UNIMPLEMENTED
    calls(client)


def scenario_fails(address, code, part, *more):
    """A call fails with this code and a message that contains this part."""
    client = Client(address)
    options = {"timeout": float(more[0])} if more else {}
    request = more[1].encode() if len(more) > 1 else b"hello"
    got = failure(lambda: client.unary(request, **options))
    assert got[0] == CODES[int(code)] and part in got[1], got


def scenario_left(address):
    client = Client(address)
    left = float(client.unary(b"left", timeout=30))
    assert 25 < left < 30, left
    assert float(client.unary(b"left")) == -1


def scenario_cancel(address):
    """Calls are given up: one that waits for its response, and one that is open in both directions."""
    client = Client(address)
    call = client.unary.future(b"sleep 1")
    time.sleep(0.3)
    call.cancel()
    call = client.both(iter_forever())
    assert next(call) == b"1"
    call.cancel()
    time.sleep(0.5)


def iter_forever():
    yield b"1"
    time.sleep(60)


def scenario_waits(address, seconds):
    """A stream without a message for a while."""
    client = Client(address)
    start = time.monotonic()
    assert len(list(client.down(b"2 1 " + seconds.encode()))) == 2
    assert time.monotonic() - start >= 2 * float(seconds)


def scenario_idle_stream(address):
    """A stream that is silent for too long ends with a status."""
    client = Client(address)
    call = client.both(iter_forever())
    assert next(call) == b"1"
    code, message = failure(lambda: call)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, (code, message)


def scenario_names(address, number):
    """The servers of calls, one after the other."""
    client = Client(address)
    print(" ".join(client.unary(b"name").decode() for _ in range(int(number))), flush=True)


def scenario_mixed(address, ca=None):
    """Calls of all kinds on several threads until standard input ends, and streams that are open all the time."""
    stop, lock, failures, number = threading.Event(), threading.Lock(), [], [0]

    def work():
        client = Client(address, ca)
        while not stop.is_set():
            try:
                calls(client)
            except (grpc.RpcError, AssertionError) as error:
                with lock:
                    failures.append(repr(error))
            with lock:
                number[0] += 7

    def stream():
        client = Client(address, ca)

        def requests():
            while not stop.wait(0.02):
                yield b"tick"

        try:
            assert all(message == b"tick" for message in client.both(requests()))
        except (grpc.RpcError, AssertionError) as error:
            with lock:
                failures.append(repr(error))

    threads = [threading.Thread(target=target) for target in [work, work, work, stream, stream]]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:5]
    print(number[0], flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        server(*sys.argv[2:])
    else:
        globals()["scenario_" + sys.argv[3]](sys.argv[2], *sys.argv[4:])
