"""Which addresses may be dialled."""

import pytest

from pipeline.addresses import may_dial


@pytest.mark.parametrize(
    "ip", ["93.184.216.34", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]
)
def test_public_addresses_may_be_dialled(ip):
    """An address of the public internet may be dialled, also where IPv6 carries it."""
    assert may_dial(ip, allow_private=False)


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.0.9",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "2001:0:7f00:1::f5ff:fffe",
        "fec0::1",
    ],
)
def test_inside_addresses_may_not_be_dialled(ip):
    """Private, loopback, link-local, shared, reserved and multicast addresses are refused, also wrapped in IPv6."""
    assert not may_dial(ip, allow_private=False)


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "169.254.1.1", "1.1.1.1"])
def test_private_addresses_may_be_dialled_where_allowed(ip):
    """A destination that allows private networks reaches them."""
    assert may_dial(ip, allow_private=True)


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"])
def test_addresses_that_name_no_host_are_always_refused(ip):
    """Unspecified, multicast and broadcast addresses are refused even where private ones are allowed."""
    assert not may_dial(ip, allow_private=True)


@pytest.mark.parametrize("text", ["", "localhost", "2130706433", "127.1", "1.2.3.4/32"])
def test_text_that_is_no_address_is_refused(text):
    """What cannot be read as an address is refused."""
    assert not may_dial(text, allow_private=True)
