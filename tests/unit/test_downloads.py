"""What is downloaded together, and what a file is called."""

import pytest

from a3s_power.registry.session import Site
from a3s_power.service.downloads import Wanted

SECURE, INSECURE, OTHER = Site("h.example"), Site("h.example", insecure=True), Site("other.example")
DIGEST = f"sha256:{'0' * 64}"


def test_a_digest_says_all_and_whoever_wants_it_shares_one_download():
    assert {Wanted(site, "/m", DIGEST).key for site in (SECURE, INSECURE, OTHER)} == {DIGEST}


def test_without_a_digest_only_those_share_who_trust_alike():
    sites = (SECURE, INSECURE, OTHER, Site("h.example", insecure=True, scheme="http"))
    assert len({Wanted(site, "/m.gguf").key for site in sites}) == 4
    assert Wanted(SECURE, "/m.gguf").key != Wanted(SECURE, "/m.gguf?version=2").key


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/m.gguf", "m.gguf"),
        ("/a/m.gguf?download=b/c.gguf", "m.gguf"),
        ("/my%20own.gguf", "my own.gguf"),
        ("/a%2F..%2Fm.gguf", "m.gguf"),
        ("/..%5C..%5Cm.gguf", "m.gguf"),
    ],
)
def test_a_file_is_called_by_the_last_part_of_its_path(path, name):
    assert Wanted(SECURE, path).file_name == name
    assert Wanted(SECURE, path).step == f"pulling {name}"


def test_a_file_with_a_digest_is_called_by_it():
    assert Wanted(SECURE, "/m", DIGEST).step == "pulling 000000000000"
