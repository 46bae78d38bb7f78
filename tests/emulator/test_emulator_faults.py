"""Faults: the failures of a network, a gateway and a busy service."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from magichour_provider.emulator.faults import OPTIONS, FaultOptions

if TYPE_CHECKING:
    from magichour_provider.emulator import Emulator

# One client for all tests, without certificates: to load them is slow.
HTTP = httpx.Client(verify=False)
CREATE = "/v1/ai-talking-photo"


def test_a_status_is_returned_and_the_call_is_not_executed(api: Any) -> None:
    body = api.body()
    fault = api.emulator.fault("create", status=503, headers={"Retry-After": "7"}, times=2)
    for _ in range(2):
        response = api("POST", CREATE, json=body)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "7"
        assert response.json()["message"]
    assert api("POST", CREATE, json=body).status_code == 200
    assert fault.hits == 2
    assert api.emulator.charges() == 1


def test_a_retry_after_can_be_a_date(api: Any) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    api.emulator.fault("account", status=429, headers={"Retry-After": date})
    response = api("GET", "/v1/account")
    assert (response.status_code, response.headers["retry-after"]) == (429, date)


def test_with_effect_there_is_a_charge_and_its_response_is_lost(api: Any) -> None:
    api.emulator.fault("create", status=500, effect=True)
    assert api("POST", CREATE, json=api.body()).status_code == 500
    assert api.emulator.charges() == 1


@pytest.mark.parametrize(("when", "charges"), [("before", 0), ("after", 1)])
def test_a_reset_before_or_after_the_call_sends_no_response(api: Any, when: str, charges: int) -> None:
    api.emulator.fault("create", reset=when)
    body = api.body()
    with pytest.raises(httpx.NetworkError):
        api("POST", CREATE, json=body)
    assert api.emulator.charges() == charges
    assert api.emulator.requests("create")[-1]["status"] == 0
    assert api("POST", CREATE, json=body).status_code == 200


@pytest.mark.parametrize(("effect", "charges"), [(False, 0), (True, 1)])
def test_a_call_that_hangs_longer_than_the_client_waits_charges_only_with_effect(
    api: Any, effect: bool, charges: int
) -> None:
    api.emulator.fault("create", hang=0.4, effect=effect)
    with pytest.raises(httpx.ReadTimeout):
        api("POST", CREATE, json=api.body(), timeout=0.15)
    # This call hangs until the first one has ended.
    api.emulator.fault("account", hang=0.5)
    assert api("GET", "/v1/account").status_code == 200
    assert api.emulator.charges() == charges


def test_html_returns_the_page_of_a_gateway(api: Any) -> None:
    api.emulator.fault("get_video", html=True)
    response = api("GET", f"/v1/video-projects/{api.create()}")
    assert response.status_code == 502
    assert response.headers["content-type"].startswith("text/html")


def test_a_body_can_be_json_or_text(api: Any) -> None:
    api.emulator.fault("account", status=418, body={"message": "teapot"})
    api.emulator.fault("account", body="no json")
    assert api("GET", "/v1/account").json() == {"message": "teapot"}
    response = api("GET", "/v1/account")
    assert (response.status_code, response.text) == (200, "no json")


def test_a_truncated_response_is_charged_and_cannot_be_parsed(api: Any) -> None:
    api.emulator.fault("create", truncate=12)
    response = api.http.post(CREATE, json=api.body())
    assert response.status_code == 200
    assert len(response.content) == 12
    with pytest.raises(json.JSONDecodeError):
        response.json()
    assert api.emulator.charges() == 1


def test_a_cut_download_announces_more_than_it_sends(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    api.emulator.fault("download", cut=1000)
    received = b""
    with HTTP.stream("GET", url) as response:
        assert int(response.headers["content-length"]) > 1000
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - the bytes before the error count
            for chunk in response.iter_raw():
                received += chunk
    assert len(received) == 1000
    assert HTTP.get(url).status_code == 200


def test_a_truncated_download_announces_no_more_than_it_sends(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    api.emulator.fault("download", truncate=1000)
    assert len(HTTP.get(url).content) == 1000


def test_a_slow_download_takes_its_time_and_is_complete(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    api.emulator.fault("download", slow=0.4)
    response = HTTP.get(url)
    assert response.elapsed.total_seconds() >= 0.35
    assert response.content == HTTP.get(url).content


def test_a_download_can_be_expired(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    api.emulator.fault("download", status=403)
    response = HTTP.get(url)
    assert response.status_code == 403
    assert "<Message>Request has expired</Message>" in response.text


@pytest.mark.parametrize("effect", [False, True])
@pytest.mark.parametrize("status", [425, 500, 502, 503, 504, 521, 530])
def test_any_status_can_be_returned_with_or_without_a_charge(api: Any, status: int, effect: bool) -> None:
    api.emulator.fault("create", status=status, effect=effect)
    response = api("POST", CREATE, json=api.body())
    assert response.status_code == status
    assert response.json()["message"]
    assert api.emulator.charges() == effect


def test_a_redirect_of_the_api_names_another_host_and_charges_nothing(api: Any) -> None:
    api.emulator.fault("create", status=307, headers={"Location": "https://other.example{path}"})
    response = api("POST", CREATE, json=api.body())
    assert (response.status_code, response.headers["location"]) == (307, f"https://other.example{CREATE}")
    assert api.emulator.charges() == 0


def test_a_redirected_upload_arrives_at_the_same_signed_url_on_another_host(api: Any) -> None:
    items = {"items": [{"type": "image", "extension": "png"}]}
    item = api("POST", "/v1/files/upload-urls", json=items).json()["items"][0]
    other = api.emulator.url.replace("127.0.0.1", "localhost")
    api.emulator.fault("put", status=307, headers={"Location": f"{other}{{path}}"})
    response = HTTP.put(item["upload_url"], content=b"picture", follow_redirects=True)
    assert [redirect.status_code for redirect in response.history] == [307]
    assert response.history[0].text.count("<Code>TemporaryRedirect</Code>") == 1
    assert (response.status_code, response.url.host) == (200, "localhost")
    assets = {**api.body()["assets"], "image_file_path": item["file_path"]}
    assert api("POST", CREATE, json=api.body(assets=assets)).status_code == 200


def test_the_details_of_one_job_can_be_those_of_another(api: Any) -> None:
    asked, other = api.create(name="asked"), api.create(name="other")
    api.emulator.fault("get_video", name="asked", body=api.emulator.job(other))
    assert api.get(asked)["id"] == other
    assert api.get(asked)["id"] == asked


def test_a_body_can_wrap_the_true_response_and_the_call_is_executed(api: Any) -> None:
    api.emulator.fault("create", body={"data": {"$answer": ""}, "ok": True}, status=201)
    response = api.http.post(CREATE, json=api.body())
    (job,) = api.emulator.jobs()
    assert response.status_code == 201
    assert response.json()["data"]["id"] == job["id"]
    assert response.json()["ok"] is True
    assert api.emulator.charges() == 1


THUMBNAIL = {"url": "https://example.com/thumbnail.jpg"}


@pytest.mark.parametrize(
    ("downloads", "expected"),
    [
        ([None, {"$answer": "/downloads/0"}], lambda true: [None, true]),
        ([THUMBNAIL, {"$answer": "/downloads/0"}], lambda true: [THUMBNAIL, true]),
        ([{"$answer": "/downloads/0", "url": None}], lambda true: [true | {"url": None}]),
        ([{"$answer": "/downloads/7"}, {"$answer": "/name/x"}], lambda _: [None, None]),
        ([], lambda _: []),
    ],
)
def test_a_body_can_change_parts_of_the_true_response(api: Any, downloads: list[Any], expected: Any) -> None:
    job_id = api.create()
    api.emulator.fault("get_video", body={"$answer": "", "downloads": downloads})
    response = api.http.get(f"/v1/video-projects/{job_id}").json()
    assert response["downloads"] == expected(response["download"])
    assert (response["id"], response["status"]) == (job_id, "complete")


SLOTS = {
    "with one file_path": [
        {"$answer": "/items/0"},
        {"$answer": "/items/1", "file_path": {"$answer": "/items/0/file_path"}},
    ],
    "swapped": [{"$answer": "/items/1"}, {"$answer": "/items/0"}],
}


@pytest.mark.parametrize(
    ("slots", "extensions"), [("with one file_path", ["png", "png"]), ("swapped", ["wav", "png"])]
)
def test_upload_slots_can_be_wrong(api: Any, slots: str, extensions: list[str]) -> None:
    api.emulator.fault("upload_urls", body={"items": SLOTS[slots]})
    items = [{"type": "image", "extension": "png"}, {"type": "audio", "extension": "wav"}]
    response = api("POST", "/v1/files/upload-urls", json={"items": items}).json()
    assert [item["file_path"].rpartition(".")[2] for item in response["items"]] == extensions
    assert all(HTTP.put(item["upload_url"], content=b"x").status_code == 200 for item in response["items"])


@pytest.mark.parametrize(
    ("job_id", "path"),
    [(12345, "12345"), ("../../x", "..%2F..%2Fx"), ("n" * 300, "n" * 300), ("a b", "a%20b")],
)
def test_a_fault_chooses_the_id_of_a_job(api: Any, job_id: str | int, path: str) -> None:
    api.emulator.fault("create", job_id=job_id)
    assert api.http.post(CREATE, json=api.body()).json()["id"] == job_id
    job = api.http.get(f"/v1/video-projects/{path}").json()
    assert (job["id"], job["status"]) == (job_id, "complete")
    api.emulator.fault("download", status=403, name="test")
    assert HTTP.get(job["downloads"][0]["url"]).status_code == 403
    assert HTTP.get(job["downloads"][0]["url"]).content[4:8] == b"ftyp"
    assert api.emulator.job(path)["job_type"] == "video"


def test_a_download_can_be_compressed(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    plain = HTTP.get(url).content
    api.emulator.fault("download", gzip=True)
    with HTTP.stream("GET", url) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) == len(raw)
    assert gzip.decompress(raw) == plain


def test_a_header_can_lie_about_the_encoding(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    api.emulator.fault("download", headers={"Content-Encoding": "br"})
    with HTTP.stream("GET", url) as response:
        raw = b"".join(response.iter_raw())
    assert (response.headers["content-encoding"], raw[4:8]) == ("br", b"ftyp")


def test_an_endless_response_ends_with_its_client_and_delays_no_other(api: Any) -> None:
    api.emulator.fault("account", endless=True)
    received = b""
    with api.http.stream("GET", "/v1/account") as response:
        for chunk in response.iter_raw():
            received += chunk
            if len(received) > 3_000_000:
                break
    assert response.status_code == 200
    assert "content-length" not in response.headers
    assert json.loads(received)["tier"] == "business"
    assert api("GET", "/v1/account").status_code == 200


def test_a_rule_applies_to_its_name_after_those_that_it_skips(api: Any) -> None:
    fault = api.emulator.fault("get_video", status=500, name="bad", skip=1, times=None)
    bad, good = api.create(name="a bad one"), api.create(name="good")
    path = "/v1/video-projects/"
    codes = [api("GET", path + job).status_code for job in (bad, good, bad, bad, good)]
    assert codes == [200, 200, 500, 500, 200]
    assert fault.hits == 2
    fault.remove()
    assert api("GET", path + bad).status_code == 200


def test_a_rule_can_apply_to_every_call(api: Any) -> None:
    job = api.create()
    api.emulator.fault("*", status=401, times=None)
    assert api("GET", "/v1/account").json() == {"message": "Unauthorized"}
    assert api("GET", f"/v1/video-projects/{job}").status_code == 401
    api.emulator.clear_faults()
    assert api("GET", "/v1/account").status_code == 200


def test_a_typed_fault_has_the_same_options_as_a_rule() -> None:
    assert {"call", *FaultOptions.__annotations__} == set(OPTIONS)


@pytest.mark.parametrize(
    ("call", "rule", "message"),
    [
        ("nothing", {}, "choose create"),
        ("create", {"reset": "during"}, "choose before or after"),
        ("create", {"explode": True}, "explode"),
        ("create", {"ends": "badly"}, "choose error"),
        ("create", {"ends": 1}, "wrong type"),
        ("create", {"times": "often"}, "wrong type"),
        ("create", {"headers": "Retry-After: 1"}, "wrong type"),
        ("create", {"headers": {"Retry-After": "1\r\nX: 2"}}, "line break"),
        ("create", {"status": True}, "wrong type"),
        ("create", {"status": 99}, "choose 200 to 599"),
        ("create", {"status": 1000}, "choose 200 to 599"),
        ("create", {"hang": -1}, "not negative"),
        ("create", {"truncate": -1}, "not negative"),
        ("create", {"times": -1}, "not negative"),
        ("create", {"ends": "error:"}, "choose error"),
        ("create", {"job_id": True}, "wrong type"),
        ("download", {"gzip": "yes"}, "wrong type"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_choices(
    stub: Emulator, call: str, rule: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stub.fault(call, **rule)


async def test_a_call_that_hangs_delays_no_other(api: Any) -> None:
    api.emulator.fault("account", hang=30)
    headers = {"Authorization": f"Bearer {api.emulator.api_key}"}
    async with httpx.AsyncClient(base_url=api.emulator.url, headers=headers) as http:
        hanging = asyncio.create_task(http.get("/v1/account"))
        while not api.emulator.faults()[0]["hits"]:  # noqa: ASYNC110 - the server runs in another thread
            await asyncio.sleep(0)
        assert (await http.get("/v1/account")).status_code == 200
        hanging.cancel()


def test_a_put_that_is_reset_leaves_no_file(api: Any) -> None:
    items = {"items": [{"type": "image", "extension": "png"}]}
    item = api("POST", "/v1/files/upload-urls", json=items).json()["items"][0]
    api.emulator.fault("put", reset="before")
    with pytest.raises(httpx.TransportError):
        HTTP.put(item["upload_url"], content=b"x" * 5_000_000)
    body = api.body()
    body["assets"]["image_file_path"] = item["file_path"]
    assert api("POST", CREATE, json=body).status_code == 422
    assert HTTP.put(item["upload_url"], content=b"x").status_code == 200
    assert api("POST", CREATE, json=body).status_code == 200
