"""What a message may show: addresses without their secrets, values of limited length."""

from __future__ import annotations

import pytest

from magichour_provider.text import MAX_VALUE, clean, host_of, masked, shortened


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pw@host:8080/x?sig=1", "https://***@host:8080/x?…"),
        ("//user:pw@host/x", "//***@host/x"),
        ("to '//user@host/x', not there", "to '//***@host/x', not there"),
        ("s3://connection@bucket/me.mp4", "s3://connection@bucket/me.mp4"),
        ("s3://key:s3/cr3t@bucket/me.mp4", "s3://***@bucket/me.mp4"),
        ("s3://key:/cr3t@bucket/me.mp4", "s3://***@bucket/me.mp4"),
        ("s3://a/b?account_key=cr3t", "s3://a/b?account_key=***"),
        ("/data//ada@home/me.mp4", "/data//ada@home/me.mp4"),
        ("https://magichour.ai/my-library?imageId=cm1", "https://magichour.ai/my-library?imageId=cm1"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert clean(f"\x1b[31m{address}\n") == shown


@pytest.mark.timeout(20)
def test_a_hostile_text_takes_no_time() -> None:
    assert clean("x:/?" + "access" * 50_000)


def test_a_value_that_is_an_address_shows_no_part_of_its_password() -> None:
    assert shortened("s3://AKIA:s3'c r3t\"<@bucket/me.mp4") == "'s3://***@bucket/me.mp4'"
    assert shortened("hdfs://namenode:8020/ada@home/me.mp4") == "'hdfs://namenode:8020/ada@home/me.mp4'"


def test_a_long_value_is_truncated() -> None:
    assert len(shortened("A" * 300_000)) < MAX_VALUE + 30


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:pw@host:8080/x?sig=1", "host:8080"),
        ("https://[::1]:80/", "[::1]:80"),
        ("https://[bad/", "nowhere"),
        ("no address", "nowhere"),
    ],
)
def test_a_url_is_shown_as_its_host(url: str, host: str) -> None:
    assert host_of(url) == host
