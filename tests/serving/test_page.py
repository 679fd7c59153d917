"""The page, in a headless browser."""

import contextlib

import fake_model
import numpy as np
import pytest
from live import running, written

pytestmark = pytest.mark.usefixtures("packages")


@pytest.fixture
def page(browser, server):
    with opened(browser, server) as page:
        yield page


@contextlib.contextmanager
def opened(browser, server):
    """A page of a server, with checks at its end."""
    page = browser.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("filechooser", lambda chooser: None)  # no system dialogue
    page.goto(f"http://127.0.0.1:{server.port}/")
    yield page
    assert not page.complaints
    own = (f"http://127.0.0.1:{server.port}/", "data:", "blob:")
    assert all(url.startswith(own) for url in page.asked)
    page.close()


@pytest.fixture(scope="module")
def halves():
    """An image, three quarters blue and one quarter green."""
    image = np.zeros((48, 64, 3), "uint8")
    image[:36, :, 2] = 255
    image[36:, :, 1] = 255
    return image


def as_file(image, format, name):
    data = written(image, format)
    return {"name": name, "mimeType": f"image/{format.lower()}", "buffer": data}


def pixel(page, x, y):
    return page.evaluate(
        "([x, y]) => [...draw.getImageData(x, y, 1, 1).data]",
        [x, y],
    )[:3]


def slide(page, percent):
    page.locator("#alpha").fill(str(percent))


def test_a_chosen_photo_gets_its_overlay_and_legend(page, halves):
    page.get_by_label("Choose a photo").set_input_files(as_file(halves, "PNG", "halves.png"))
    page.get_by_role("row", name="blue").wait_for()
    rows = [row.split() for row in page.locator("tbody tr").all_inner_texts()]
    assert rows == [["blue", "75", "%", "75", "%"], ["green", "25", "%", "25", "%"]]
    swatch = page.locator("tbody i").first.evaluate("i => getComputedStyle(i).backgroundColor")
    assert swatch == "rgb(20, 60, 210)" and [20, 60, 210] == fake_model.PALETTE[2]
    assert "64 × 48" in page.locator("#status").inner_text()
    slide(page, 0)
    assert pixel(page, 5, 5) == [0, 0, 255]
    slide(page, 100)
    assert pixel(page, 5, 5) == fake_model.PALETTE[2]
    assert pixel(page, 5, 40) == fake_model.PALETTE[1]
    slide(page, 50)
    expected = (np.array([0, 0, 255]) + fake_model.PALETTE[2]) / 2
    np.testing.assert_allclose(pixel(page, 5, 5), expected, atol=2)
    assert "blue 75 %" in page.get_by_role("img").get_attribute("aria-label")


def test_the_legend_has_the_confidence_if_the_model_gives_it(browser, page, halves, tmp_path):
    headings = page.locator("thead th:visible")
    halves = halves // 5 * 4  # the strongest channel, 255, becomes 204
    page.get_by_label("Choose a photo").set_input_files(as_file(halves, "PNG", "halves.png"))
    page.get_by_role("row", name="blue").wait_for()
    assert headings.all_inner_texts() == ["class", "area", "presence"]
    fake_model.write(tmp_path / "confident.onnx", confidence=True)
    with running(tmp_path / "confident.onnx") as server:
        with opened(browser, server) as page:
            page.get_by_label("Choose a photo").set_input_files(as_file(halves, "PNG", "halves.png"))
            page.get_by_role("row", name="blue").wait_for()
            headings = page.locator("thead th:visible")
            assert headings.all_inner_texts() == ["class", "area", "confidence", "presence"]
            row = page.locator("tbody tr").first.inner_text()
            assert row.split() == ["blue", "75", "%", "80", "%", "60", "%"]


def test_a_dropped_photo_gets_its_legend(page, halves):
    data = list(as_file(halves, "JPEG", "halves.jpg")["buffer"])
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "halves.jpg", {type: "image/jpeg"}));
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.get_by_role("row", name="blue").wait_for()
    assert page.locator("tbody tr").count() == 2


def test_errors_are_shown_and_the_next_photo_is_accepted(page, halves):
    choose = page.get_by_label("Choose a photo").set_input_files
    choose(as_file(halves, "GIF", "moving.gif"))
    page.get_by_role("alert").wait_for()
    text = page.get_by_role("alert").inner_text()
    assert text.startswith("moving.gif: ") and "Received: a GIF image" in text
    assert page.locator("#result").is_hidden()
    choose(as_file(halves, "PNG", "halves.png"))
    page.get_by_role("row", name="blue").wait_for()
    assert page.get_by_role("alert").is_hidden()


def test_a_server_that_does_not_answer_is_reported(page, halves):
    page.route("**/segment*", lambda route: route.abort())
    page.get_by_label("Choose a photo").set_input_files(as_file(halves, "PNG", "halves.png"))
    page.get_by_role("alert").wait_for()
    assert "The server does not answer" in page.get_by_role("alert").inner_text()


def test_it_works_by_keyboard(page, halves):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Enter")
    choosing.value.set_files(as_file(halves, "PNG", "halves.png"))
    page.get_by_role("row", name="blue").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "alpha"
    before = page.locator("output").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("output").inner_text() != before
