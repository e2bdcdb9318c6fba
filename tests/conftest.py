"""A server on loopback that speaks the S3 protocol, for tests that keep a study in a store."""

import uuid

import pytest


@pytest.fixture(scope="session")
def s3_server():
    pytest.importorskip("moto.server", reason="needs moto[server] of the test extra")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch) -> str:
    """The address of an empty bucket. Processes that are started find it by the same variables."""
    import boto3

    host, port = s3_server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/sweeps"
