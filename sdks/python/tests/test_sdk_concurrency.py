"""Calls of one program that run at the same time: threads and tasks."""

from __future__ import annotations

from sdk_host import ASYNC, hosted


def test_async_handlers_run_together_on_one_loop(tmp_path):
    """Two calls that wait for each other both end, so they ran at the same time."""
    with hosted(tmp_path, ASYNC) as host:
        assert host.ready["concurrency"] == 4
        host.send(op="call", id=1, node="meet", msg={"value": 1})
        host.send(op="call", id=2, node="meet", msg={"value": 2})
        assert {1, 2} == {host.answer()["id"], host.answer()["id"]}
        assert host.call("double", 3, value=2)["msgs"] == [4]
        assert host.call("stream", 4, count=3)["msgs"] == [0, 1, 2]
        assert host.call("plain", 5, value=6)["msgs"] == [6]
        assert host.end() == 0


def test_cancel_stops_an_async_handler(tmp_path):
    """The task of a cancelled call is cancelled, and its call answered."""
    with hosted(tmp_path, ASYNC) as host:
        host.ask("forever", 1)
        assert host.read() == {"op": "out", "id": 1, "msgs": ["began"]}
        host.send(op="cancel", id=1)
        assert host.read()["type"] == "CancelledError"


def test_cancel_of_an_async_call_that_hardly_began(tmp_path):
    """However early the cancel comes, the call is answered, once."""
    with hosted(tmp_path, ASYNC) as host:
        for n in range(50):
            cancel = host.pack(op="cancel", id=n)
            host.write(host.pack(op="call", id=n, node="forever", msg={}) + cancel)
            err = host.answer()
            assert (err["op"], err["id"]) == ("err", n)
            assert err["type"] in ("CancelledError", "Cancelled")


def test_no_more_calls_run_than_announced(tmp_path):
    """Two threads meet with concurrency 2, and never a third."""
    text = """
    import threading
    from emit_sdk import serve
    both, lock, inside, most = threading.Barrier(2), threading.Lock(), 0, 0

    def work(msg):
        global inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait(60)
        with lock:
            inside -= 1
        return most

    serve(work, concurrency=2)
    """
    with hosted(tmp_path, text) as host:
        host.write(b"".join(host.pack(op="call", id=n, msg={}) for n in range(20)))
        frames = [host.read() for _ in range(20)]
        assert set(range(20)) == {frame["id"] for frame in frames}
        assert max(frame["msgs"][0] for frame in frames) == 2


def test_large_results_of_many_threads_do_not_mix(tmp_path):
    """Eight threads that answer 200 KB at once leave whole frames."""
    text = """
    from emit_sdk import serve

    def big(msg):
        return msg.text * 200_000

    serve(big, concurrency=8)
    """
    with hosted(tmp_path, text) as host:
        host.write(
            b"".join(host.pack(op="call", id=n, msg={"text": chr(65 + n % 26)}) for n in range(40))
        )
        for _ in range(40):
            frame = host.read()
            assert frame["msgs"] == [chr(65 + frame["id"] % 26) * 200_000]
