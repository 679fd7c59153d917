"""The server's promises to many simultaneous clients, over a real socket."""

import collections
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import fake_model
import numpy as np
import pytest
from live import photo, png, reply, running

pytestmark = pytest.mark.usefixtures("packages")
SLOW = 250  # milliseconds of work, roughly


def together(server, bodies, accept="application/json"):
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: server.segment(body, accept), bodies))


def wait_until(condition, seconds=10):
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "the condition never became true"
        time.sleep(0.01)


def test_images_of_one_size_are_batched_and_each_gets_its_own_answer(model):
    images = [photo(seed=seed) for seed in range(8)] + [photo(40, 40, seed=seed) for seed in range(3)]
    with running(model, "--workers", 1, "--max-batch", 4, "--max-wait", 2000) as server:
        answers = together(server, [png(image) for image in images])
        for image, (status, answer) in zip(images, answers, strict=True):
            assert status == 200
            presence = fake_model.answer(image)[1]
            np.testing.assert_allclose(list(answer["presence"].values()), presence, atol=1e-5)
        assert server.metric("encnet_batch_size_sum") == 11
        assert server.metric("encnet_batch_size_count") == 3  # 4 + 4 + 3


def test_several_images_are_in_flight(model):
    """A client gets its answer while another waits for a slow image."""
    with running(model, "--workers", 2) as server, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.segment, png(photo(work=255, seed=1)))
        wait_until(lambda: server.metric("encnet_requests_in_flight") == 1)
        assert server.segment(png(photo(40, 40)))[0] == 200
        assert not slow.done()
        assert slow.result()[0] == 200


def test_excess_images_are_refused_immediately_and_the_others_answered(model):
    options = ("--max-latency", 1.5, "--workers", 1, "--max-batch", 1)
    with running(model, *options) as server:
        body = png(photo(work=SLOW))
        server.segment(body)  # so that the server knows the cost
        counts, refusals = collections.Counter(), []
        end = time.perf_counter() + 3

        def client(_):
            while time.perf_counter() < end:
                start = time.perf_counter()
                status, headers, _ = server.request("POST", "/segment", body)
                counts[status] += 1
                if status != 200:
                    assert int(headers["Retry-After"]) >= 1
                    refusals.append(time.perf_counter() - start)
                    time.sleep(0.02)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(client, range(12)))
        assert set(counts) == {200, 503}
        assert counts[200] >= 1
        assert np.median(refusals) < 1
        assert server.metric("encnet_requests_in_flight") == 0
        assert server.metric("encnet_expected_wait_seconds") == 0
        assert server.segment(png(photo()))[0] == 200


def test_a_busy_server_refuses_before_reading_the_body(model):
    options = ("--max-queue", 1, "--workers", 1)
    with running(model, *options) as server, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.segment, png(photo(work=255)))
        wait_until(lambda: server.metric("encnet_expected_wait_seconds") > 0)
        head = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
        with server.raw(head) as connection:
            status, headers, answer = reply(connection)
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        assert b"busy" in answer
        assert slow.result()[0] == 200


def test_an_image_that_takes_too_long_is_given_up(model):
    with running(model, "--timeout", 0.1, "--workers", 1) as server:
        status, answer = server.segment(png(photo(work=255)))
        assert status == 503
        assert "0.1 s" in answer["error"]
        wait_until(lambda: server.segment(png(photo()))[0] == 200)


def test_an_image_whose_client_is_gone_is_not_run(model):
    with running(model, "--workers", 1, "--max-batch", 1, "--max-latency", 60) as server:
        body = png(photo(work=SLOW))
        clients = [server.connect() for _ in range(4)]
        for client in clients:
            client.request("POST", "/segment", body)
        wait_until(lambda: server.metric("encnet_queue_length") == 3)
        for client in clients:
            client.close()
        wait_until(lambda: server.metric("encnet_requests_in_flight") == 0)
        assert server.metric("encnet_queue_length") == 0
        assert server.segment(png(photo()))[0] == 200
        assert server.metric("encnet_batch_size_sum") == 2


def test_images_in_flight_are_answered_before_the_server_exits(model):
    options = ("--workers", 1, "--max-batch", 1, "--max-latency", 60, "--grace", 30)
    with running(model, *options) as server:
        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(server.segment, png(photo(work=SLOW))) for _ in range(3)]
            wait_until(lambda: server.metric("encnet_queue_length") == 2)
            server.process.send_signal(signal.SIGTERM)
            assert [answer.result()[0] for answer in answers] == [200] * 3
        assert server.process.wait(10) == 0


def test_memory_does_not_grow_with_the_number_of_images(model):
    with running(model) as server:
        bodies = [png(photo(200 + 10 * i, 300, seed=i)) for i in range(8)]
        together(server, bodies)
        before = server.memory()
        for _ in range(5):
            together(server, bodies)
        assert server.memory() < before + 30e6
