"""An S3 bucket of our own: moto's server on loopback, which checks signatures as S3 does."""

import json

import boto3
import requests
from moto import settings
from moto.server import ThreadedMotoServer

POLICY = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


class Bucket:
    """A bucket named `study`, open to one key alone. A context manager."""

    def __init__(self):
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.url = "http://{}:{}".format(*self._server.get_host_and_port())
        boto3.client("s3", **self._access("nobody", "yet")).create_bucket(Bucket="study")
        iam = boto3.client("iam", **self._access("nobody", "yet"))
        iam.create_user(UserName="student")
        document = json.dumps({"Version": "2012-10-17", "Statement": [POLICY]})
        iam.put_user_policy(UserName="student", PolicyName="all", PolicyDocument=document)
        key = iam.create_access_key(UserName="student")["AccessKey"]
        self.key, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0  # from here on every request must be signed
        self.s3 = boto3.client("s3", **self._access(self.key, self.secret))

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        requests.post(f"{self.url}/moto-api/reset", timeout=30)  # what it holds is the process's
        settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
        self._server.stop()

    def _access(self, key: str, secret: str) -> dict:
        return {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": key,
            "aws_secret_access_key": secret,
        }

    @property
    def for_snakemake(self) -> dict[str, str]:
        """What Snakemake's storage plugin reads."""
        own = {"ENDPOINT_URL": self.url, "ACCESS_KEY": self.key, "SECRET_KEY": self.secret}
        return {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in own.items()}

    @property
    def for_fsspec(self) -> dict[str, str]:
        """What every other client of S3 reads, fsspec's among them."""
        own = {"ENDPOINT_URL": self.url, "ACCESS_KEY_ID": self.key}
        own["SECRET_ACCESS_KEY"] = self.secret
        return {f"AWS_{name}": value for name, value in own.items()}

    def names(self, prefix: str = "") -> set[str]:
        """The objects below a prefix, named from there on."""
        listed = self.s3.list_objects_v2(Bucket="study", Prefix=prefix).get("Contents", [])
        return {entry["Key"].removeprefix(prefix) for entry in listed}

    def read(self, name: str) -> str:
        return self.s3.get_object(Bucket="study", Key=name)["Body"].read().decode()
