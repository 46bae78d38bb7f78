"""A real S3 server on loopback, in a process of its own: moto's."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()  # until the tests are over, however they end
"""
KEY = {"aws_access_key_id": "AKIATESTS", "aws_secret_access_key": "secret of the tests"}


class Buckets:
    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self.client: Any = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **KEY)

    @classmethod
    @contextmanager
    def serve(cls) -> Iterator[Buckets]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield cls(process.stdout.readline().strip())
        finally:
            process.stdin.close()
            process.wait()

    def connection(
        self,
        login: str = KEY["aws_access_key_id"],
        password: str = KEY["aws_secret_access_key"],
        **extra: object,
    ) -> str:
        """JSON of an Airflow connection that leads here."""
        return json.dumps(
            {
                "conn_type": "aws",
                "login": login,
                "password": password,
                "extra": {"endpoint_url": self.url, "region_name": "us-east-1", **extra},
            }
        )

    def names(self) -> list[str]:
        return [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]

    def keys(self, bucket: str = "media") -> list[str]:
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=bucket).get("Contents", ())]

    def unfinished(self, bucket: str = "media") -> list[str]:
        """What was begun and neither completed nor thrown away: nobody sees it, but it is paid for."""
        uploads = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return [upload["Key"] for upload in uploads]

    def put(self, key: str, content: bytes, bucket: str = "media") -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, key: str, bucket: str = "media") -> bytes:
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    @contextmanager
    def knowing_no_key(self) -> Iterator[None]:
        """Every key is a wrong one."""
        self._moto("reset-auth", b"0")
        try:
            yield
        finally:
            self._moto("reset-auth", b"inf")

    @contextmanager
    def allowing(self, *actions: str) -> Iterator[str]:
        """A connection with a key of somebody who may do these actions only: ``s3:GetObject``."""
        import boto3

        iam: Any = boto3.client("iam", endpoint_url=self.url, region_name="us-east-1", **KEY)
        iam.create_user(UserName="somebody")
        policy = {
            "Version": "2012-10-17",
            "Statement": {"Effect": "Allow", "Action": actions, "Resource": "*"},
        }
        iam.put_user_policy(UserName="somebody", PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="somebody")["AccessKey"]
        with self.knowing_no_key():
            yield self.connection(login=key["AccessKeyId"], password=key["SecretAccessKey"])

    def reset(self) -> None:
        self._moto("reset")

    def _moto(self, what: str, data: bytes = b"") -> None:
        request = urllib.request.Request(
            f"{self.url}/moto-api/{what}", data, {"Content-Type": "application/octet-stream"}
        )
        with urllib.request.urlopen(request):
            pass
