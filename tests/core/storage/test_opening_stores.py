"""Which storage a path or a URL means, which options it takes, and what is told of those that are refused."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import pytest
from fsspec.registry import _registry
from store_suite import HERE

from replicate_core.errors import ConfigInvalid, InvalidInput, MissingExtra, StorageFailed
from replicate_core.redaction import without_credentials
from replicate_core.storage import fsspec_store as stores
from replicate_core.storage.drivers import driver_options
from replicate_core.storage.opening import local_root, open_store, scheme


class TestOpening:
    def test_a_path_is_a_local_directory(self, tmp_path: Path) -> None:
        for location in (
            "storage",
            "./storage",
            f"{tmp_path}/storage",
            f"file://{tmp_path}/storage",
            "local://storage",
        ):
            store = open_store(location, relative_to=tmp_path)
            assert local_root(location, relative_to=tmp_path) == tmp_path / "storage"
            assert store.url == str(tmp_path / "storage")

    def test_a_path_may_begin_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert local_root("~/storage", relative_to=HERE) == tmp_path / "storage"

    def test_a_path_may_have_a_colon(self, tmp_path: Path) -> None:
        assert local_root("runs:2026", relative_to=tmp_path) == tmp_path / "runs:2026"
        assert local_root("C:/runs", relative_to=tmp_path) == tmp_path / "C:/runs"

    def test_opening_makes_nothing(self, tmp_path: Path) -> None:
        open_store("storage", relative_to=tmp_path)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("location", ["s3//bucket/runs", "s3 ://bucket/runs", "S3//bucket/runs"])
    def test_a_url_without_its_colon_is_no_path(self, location: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"did you mean s3://bucket/runs \?"):
            open_store(location, relative_to=tmp_path)

    @pytest.mark.parametrize("location", ["", " ", " /tmp/runs"])
    def test_what_nobody_means_is_no_path(self, location: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="is neither a path nor a URL"):
            open_store(location, relative_to=tmp_path)

    @pytest.mark.parametrize("location", ["${RUNS}/here", "s3://bucket/${RUN}", "s3://${BUCKET}/run"])
    def test_references_are_for_options(self, location: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="contains a reference to the environment, which only storage_options"):
            open_store(location, relative_to=tmp_path)

    @pytest.mark.parametrize(
        ("location", "problem"),
        [
            ("sftp:///path", "names no host: write sftp://HOST/PATH"),
            ("webdav://", "names no host: write webdav://HOST/PATH"),
            ("webdav://me:hunter22@host/path", r"contains a login: give it as an option, auth: \[USER"),
            ("s3://bucket/a/../b", r"has '\.' or '\.\.' in its path"),
            ("sftp://host/what#", r"has '#' in its path"),
            ("webdav://host/50%", "has '%' in its path"),
        ],
    )
    def test_what_can_be_no_url_is_refused_before_anybody_is_asked(self, location: str, problem: str) -> None:
        with pytest.raises(InvalidInput, match=problem) as caught:
            open_store(location, relative_to=HERE)
        assert "hunter22" not in str(caught.value)

    def test_several_slashes_are_one(self) -> None:
        name = f"double-{os.urandom(8).hex()}"
        store = open_store(f"memory://{name}//runs///of/", relative_to=HERE)
        store.put("a/key", b"data")
        assert [entry.key for entry in store.list("")] == ["a/key"]
        assert store.names("a/") == ["key"]
        assert open_store(f"memory://{name}/runs/of", relative_to=HERE).get("a/key") == b"data"

    def test_what_a_driver_says_of_secrets_is_in_no_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = "hunter" + str(22)  # which no line of this test says

        def fails(*_: object, **__: object) -> None:
            raise TypeError(f"no such option, beside {secret}")

        monkeypatch.setattr("fsspec.core.url_to_fs", fails)
        with pytest.raises(InvalidInput) as caught:
            open_store("memory://x", relative_to=HERE, options={"secret": secret})
        assert secret not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(InvalidInput) as caught:
            open_store("memory://x", relative_to=HERE, options={"profile": "research"})
        assert isinstance(caught.value.__cause__, TypeError), "nothing is hidden that need not be"

    @pytest.mark.parametrize(
        ("location", "meant"),
        [
            ("s3:/bucket/key", "s3://bucket/key"),
            ("s3:bucket", "s3://bucket"),
            ("GS:/bucket", "gs://bucket"),
            ("memory:/here", "memory://here"),
            ("file:/tmp/storage", "file:///tmp/storage"),
        ],
    )
    def test_a_url_with_a_slash_missing_is_no_path(self, location: str, meant: str) -> None:
        with pytest.raises(InvalidInput, match="a slash missing: did you mean") as caught:
            open_store(location, relative_to=HERE)
        assert f"did you mean {meant} ?" in str(caught.value)

    @pytest.mark.parametrize(
        ("location", "hint"),
        [
            ("s33://bucket/x", "did you mean s3://bucket/x"),
            ("S3://bucket/x", "did you mean s3://bucket/x"),
            ("gcss://bucket", "did you mean gcs://bucket"),
            ("s4://bucket/x", "did you mean s3://bucket/x"),
            ("qqqqqqqq://bucket", "s3, gs, az, sftp, webdav and a local directory are known"),
        ],
    )
    def test_an_unknown_scheme_has_a_nearest_one(self, location: str, hint: str) -> None:
        with pytest.raises(InvalidInput, match="which nothing here can open") as caught:
            open_store(location, relative_to=HERE)
        assert hint in str(caught.value)

    def test_letters_of_windows_drives_are_no_schemes(self, tmp_path: Path) -> None:
        for location in ("C:\\runs\\storage", "c:/runs", "D:"):
            assert local_root(location, relative_to=tmp_path) == tmp_path / location
            assert scheme(location) == ""

    def test_the_kind_of_a_storage_is_its_scheme(self) -> None:
        assert [scheme(location) for location in ("s3://b", "memory://x", "runs", "/runs", "file:///x")] == [
            "s3", "memory", "", "", "file",
        ]  # fmt: skip

    @pytest.mark.parametrize("location", ["s3://", "gs:///path", "az://", "abfs:///x"])
    def test_a_url_without_a_bucket_is_refused(self, location: str) -> None:
        with pytest.raises(InvalidInput, match=r"names no bucket: write \w+://BUCKET/PATH"):
            open_store(location, relative_to=HERE)

    def test_an_option_may_refer_to_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigInvalid, match="NO_SUCH"):
            open_store("memory://x", relative_to=HERE, options={"a": "${NO_SUCH}"})

    def test_an_option_that_the_driver_does_not_know_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise TypeError("__init__() got an unexpected keyword argument 'profil', beside s3cret")

        monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
        with pytest.raises(InvalidInput, match=r"storage_options of memory://x can't be used: .*'profil'") as caught:
            open_store("memory://x", relative_to=HERE, options={"profil": "mine", "password": "s3cret"})
        assert "s3cret" not in str(caught.value)

    def test_a_driver_that_takes_too_long_to_begin_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stores, "HASTY_SECONDS", 0.05)
        monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: time.sleep(2))
        with pytest.raises(StorageFailed, match=r"can't open the storage in memory://x: no answer within"):
            open_store("memory://x", relative_to=HERE)

    def test_what_drivers_are_told_besides(self) -> None:
        s3 = driver_options("s3", "bucket", {"config_kwargs": {"connect_timeout": 1}, "anon": True})
        assert s3["use_listings_cache"] is False
        assert (s3["anon"], s3["config_kwargs"]["connect_timeout"]) == (True, 1)
        assert s3["config_kwargs"]["retries"] == {"total_max_attempts": 1}
        assert driver_options("webdav", "host:1", {"scheme": "http", "auth": ["me", "word"]}) == {
            "skip_instance_cache": True, "base_url": "http://host:1", "auth": ("me", "word"), "timeout": 30,
        }  # fmt: skip
        assert driver_options("webdav", "host", {})["base_url"] == "https://host"
        assert driver_options("sftp", "host", {})["known_hosts"] == ()
        assert driver_options("sftp", "host", {"known_hosts": "file"})["known_hosts"] == "file"
        assert driver_options("az", "box", {"read_timeout": 3})["read_timeout"] == 3
        assert driver_options("ftp", "host", {"tls": True}) == {
            "skip_instance_cache": True, "use_listings_cache": False, "tls": True,
        }  # fmt: skip

    def test_a_chain_of_urls_is_no_path(self) -> None:
        with pytest.raises(InvalidInput, match="simplecache::s3://bucket"):
            open_store("simplecache::s3://bucket/x", relative_to=HERE)

    @pytest.mark.parametrize(
        ("location", "package", "extra"),
        [
            ("s3://bucket", "s3fs", "s3"),
            ("gs://bucket", "gcsfs", "gcs"),
            ("az://container", "adlfs", "azure"),
            ("abfs://container", "adlfs", "azure"),
        ],
    )
    def test_a_driver_that_is_missing_names_the_extra(self, location, package, extra, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, location.partition(":")[0], raising=False)  # imported by another test
        with pytest.raises(MissingExtra, match=rf'{location} needs .*: pip install {package} .*"replicate\[{extra}\]"'):
            open_store(location, relative_to=HERE)

    def test_a_missing_driver_without_an_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "libarchive", None)
        with pytest.raises(MissingExtra, match="install its driver"):
            open_store("libarchive://x", relative_to=HERE)

    def test_a_driver_that_cannot_connect_is_an_error_that_hides_the_password(self) -> None:
        with pytest.raises(
            StorageFailed, match=r"can't open the storage in ftp://127\.0\.0\.1:1/x: .*the port and the network"
        ) as caught:
            open_store("ftp://me:s3cret@127.0.0.1:1/x", relative_to=HERE)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("s3://key:s3cret@bucket/path", "s3://bucket/path"),
            ("sftp://me@host/path", "sftp://host/path"),
            ("sftp://me:s3@cret@host/path", "sftp://host/path"),
            ("az://container/path?sig=s3cret", "az://container/path"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("/plain/path", "/plain/path"),
        ],
    )
    def test_urls_are_shown_without_credentials(self, url: str, shown: str) -> None:
        assert without_credentials(url) == shown
