"""What a project's file may ask of a storage: plain options of known drivers, and nothing that runs, reads or sends."""

from __future__ import annotations

import pytest

from replicate_core.format.values import Value
from replicate_core.storage.vetting import doubts

PLAIN: list[tuple[str, dict[str, Value]]] = [
    ("s3://bucket/path", {}),
    ("s3://bucket/path", {"profile": "research", "anon": True, "create": True}),
    ("s3a://bucket", {"key": "k", "secret": "s", "token": "t", "endpoint_url": "https://s3.example.org:9000/"}),
    ("s3://bucket", {"endpoint_url": "http://[::1]:9000", "client_kwargs": {"region_name": "eu-central-1"}}),
    ("s3://bucket", {"config_kwargs": {"s3": {"addressing_style": "path"}, "signature_version": "s3v4"}}),
    ("s3://bucket", {"config_kwargs": {"request_checksum_calculation": "when_supported"}}),
    ("s3://bucket", {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "StorageClass": "STANDARD_IA"}}),
    ("s3://bucket", {"key": "${AWS_ACCESS_KEY_ID}", "secret": "${AWS_SECRET_ACCESS_KEY}"}),
    ("s3://bucket", {"secret": "not a $${REFERENCE}"}),
    ("gs://bucket", {"project": "p", "token": "anon"}),
    ("az://container", {"account_name": "mine", "account_key": "a2V5"}),
    ("abfss://c@account.dfs.core.windows.net/p", {"connection_string": "${AZURE_STORAGE_CONNECTION_STRING}"}),
    ("sftp://me:pw@host:2222/data", {"port": 22, "username": "me", "password": "pw"}),
    ("sftp://first.last+x@host/data", {"username": "me@example.org"}),
    ("sftp://host/data", {"username": "svc-train_1"}),
    ("ssh://[2001:db8::1]:22/data", {}),
    ("webdav://host/path", {"scheme": "http", "auth": ["me", "pw"]}),
    ("memory://any thing", {}),
]


@pytest.mark.parametrize(("location", "options"), PLAIN)
def test_plain_options_of_known_drivers_need_no_trust(location: str, options: dict[str, Value]) -> None:
    assert doubts(location, options) == []


DOUBTED: list[tuple[str, dict[str, Value], str]] = [
    ("sftp://host/x", {"proxy_command": "touch X"}, "storage_options.proxy_command, which is not a plain option"),
    ("sftp://host/x", {"client_keys": ["~/.ssh/id_rsa"]}, "storage_options.client_keys, which is not a plain"),
    ("sftp://host/x", {"known_hosts": None}, "storage_options.known_hosts, which is not a plain"),
    ("sftp://host/x", {"config": ["/x"]}, "storage_options.config, which"),
    ("sftp://-oProxyCommand=x/x", {}, "a storage whose host has unusual characters"),
    ("sftp://host;touch X/x", {}, "a storage whose host has unusual characters"),
    ("sftp://$(touch%20x)`id`@host/x", {}, "a storage whose host has unusual characters"),
    ("sftp://-oProxy@host/x", {}, "a storage whose host has unusual characters"),
    ("sftp://-host/x", {}, "a storage whose host has unusual characters"),
    ("sftp://me@-host/x", {}, "a storage whose host has unusual characters"),
    ("sftp://me:a\x1b[2J@host/x", {}, "a storage whose host has unusual characters"),
    ("sftp://host/x", {"username": "$(id)"}, "storage_options.username with a value"),
    ("sftp://host/x", {"username": "-l"}, "storage_options.username with a value"),
    ("sftp://host/x", {"username": ""}, "storage_options.username with a value"),
    ("s3://bucket", {"endpoint_url": "http://a\x1b[2J@host"}, "storage_options.endpoint_url with a value"),
    ("abfs://c@evil.org#.dfs.core.windows.net/x", {}, "a storage whose host has unusual characters"),
    ("s3://bucket", {"session": "x"}, "storage_options.session, which"),
    ("s3://bucket", {"client_kwargs": {"verify": False}}, "storage_options.client_kwargs.verify, which"),
    ("s3://bucket", {"client_kwargs.region_name": "x"}, "storage_options.client_kwargs[.]region_name, which"),
    ("s3://bucket", {"client_kwargs": {}}, "storage_options.client_kwargs, which"),
    ("s3://bucket", {"config_kwargs": {"signature_version": "bearer"}}, "signature_version with a value"),
    ("s3://bucket", {"endpoint_url": "file:///etc/passwd"}, "storage_options.endpoint_url with a value"),
    ("s3://bucket", {"key": ["x"]}, "storage_options.key with a value"),
    ("gs://bucket", {"endpoint_url": "http://evil"}, "storage_options.endpoint_url, which is not a plain option of gs"),
    ("gs://bucket", {"token": "/home/me/key.json"}, "storage_options.token with a value"),
    ("az://c", {"account_host": "evil.org"}, "storage_options.account_host, which"),
    ("az://c", {"account_name": "evil.org/x?"}, "storage_options.account_name with a value"),
    ("webdav://host", {"verify": False}, "storage_options.verify, which"),
    ("webdav://host", {"auth": "token"}, "storage_options.auth with a value"),
    ("memory://x", {"anything": 1}, "storage_options.anything, which is not a plain option of memory"),
    ("http://host/x", {}, "a driver for http://, which is unknown here"),
    ("reference://x", {"fo": "x"}, "a driver for reference://"),
    ("filecache://x", {"target_protocol": "file"}, "a driver for filecache://"),
    ("hdfs://x", {}, "a driver for hdfs://"),
]


@pytest.mark.parametrize(("location", "options", "doubt"), DOUBTED)
def test_what_could_run_read_or_send_needs_trust(location: str, options: dict[str, Value], doubt: str) -> None:
    assert doubt in "; ".join(doubts(location, options))


@pytest.mark.parametrize(
    ("options", "variable", "name"),
    [
        ({"endpoint_url": "http://host/${HF_TOKEN}"}, "${HF_TOKEN}", "endpoint_url"),
        ({"key": "${HF_TOKEN}"}, "${HF_TOKEN}", "key"),
        ({"secret": "x${AWS_SECRET_ACCESS_KEY}"}, "${AWS_SECRET_ACCESS_KEY}", "secret"),
        ({"key": "${AWS_SECRET_ACCESS_KEY}"}, "${AWS_SECRET_ACCESS_KEY}", "key"),
        ({"client_kwargs": {"region_name": ["a", {"b": "${X}"}]}}, "${X}", "client_kwargs.region_name"),
    ],
)
def test_a_variable_needs_trust_unless_the_driver_reads_it_for_that_option_by_itself(
    options: dict[str, Value], variable: str, name: str
) -> None:
    assert doubts("s3://bucket", options) == [f"{variable} of your environment in storage_options.{name}"]


def test_a_storage_that_the_user_names_is_the_users_choice_and_the_options_are_not() -> None:
    assert doubts("http://host", {}, names_location=False) == []
    assert doubts("hdfs://host", {"user": "me"}, names_location=False) == [
        "storage_options.user, which is not a plain option of hdfs://"
    ]
