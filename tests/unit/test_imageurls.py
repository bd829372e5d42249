"""Pictures by URL, before any machine is asked: which addresses are public, which hosts are allowed, which URLs are none."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import InvalidRequest
from a3s_power.service.imageurls import ImageUrls, is_listed, is_public, resolve
from a3s_power.settings import InvalidSetting, Settings

# ---- addresses ----


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
     "168.63.129.15", "192.0.1.0", "223.255.255.255", "2001:200::1", "2606:4700::1111", "2a00:1450:4001:831::200e",
     "3ffe::1"],
)  # fmt: skip
def test_addresses_of_the_open_internet_are_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.1.2.3", "::",                                            # unspecified
        "127.0.0.1", "127.255.255.254", "::1",                                 # loopback
        "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12::1", "fec0::1",  # private
        "169.254.0.1", "fe80::1", "fe80::1%eth0",                              # link-local
        "100.64.0.1", "100.127.255.255",                                       # behind a carrier's NAT
        "169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254",   # metadata: AWS and most others, Google
        "100.100.100.200", "192.0.0.192", "168.63.129.16",                     # Alibaba, Oracle, Azure
        "224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1",                  # multicast
        "240.0.0.1", "255.255.255.255",                                        # reserved, broadcast
        "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1",  # documentation
        "198.18.0.1", "2001:2::1", "192.88.99.1", "100::1", "5f00::1",         # benchmarks, relays, nowhere, segments
    ],
)  # fmt: skip
def test_addresses_of_particular_networks_are_not(text):
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8"])
@pytest.mark.parametrize(
    "prefix, shift",
    [
        ("::ffff:0:0", 0),        # IPv4-mapped
        ("::", 0),                # IPv4-compatible
        ("::ffff:0:0:0", 0),      # IPv4-translated
        ("64:ff9b::", 0),         # NAT64
        ("64:ff9b:1::", 0),       # NAT64 of one's own
        ("2002::", 80),           # 6to4
        ("2001::", 64),           # Teredo
    ],
)  # fmt: skip
def test_an_ipv4_address_inside_an_ipv6_one_is_not_public(prefix, shift, inside):
    assert not is_public(IPv6Address(int(IPv6Address(prefix)) | int(IPv4Address(inside)) << shift))


@given(st.ip_addresses())
def test_what_python_knows_to_be_special_is_not_public(address):
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if special or address.is_reserved or address.is_unspecified:
        assert not is_public(address)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host, expected",
    [
        *(
            (spelling, "127.0.0.1")
            for spelling in ("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1")
        ),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("8.8.8.8", "8.8.8.8"),
    ],
)
async def test_an_address_in_any_spelling_is_the_one_it_means_to_the_system(host, expected):
    assert await resolve(host) == [ip_address(expected)]


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300, "exa%6dple.com", "a..b"])
async def test_a_host_that_cannot_be_found_has_no_address(host):
    assert await resolve(host) == []


# ---- hosts ----


@pytest.mark.parametrize(
    "url, allowed, expected",
    [
        ("https://images.example/a.png",      "images.example",          True),
        ("http://images.example/a.png",       "images.example",          True),
        ("https://IMAGES.example/a.png",      "images.example",          True),
        ("https://images.example:443/a.png",  "images.example",          True),
        ("https://images.example/a.png",      "images.example:443",      True),
        ("http://images.example/a.png",       "images.example:443",      False),
        ("https://images.example:8443/",      "images.example",          False),
        ("https://images.example:8443/",      "images.example:8443",     True),
        ("http://images.example:443/",        "images.example",          False),
        ("https://images.example/",           "images.example:8443",     False),
        ("https://images.example./",          "images.example",          False),
        ("https://other.example/",            "images.example",          False),
        ("https://other.example/",            "images.example,other.example", True),
        ("https://images.example.evil.test/", "images.example",          False),
        ("https://evil-images.example/",      "images.example",          False),
        ("https://a.images.example/",         "images.example",          False),
        ("https://a.images.example/",         "*.images.example",        True),
        ("https://a.b.images.example/",       "*.images.example",        True),
        ("https://images.example/",           "*.images.example",        False),
        ("https://evilimages.example/",       "*.images.example",        False),
        ("https://a.images.example:8443/",    "*.images.example",        False),
        ("https://a.images.example:8443/",    "*.images.example:8443",   True),
        ("https://bücher.example/",           "xn--bcher-kva.example",   True),
        ("https://[2606:4700::1111]/",        "[2606:4700::1111]",       True),
        ("https://anything.example/",         "*",                       True),
        ("https://8.8.8.8/",                  "*",                       True),
        ("https://anything.example:22/",      "*",                       False),
        ("http://anything.example:443/",      "*",                       False),
        ("https://anything.example:8443/",    "*,anything.example:8443", True),
    ],
)  # fmt: skip
def test_which_hosts_a_setting_allows(url, allowed, expected):
    settings = Settings.load({"A3S_POWER_IMAGE_URLS": allowed})
    assert is_listed(httpx2.URL(url), settings.image_urls) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ()),
        ("*", ("*",)),
        ("Images.Example, *.cdn.example:8443,,", ("images.example", "*.cdn.example:8443")),
        ("[2606:4700::1111]:8443", ("[2606:4700::1111]:8443",)),
    ],
)
def test_the_setting_is_a_list_of_hosts(text, expected):
    assert Settings.load({"A3S_POWER_IMAGE_URLS": text}).image_urls == expected


@pytest.mark.parametrize(
    "text",
    ["https://images.example", "images.example/pictures", "a.*.example", "*example", "**", ".example", "2606:4700::1111",
     "images.example:https", "bücher.example", "a b", "*:8443"],
)  # fmt: skip
def test_what_is_no_host_is_refused_at_start(text):
    with pytest.raises(InvalidSetting, match=r"^A3S_POWER_IMAGE_URLS=.* is no host"):
        Settings.load({"A3S_POWER_IMAGE_URLS": text})


# ---- refusals ----


async def never(host):
    raise AssertionError(f"{host} was looked up")


def refusing(*allowed):
    """Lets no test get as far as a name server."""
    return ImageUrls(allowed, "tests/1", resolve=never)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["https://images.example/a.png", "nonsense", ""])
async def test_pictures_by_url_are_off_until_someone_allows_hosts(url):
    with pytest.raises(InvalidRequest) as refused:
        await refusing().fetch(url)
    assert str(refused.value) == (
        "pictures by URL are switched off; A3S_POWER_IMAGE_URLS says from where they may be fetched"
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url", ["https://other.example/a.png?signature=secret", "http://127.0.0.1/", "http://localhost/"]
)
async def test_a_host_that_is_not_allowed_is_not_even_looked_up(url):
    with pytest.raises(InvalidRequest) as refused:
        await refusing("images.example").fetch(url)
    assert str(refused.value) == (
        f"pictures from {httpx2.URL(url).host} are not allowed here; "
        "A3S_POWER_IMAGE_URLS says from where they may be fetched"
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    ["", "a.png", "/etc/passwd", "//images.example/a.png", "file:///etc/passwd", "ftp://images.example/a.png",
     "data:image/png;base64,AAAA", "gopher://images.example/", "ws://images.example/", "https:a.png", "https:///a.png",
     "https://user@images.example/", "https://user:password@images.example/", "https://:password@images.example/",
     "https://images.example@127.0.0.1/", "https://images.example\\@127.0.0.1/", "https://[::1/", "https://[::g]/",
     "https://images.example:port/", "https://images.example/\r\nHost: x", "https://" + "a" * 300 + "/",
     "https://images.example/" + "a" * 70_000, "\ud800"],
)  # fmt: skip
async def test_what_is_no_url_of_a_picture_is_refused_as_such(url):
    with pytest.raises(InvalidRequest, match=r"^invalid picture URL: "):
        await refusing("*").fetch(url)


@pytest.mark.anyio
@given(st.text())
async def test_any_text_is_a_url_or_refused(text):
    with pytest.raises(InvalidRequest):
        await refusing("images.example").fetch(f"https://{text}.other.example")
    with pytest.raises(InvalidRequest):
        await refusing("images.example").fetch(text)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost", "localhost.", "[::1]", "[::]", "0", "[::ffff:7f00:1]",
             "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "[64:ff9b::a00:1]", "[fe80::1%25lo]", "no.such.host.invalid"],
)  # fmt: skip
async def test_no_spelling_of_an_address_that_is_not_public_is_asked_though_all_hosts_are_allowed(host):
    with pytest.raises(InvalidRequest, match=r"^cannot fetch a picture: .* has no public address$"):
        await ImageUrls(["*"], "tests/1").fetch(f"http://{host}/a.png")


@pytest.mark.anyio
async def test_naming_loopback_among_the_hosts_does_not_open_it():
    with pytest.raises(InvalidRequest, match="localhost:11434 has no public address"):
        await ImageUrls(["localhost:11434"], "tests/1").fetch("http://localhost:11434/api/tags")
