"""What goes wrong with a storage: each has a class, and a text that says what, where, why and what to do."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import botocore.session
import pytest
from s3_faults import Fault, FaultS3
from storage_servers import Place, free_port, running, sshd

from replicate_core.errors import ConfigInvalid, InvalidInput, NotFound, StorageFailed
from replicate_core.storage.diagnosis import with_causes
from replicate_core.storage.drivers import ATTEMPTS
from replicate_core.storage.fsspec_store import HASTY_SECONDS, PROBE_SECONDS
from replicate_core.storage.opening import open_store
from replicate_core.storage.store import Store

HERE = Path("/nowhere")

T = TypeVar("T")


def at_last(act: Callable[[], T]) -> T:
    """What is given up soon may fail on a busy machine though all is well: here it is done once more then."""
    for _ in range(20):
        with suppress(StorageFailed):
            return act()
    return act()


def hasty(place: Place, **options: Any) -> Store:
    """Open it as a command does that somebody waits for."""
    return open_store(place.url, relative_to=HERE, options={**place.options, **options})


def refused(action: Callable[[], object], pattern: str, *, permanent: bool) -> StorageFailed:
    with pytest.raises(StorageFailed, match=pattern) as caught:
        action()
    assert caught.value.permanent == permanent, caught.value
    assert all("test-secret" not in str(error) for error in with_causes(caught.value)), "nor in a traceback"
    return caught.value


@contextmanager
def silent_port() -> Iterator[int]:
    """A server that accepts connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def throttled(url: str, *, bytes_per_second: int) -> Iterator[str]:
    """A slow line to a server: its URL at the other end."""
    host, _, port = url.removeprefix("http://").partition(":")

    def carry(source: socket.socket, target: socket.socket, seconds_per_byte: float) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                time.sleep(len(data) * seconds_per_byte)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                behind_it = socket.create_connection((host, int(port)))
                for way in ((client, behind_it, 0.0), (behind_it, client, 1 / bytes_per_second)):
                    threading.Thread(target=carry, args=way, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class TestS3:
    def test_a_bucket_that_is_missing_is_no_empty_storage(self, s3: FaultS3) -> None:
        place = Place("s3://not-made/storage", **s3.options)
        error = refused(
            lambda: hasty(place),
            r"can't open the storage in s3://not-made/storage: the bucket not-made does not exist\. .*create: true",
            permanent=True,
        )
        assert error.bucket_is_missing

    def test_a_bucket_is_made_where_that_is_asked_for(self, s3: FaultS3, bucket: str) -> None:
        place = Place(f"s3://{bucket}/storage", **s3.options)
        hasty(place, create=True).put("key", b"data")
        assert hasty(place, create=True).get("key") == b"data"

    def test_a_bucket_of_another_region_is_made_there(self, s3: FaultS3, bucket: str) -> None:
        place = Place(f"s3://{bucket}", **{**s3.options, "client_kwargs": {"region_name": "eu-central-1"}})
        hasty(place, create=True).put("key", b"data")
        assert hasty(place).get("key") == b"data"

    def test_opening_makes_one_request(self, s3: FaultS3, on_s3: Place) -> None:
        with s3.counted() as requests:
            hasty(on_s3)
        assert requests == {"LIST everything": 1}

    def test_a_bucket_that_is_removed_later_is_no_missing_key(self, on_s3: Place) -> None:
        store = on_s3.open()
        bucket = on_s3.url.split("/")[2]
        other = Place(f"s3://{bucket}x/storage", **on_s3.options)
        store._root = other.url.removeprefix("s3://")  # type: ignore[attr-defined]
        refused(lambda: store.put("key", b""), "can't write key .*does not exist.*create: true", permanent=True)
        refused(lambda: store.get("key"), "can't read key .*does not exist", permanent=True)
        refused(lambda: store.get_many(["key"]), "can't read key .*does not exist", permanent=True)
        refused(lambda: store.list("records/"), "can't list records/ .*does not exist", permanent=True)

    @pytest.mark.parametrize(
        ("options", "why"),
        [({"secret": "wrong"}, "injected|SignatureDoesNotMatch|Forbidden"), ({"key": "nobody"}, "injected|Forbidden")],
        ids=["secret", "key"],
    )
    def test_a_wrong_key_is_refused(self, on_s3: Place, options: dict[str, str], why: str) -> None:
        error = refused(lambda: hasty(on_s3, **options), why, permanent=True)
        assert "the clock of this machine" in str(error)

    def test_without_credentials_says_how_to_give_them(self, on_s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        options = {key: value for key, value in on_s3.options.items() if key not in ("key", "secret")}
        action = lambda: open_store(on_s3.url, relative_to=HERE, options=options)  # noqa: E731
        refused(action, r"Unable to locate credentials\. .*docs/storage\.md.*\$\{VARIABLE\}", permanent=True)

    def test_a_profile_that_is_not_there_is_named(self, on_s3: Place) -> None:
        options = {"endpoint_url": on_s3.options["endpoint_url"], "profile": "nobodys"}
        refused(lambda: open_store(on_s3.url, relative_to=HERE, options=options), "nobodys", permanent=True)

    def test_credentials_come_from_the_environment(self, s3: FaultS3, on_s3: Place, monkeypatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        open_store(on_s3.url, relative_to=HERE).put("key", b"data")
        assert on_s3.open().get("key") == b"data"

    def test_options_refer_to_the_environment(self, on_s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_SECRET", "test-secret")
        hasty(on_s3, secret="${MY_SECRET}").put("key", b"data")
        with pytest.raises(
            ConfigInvalid, match=r"secret refers to the environment variable 'NO_SUCH'.*export NO_SUCH="
        ):
            hasty(on_s3, secret="${NO_SUCH}")

    def test_an_option_that_its_driver_does_not_know_is_named(self, on_s3: Place) -> None:
        with pytest.raises((InvalidInput, StorageFailed), match=r"endpiont_url|unexpected keyword"):
            open_store(on_s3.url, relative_to=HERE, options={"config_kwargs": {"endpiont_url": 1}})

    @pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown"), (429, "TooManyRequests")])
    def test_a_server_that_always_fails_is_asked_a_few_times_only(
        self, s3: FaultS3, on_s3: Place, status: int, code: str
    ) -> None:
        """Where driver and library both try again, five times each, it is twenty-five."""
        store = on_s3.open()
        for action in (
            lambda: store.put("key", b"data"),
            lambda: store.get("key"),
            lambda: store.get_many(["key"]),
            lambda: store.list(""),
            lambda: store.delete(["key"]),
        ):
            begin = len(s3.log)
            with s3.failing(Fault(status=status, code=code)):
                refused(action, "Try again later", permanent=False)
            assert [found for _, _, found in s3.log[begin:]] == [status] * ATTEMPTS

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(status=503, code="SlowDown", times=2),
            Fault(status=500, times=2),
            Fault(status=429, code="TooManyRequests", times=2),
            Fault(status=409, code="OperationAborted", times=2),
            Fault(cuts=True, times=2),
            Fault(cuts=True, is_done_first=True, times=2),
        ],
        ids=["slow down", "internal error", "too many", "conflict", "cut", "lost answer"],
    )
    def test_what_passes_goes_unnoticed(self, s3: FaultS3, on_s3: Place, fault: Fault) -> None:
        store = on_s3.open()
        store.put("there", b"data")
        for action, result in (
            (lambda: store.put("key", b"data"), None),
            (lambda: store.get("there"), b"data"),
            (lambda: store.get_many(["there", "missing"]), {"there": b"data"}),
            (lambda: len(store.list("")), 2),
            (lambda: store.delete(["key"]), None),
        ):
            fault.times = 2
            with s3.failing(fault):
                assert action() == result
            assert fault.times == 0

    def test_a_server_that_is_not_there_is_given_up_soon(self) -> None:
        place = Place(
            "s3://bucket/storage", key="k", secret="test-secret", endpoint_url=f"http://127.0.0.1:{free_port()}"
        )
        error = refused(lambda: hasty(place), "Check the host, the port and the network", permanent=False)
        assert "127.0.0.1" in str(error)

    def test_a_server_that_never_answers_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("replicate_core.storage.fsspec_store.HASTY_SECONDS", 1.0)
        with silent_port() as port:
            place = Place("s3://bucket/storage", key="k", secret="test-secret", endpoint_url=f"http://127.0.0.1:{port}")
            refused(lambda: hasty(place), "did not answer in time", permanent=False)
        assert HASTY_SECONDS == 10

    @pytest.mark.parametrize("hangs", ["list-type", "segments/key"])
    def test_a_server_that_hangs_later_is_given_up_though_that_may_take_long(
        self, s3: FaultS3, on_s3: Place, hangs: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing and a key may be of any length: as long as something comes."""
        monkeypatch.setattr("replicate_core.storage.fsspec_store.HASTY_SECONDS", 2.0)
        store = at_last(lambda: open_store(on_s3.url, relative_to=HERE, options=on_s3.options))
        at_last(lambda: store.put("segments/key", b"data"))
        began = time.monotonic()
        with s3.failing(Fault("GET", hangs, seconds=40)):
            if hangs == "list-type":
                refused(lambda: store.list("segments/"), "can't list segments/", permanent=False)
            else:
                refused(lambda: store.get("segments/key"), "can't read segments/key", permanent=False)
                refused(lambda: store.get_many(["segments/key"]), "can't read segments/key", permanent=False)
        assert time.monotonic() - began < 30, "not 40, and not three times that"

    def test_what_comes_slowly_is_waited_for(self, s3: FaultS3, on_s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("replicate_core.storage.fsspec_store.HASTY_SECONDS", 2.0)
        data = os.urandom(600_000)
        on_s3.open().put("segments/key", data)
        with throttled(s3.url, bytes_per_second=100_000) as url:
            options = {**on_s3.options, "endpoint_url": url}
            store = at_last(lambda: open_store(on_s3.url, relative_to=HERE, options=options))
            assert store.get("segments/key") == data
            assert store.get_many(["segments/key"]) == {"segments/key": data}

    def test_an_option_that_is_not_known_is_called_one(self, on_s3: Place) -> None:
        refused(
            lambda: hasty(on_s3, endpoint="http://x"), "The driver does not know one of storage_options", permanent=True
        )

    def test_a_server_that_never_answers_holds_up_no_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("replicate_core.storage.fsspec_store.PROBE_SECONDS", 1.0)
        with silent_port() as port:
            place = Place("s3://bucket/storage", key="k", secret="test-secret", endpoint_url=f"http://127.0.0.1:{port}")
            refused(place.open, "did not answer in time", permanent=False)
        assert PROBE_SECONDS == 30

    def test_a_server_that_is_slow_is_waited_for(self, s3: FaultS3, on_s3: Place) -> None:
        with s3.failing(Fault(seconds=0.5)):
            store = on_s3.open()
            store.put("key", b"data")
            assert store.get("key") == b"data"

    def test_https_where_http_is_spoken_says_so(self, s3: FaultS3, on_s3: Place) -> None:
        refused(
            lambda: hasty(on_s3, endpoint_url=s3.url.replace("http:", "https:")), "an endpoint may", permanent=False
        )

    def test_a_name_that_no_bucket_can_have(self, s3: FaultS3) -> None:
        refused(lambda: hasty(Place("s3://No_Bucket!/x", **s3.options)), "Correct the storage", permanent=True)

    def test_a_url_without_a_bucket(self) -> None:
        for url in ("s3://", "s3:///path", "gs://", "az:///x"):
            with pytest.raises(InvalidInput, match=r"names no bucket: write \w+://BUCKET/PATH"):
                open_store(url, relative_to=HERE)

    def test_a_large_file_goes_in_parts_that_are_sent_again_one_by_one(
        self, s3: FaultS3, on_s3: Place, tmp_path: Path
    ) -> None:
        data = bytes(40 << 20)
        (tmp_path / "large").write_bytes(data)
        store = on_s3.open()
        with s3.counted() as requests:
            store.put_file("data/large", tmp_path / "large")
        assert requests == {"POST data": 2, "PUT data": 3}  # begin and complete; 16 + 16 + 8 MiB
        assert store.list("data/")[0].size == len(data)

    def test_a_small_file_is_one_request(self, s3: FaultS3, on_s3: Place) -> None:
        store = on_s3.open()
        with s3.counted() as requests:
            store.put("data/small", bytes(1 << 20))
            store.get("data/small")
            store.get("data/small", 5, 100)
            store.get_many(["data/small"])
            store.list("data/")
            store.list("missing/")
            store.sizes(["data/small"])
        assert requests == {"PUT data": 1, "GET data": 3, "LIST data": 1, "LIST missing": 1, "HEAD data": 1}

    def test_what_others_write_is_seen_at_once(self, on_s3: Place) -> None:
        mine, theirs = on_s3.open(), on_s3.open()
        assert mine.list("") == []
        theirs.put("records/1", b"1")
        assert [entry.key for entry in mine.list("records/")] == ["records/1"]
        assert mine.get("records/1") == b"1"
        theirs.delete(["records/1"])
        assert mine.list("records/") == []
        with pytest.raises(NotFound):
            mine.get("records/1")


class TestAzure:
    def test_a_container_that_is_missing(self, on_azure: Place, bucket: str) -> None:
        place = Place(f"az://{bucket}-not/storage", **on_azure.options)
        assert refused(lambda: hasty(place), "does not exist.*create: true", permanent=True).bucket_is_missing

    def test_a_wrong_key_is_refused_without_showing_the_right_one(self, on_azure: Place) -> None:
        key = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXk="
        right = on_azure.options["connection_string"]
        wrong = ";".join(f"AccountKey={key}" if part.startswith("AccountKey") else part for part in right.split(";"))
        error = refused(lambda: hasty(on_azure, connection_string=wrong), "can't open the storage", permanent=True)
        assert key not in str(error)
        assert "the clock of this machine" in str(error)

    def test_a_connection_string_that_is_none_is_not_shown(self, on_azure: Place) -> None:
        with pytest.raises(StorageFailed, match="can't open the storage") as caught:
            hasty(on_azure, connection_string="AccountKey=very-secret-indeed;x")
        assert "very-secret" not in str(caught.value)

    def test_a_server_that_is_not_there_is_given_up(self, on_azure: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("replicate_core.storage.fsspec_store.HASTY_SECONDS", 2.0)
        connection = on_azure.options["connection_string"].partition("BlobEndpoint")[0]
        connection += f"BlobEndpoint=http://127.0.0.1:{free_port()}/devstoreaccount1;"
        refused(lambda: hasty(on_azure, connection_string=connection), "can't open the storage", permanent=False)


class TestSftp:
    def test_a_host_whose_key_is_not_known_is_refused(self, on_sftp: Place, tmp_path: Path) -> None:
        """sshfs by itself takes any."""
        (tmp_path / "known").touch()
        refused(lambda: hasty(on_sftp, known_hosts=str(tmp_path / "known")), "accept its key", permanent=True)

    def test_a_key_that_is_not_accepted(self, on_sftp: Place, tmp_path: Path, ssh_server: tuple[Path, int]) -> None:
        directory, _ = ssh_server
        other = tmp_path / "other"
        shutil.copy(directory / "host", other)
        refused(lambda: hasty(on_sftp, client_keys=[str(other)], agent_path=None), "can't open the", permanent=True)

    def test_a_server_that_is_not_there(self, on_sftp: Place) -> None:
        place = Place(f"sftp://127.0.0.1:{free_port()}/storage", **on_sftp.options)
        refused(lambda: hasty(place), "Check the host, the port", permanent=False)

    def test_its_directory_is_made(self, on_sftp: Place) -> None:
        store = on_sftp.open()
        assert store.list("") == []
        store.put("a/b/c", b"data")
        assert on_sftp.open().get("a/b/c") == b"data"

    def test_a_connection_that_was_lost_is_made_again(self, tmp_path: Path, ssh_server: tuple[Path, int]) -> None:
        directory = tmp_path / "sshd"
        directory.mkdir()
        port = free_port()
        place = Place(
            f"sftp://127.0.0.1:{port}{tmp_path}/remote",
            client_keys=[str(directory / "user")],
            known_hosts=str(directory / "known_hosts"),
        )
        arguments = sshd(directory, port)
        with running(arguments, port, tmp_path / "log"):
            store = place.open()
            store.put("key", b"data")
        refused(lambda: store.get("key"), "can't read key", permanent=False)
        with running(arguments, port, tmp_path / "log"):
            assert store.get("key") == b"data"

    def test_half_of_a_key_is_never_seen(self, on_sftp: Place, tmp_path: Path) -> None:
        store = on_sftp.open()
        seen = set()
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                seen.update(path.stat().st_size for path in (tmp_path / "remote").rglob("key"))

        looking = threading.Thread(target=look)
        looking.start()
        store.put("key", bytes(8 << 20))
        over.set()
        looking.join()
        assert seen <= {8 << 20}


class TestWebdav:
    def test_a_wrong_password_is_refused(self, on_webdav: Place) -> None:
        refused(lambda: hasty(on_webdav, auth=["me", "wrong-password"]), "the clock of this machine", permanent=True)

    def test_a_server_that_is_not_there(self, on_webdav: Place) -> None:
        place = Place(f"webdav://127.0.0.1:{free_port()}/storage", **on_webdav.options)
        refused(lambda: hasty(place), "Check the host, the port", permanent=False)

    def test_https_where_http_is_spoken_says_so(self, on_webdav: Place) -> None:
        refused(lambda: hasty(on_webdav, scheme="https"), "can't open the storage", permanent=False)


def test_a_bucket_with_an_object_lock_takes_what_has_a_checksum() -> None:
    with FaultS3() as s3:
        key, secret = next(iter(s3.keys.items()))
        client = botocore.session.get_session().create_client(
            "s3", "us-east-1", endpoint_url=s3.url, aws_access_key_id=key, aws_secret_access_key=secret
        )
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
        client.close()
        place = Place("s3://locked/storage", **s3.options)
        store = hasty(place)
        refused(
            lambda: store.put("data/key", b"x"),
            r"object lock, .*a checksum: write config_kwargs: \{request_checksum_calculation: when_supported\}",
            permanent=True,
        )
        store = hasty(place, config_kwargs={"request_checksum_calculation": "when_supported"})
        store.put("data/key", b"x")
        store.put("data/key", b"y")
        assert store.get("data/key") == b"y"
