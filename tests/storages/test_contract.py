"""The contract of a store, on every storage that a server can be had for."""

from __future__ import annotations

import pytest
from storage_servers import Place
from store_suite import NAMES, StoreSuite

from replicate_core.errors import InvalidInput
from replicate_core.storage.store import Store


class TestS3(StoreSuite):
    @pytest.fixture
    def store(self, on_s3: Place) -> Store:
        return on_s3.open()


class TestWholeBucket(StoreSuite):
    @pytest.fixture
    def store(self, on_s3: Place) -> Store:
        return Place(on_s3.url.removesuffix("/storage"), **on_s3.options).open()


class TestS3WithoutConditions(StoreSuite):
    """rclone: it ignores conditions, and answers ranges with the checksum of the whole."""

    @pytest.fixture
    def store(self, on_weak_s3: Place) -> Store:
        return on_weak_s3.open()


class TestAzure(StoreSuite):
    @pytest.fixture
    def store(self, on_azure: Place) -> Store:
        return on_azure.open()


class TestSftp(StoreSuite):
    @pytest.fixture
    def store(self, on_sftp: Place) -> Store:
        return on_sftp.open()


class TestWebdav(StoreSuite):
    replaces_at_once = False  # servers delete what is there before they move

    @pytest.fixture
    def store(self, on_webdav: Place) -> Store:
        return on_webdav.open()

    @pytest.mark.parametrize("name", [name for name in NAMES if not set(name) & set("#?%")])
    def test_a_name_is_taken_as_it_is(self, store: Store, name: str) -> None:
        super().test_a_name_is_taken_as_it_is(store, name)

    @pytest.mark.parametrize("name", ["x#y", "what?", "100%"])
    def test_what_its_driver_would_take_for_something_else_is_refused(self, store: Store, name: str) -> None:
        """No key of a repository has one of these."""
        for action in (lambda: store.put(name, b""), lambda: store.get(name), lambda: store.list(f"{name}/")):
            with pytest.raises(InvalidInput, match="names there can't contain"):
                action()


class TestGoogle:
    """Smoke only: the emulator is far from the real thing."""

    @pytest.fixture
    def store(self, on_google: Place) -> Store:
        return on_google.open()

    test_what_is_put_is_got = StoreSuite.test_what_is_put_is_got
    test_a_missing_key_is_not_found_and_named = StoreSuite.test_a_missing_key_is_not_found_and_named
    test_a_listing_sees_at_once_what_changed = StoreSuite.test_a_listing_sees_at_once_what_changed
    test_deleted_keys_are_gone_and_missing_ones_are_fine = (
        StoreSuite.test_deleted_keys_are_gone_and_missing_ones_are_fine
    )
