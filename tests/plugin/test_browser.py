"""The pages as a person uses them, in Chromium."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from seeding import address, ended, intent, job, journal, make_image, make_video, task

from magichour_provider.links import watch_url

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from magichour_provider.emulator import Emulator

pytestmark = pytest.mark.timeout(600)  # Airflow's own page takes minutes on a crowded machine
PLAYS = "video => video.readyState >= 2 && !video.error && video.videoWidth > 0"


def video_of(emulator: Emulator, *, label: str = "ada", map_index: int = 0) -> str:
    """A finished job of a mapped task; its id."""
    job_id = make_video(emulator)
    key = task("greetings", map_index=map_index, label=label)
    journal(key, job(job_id, host=emulator.url, ended=ended()))
    return job_id


def test_a_click_plays_the_video_in_its_place(page: Page, emulator: Emulator) -> None:
    video_of(emulator)
    page.goto("/magichour/")
    assert page.locator("video").count() == 0
    assert emulator.requests("get_video") == []
    page.get_by_role("link", name="Play ada").click()
    video = page.locator(".job video")
    page.wait_for_function(f"() => ({PLAYS})(document.querySelector('video'))")
    assert video.get_attribute("aria-label") == "ada"
    asked = len(emulator.requests("get_video"))
    # Chromium asks for a part of the file: the play address again, and so the vendor, is not needed.
    video.evaluate("video => new Promise(done => { video.onseeked = done; video.currentTime = 0 })")
    assert len(emulator.requests("get_video")) == asked


def test_the_keyboard_plays_too(page: Page, emulator: Emulator) -> None:
    video_of(emulator)
    page.goto("/magichour/")
    page.get_by_role("link", name="Play ada").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => ({PLAYS})(document.querySelector('video'))")
    assert page.evaluate("document.activeElement.tagName") == "VIDEO"


def test_a_video_that_cannot_be_played_says_why(page: Page) -> None:
    journal(task("greetings", map_index=0, label="ada"), job(conn_id="only_on_workers", ended=ended()))
    page.goto("/magichour/")
    link = page.get_by_role("link", name="Play ada")
    link.click()
    assert "cannot read the connection 'only_on_workers'" in str(page.get_by_role("alert").text_content())
    assert link.is_visible()
    assert page.locator("video").count() == 0


def test_an_image_is_shown_where_its_drawing_was(page: Page, emulator: Emulator) -> None:
    made = job(
        make_image(emulator), job_type="image", host=emulator.url, ended=ended(output_path="s3://art/1.png")
    )
    journal(task("greetings", label="lighthouse", map_index=0), made)
    page.goto("/magichour/")
    assert page.locator("video, audio, .stage img").count() == 0
    page.get_by_role("link", name="Show lighthouse").click()
    page.wait_for_function("() => document.querySelector('.stage img')?.naturalWidth > 0")
    assert page.get_by_role("img", name="lighthouse").is_visible()
    assert page.locator("video").count() == 0


def test_a_refresh_shows_the_end_of_a_job_and_does_not_interrupt_a_video(
    clock_page: Page, emulator: Emulator
) -> None:
    video_of(emulator)
    key = journal(
        task("greetings", map_index=1, label="alan", state="deferred"),
        job("cm-alan", ago=timedelta(minutes=9)),
    )
    clock_page.goto("/magichour/")
    clock_page.get_by_role("link", name="Play ada").click()
    clock_page.wait_for_function(f"() => ({PLAYS})(document.querySelector('video'))")
    clock_page.evaluate("document.querySelector('video').mark = 'the same one'")
    asked = len(emulator.requests())
    alan = clock_page.locator("#job-cm-alan")
    assert "Rendering" in alan.inner_text()
    journal(key, job("cm-alan", ended=ended(output_path="s3://greetings/alan.mp4")))
    clock_page.clock.fast_forward(10_000)
    alan.get_by_text("s3://greetings/alan.mp4").wait_for()
    assert clock_page.evaluate("document.querySelector('video').mark") == "the same one"
    assert len(emulator.requests()) == asked, "the vendor was asked"
    clock_page.clock.fast_forward(10_000)  # nothing goes on any more
    assert clock_page.locator("[data-live]").get_attribute("data-live") == "no"


def test_a_refresh_that_fails_says_that_the_page_is_old(clock_page: Page) -> None:
    journal(task("greetings", state="deferred"), job("cm-one"))
    clock_page.goto("/magichour/")
    clock_page.route("**/*fragment*", lambda route: route.fulfill(status=503))
    clock_page.clock.fast_forward(10_000)
    clock_page.get_by_text("Airflow answered with HTTP 503. This page is not up to date.").wait_for()
    clock_page.unroute("**/*fragment*")
    clock_page.clock.fast_forward(10_000)
    clock_page.locator("#news").wait_for(state="hidden")
    assert clock_page.locator("#job-cm-one").is_visible()


def test_filters_live_in_the_address(page: Page) -> None:
    journal(task("greetings", "one"), job("cm-one", ended=ended()))
    journal(task("marketing", "two", state="failed"), job("cm-two", ended=ended("error")))
    page.goto("/magichour/")
    page.get_by_label("DAG").select_option("marketing")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**/magichour/?*dag_id=marketing*")
    assert page.locator(".job").count() == 1
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("navigation", name="States").get_by_role("link", name="Failed").click()
    page.wait_for_url("**/magichour/?state=failed")
    assert page.locator(".job").count() == 1


def test_the_page_is_under_browse_and_its_links_lead_out_of_the_frame(page: Page) -> None:
    journal(task("greetings", state="failed"), intents=[intent("open")])
    page.goto("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Magic Hour").click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="1 job needs you").wait_for()
    frame.get_by_role("link", name="greetings", exact=True).click()
    page.wait_for_url("**/dags/greetings")
    assert page.locator("iframe").count() == 0


def test_the_watch_button_opens_the_task_inside_airflow(page: Page) -> None:
    key = journal(task("greetings", map_index=0, label="ada"), job("cm-ada", ended=ended()))
    page.goto(f"/{watch_url(key)}")
    assert page.url.endswith(f"/plugin/magichour{address(key)}")
    page.frame_locator("iframe").locator("#job-cm-ada").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_overflows_however_long_the_names_are(page: Page, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 900})
    long = "a_very_long_name_without_a_space_" * 4
    key = task(long, long, run_id=long, map_index=0, label=long)
    path = f"s3://{long}/{long}.mp4"
    journal(key, job(ended=ended(output_path=path)), intents=[intent("open")])
    journal(task("greetings", state="failed"), job(ended=ended("error", error_code=long, error_message=long)))
    for path_of_page in ("/magichour/", address(key)):
        page.goto(path_of_page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_dark == (scheme == "dark")
