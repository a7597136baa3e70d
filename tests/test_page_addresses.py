"""Where the page is served and who may ask: ports, printed addresses, names, origins, paths of proxies."""

import errno
import http.client
import json
import socket
import subprocess
import sys
from email.message import Message
from urllib.parse import urlsplit

import page_models
import pytest
from page_client import ask, serving

from taming_jax.page import listening
from taming_jax.page.listening import addresses, listen
from taming_jax.page.server import PageServer
from taming_jax.page.visitors import Visitors

OUTER = "https://paint.example.org"


@pytest.fixture(scope="module")
def model():
    return page_models.painter("none")


def check(visitors, target="/about", opens=False, **headers):
    message = Message()
    for name, values in headers.items():
        for value in values if isinstance(values, tuple) else (values,):
            message.add_header(name.replace("_", "-"), value)
    visitors.check(message, urlsplit(target), opens)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "[::1]", "::"])
def test_what_is_printed_can_be_opened(model, host):
    if ":" in host:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    with listen(host, 0) as there:
        first, *others = addresses(there)
        url = urlsplit(first)
        assert url.port == there.getsockname()[1] and "0.0.0.0" not in first and "[::]" not in first
        assert bool(others) == (host in ("0.0.0.0", "::"))
        with socket.create_connection((url.hostname, url.port), timeout=30):
            there.accept()[0].close()
        if host == "::":  # both kinds
            with socket.create_connection(("127.0.0.1", url.port), timeout=30):
                there.accept()[0].close()


def test_a_link_local_address_is_written_with_its_zone():
    assert listening._url("fe80::1%eth0", 80) == "http://[fe80::1%25eth0]:80/"


def test_a_port_in_use_is_told_with_a_way_out():
    with listen("127.0.0.1", 0) as there:
        port = there.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 is in use already; .*--port=0") as told:
            listen("127.0.0.1", port)
        free = str(told.value).split("--port=")[1].split(",")[0]
        listen("127.0.0.1", int(free)).close()


def test_it_is_told_before_a_model_is_looked_for():
    with listen("127.0.0.1", 0) as there:
        port = there.getsockname()[1]
        command = [sys.executable, "-m", "taming_jax.page", f"--port={port}", "--workdir=there/is/none"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, encoding="utf-8")
    assert ended.returncode == 2 and f"port {port} of" in ended.stderr and "--port=" in ended.stderr
    assert ended.stderr.count("\n") == 1 and "there/is/none" not in ended.stderr


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", "is empty"),
        ("192.0.2.77", "no address of this machine"),
        ("http://localhost", "no name or address"),
        ("localhost:8080", "--port"),
        ("x" * 70, "no name or address"),
    ],
)
def test_wrong_hosts_are_told(host, message):
    with pytest.raises(ValueError, match=message):
        listen(host, 0)


def test_ports_of_the_administrator_are_told(monkeypatch):
    def refused(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refused)
    with pytest.raises(ValueError, match=r"port 80 may not be opened by this user; .*--port=8080"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize(
    "host",
    ["localhost:8080", "LOCALHOST", "localhost.:80", "127.0.0.1:9", "127.9.9.9", "[::1]:8080", "[::ffff:7f00:1]"],
)
def test_this_machine_may_ask(host):
    check(Visitors("127.0.0.1"), Host=host)


WRONG_HOSTS = ["evil.example", "192.168.1.5", "0.0.0.0:8080", "localhost.evil.example", "evil.example@localhost"]
WRONG_HOSTS += ["localhost@evil.example", "", "localhost:99999", "localhost:8080:9", "[::1", "[fe80::1%25eth0]:8080"]
WRONG_HOSTS += ["[::1%2525]x", "localhost/x", "local host", "127.0.0.1,evil.example", "\xe9vil.example", "a" * 300]


@pytest.mark.parametrize("host", WRONG_HOSTS)
def test_other_names_do_not_lead_here(host):
    with pytest.raises(ValueError, match=r"--origin=http://|no name or address"):
        check(Visitors("127.0.0.1"), Host=host)


def test_a_request_names_one_host():
    for hosts in ((), ("localhost", "evil.example"), ("localhost", "localhost")):
        with pytest.raises(ValueError, match="one Host"):
            check(Visitors("127.0.0.1"), Host=hosts)
    check(Visitors("127.0.0.1"), "http://localhost:80/about", Host="localhost:80")
    for target in ("http://evil.example/about", "http://localhost:81/about", "http://localhost@evil.example/"):
        with pytest.raises(ValueError, match=r"Host|no name"):
            check(Visitors("127.0.0.1"), target, Host="localhost:80")


def test_all_networks_answer_to_numbers_and_the_machine_s_names_alone(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.lan")
    monkeypatch.setattr(socket, "getfqdn", lambda: "box.corp.example")
    visitors = Visitors("0.0.0.0")
    for host in ("10.0.0.5:8080", "[2001:db8::5]:8080", "[fe80::1%25eth0]:8080", "box", "BOX.local", "box.lan"):
        check(visitors, Host=host)
    check(visitors, Host="box.corp.example:8080", Origin="http://box.corp.example:8080")
    for host in ("evil.example", "box.evil.example", "10.0.0.5.evil.example"):
        with pytest.raises(ValueError, match=f"--origin=http://{host}"):
            check(visitors, Host=host)
        with pytest.raises(ValueError, match=f"--origin=https://{host}"):
            check(visitors, Host=host, X_Forwarded_Proto="https")


@pytest.mark.parametrize("host", ["localhost:8080", "paint.example.org", "PAINT.example.org:443"])
def test_an_outer_origin_is_the_page_s_own(host):
    """Whether the proxy rewrites the Host or not."""
    check(Visitors("127.0.0.1", [f"{OUTER}/"]), Host=host, Origin=OUTER, Sec_Fetch_Site="same-origin")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://paint.example.org",
        "https://paint.example.org:8443",
        "https://evil.example",
        "http://localhost:81",
    ]
    + [
        "https://paint.example.org.evil.example",
        "https://paint.example.org@evil.example",
        "file://",
        "",
        "http://[::1",
    ],
)
def test_other_origins_are_refused(origin):
    visitors = Visitors("127.0.0.1", [OUTER])
    with pytest.raises(ValueError, match="requests come from the page itself only") as told:
        check(visitors, Host="localhost:8080", Origin=origin)
    assert ("--origin" in str(told.value)) == (
        urlsplit(origin.replace("[", "")).scheme in ("http", "https") and "@" not in origin and "[" not in origin
    )
    with pytest.raises(ValueError, match="one Origin"):
        check(visitors, Host="localhost:8080", Origin=(OUTER, OUTER))


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "unheard-of"])
def test_what_a_browser_says_is_from_elsewhere_is_refused(site):
    visitors = Visitors("127.0.0.1")
    with pytest.raises(ValueError, match=site.lower()):
        check(visitors, Host="localhost", Sec_Fetch_Site=site)
    check(
        visitors, opens=True, Host="localhost", Sec_Fetch_Site=site, Origin="https://chat.example"
    )  # a link to the page
    with pytest.raises(ValueError, match="does not answer to the name"):
        check(visitors, opens=True, Host="evil.example", Sec_Fetch_Site=site)
    for own in ("same-origin", "none"):
        check(visitors, Host="localhost", Sec_Fetch_Site=own)


@pytest.mark.parametrize(
    "text", ["paint.example.org", "*", "null", "", "ftp://x", "https://", "https://a b", "https://x/?y", "https://u@x"]
)
def test_what_is_no_origin_is_told(text):
    with pytest.raises(ValueError, match="as the browser shows it"):
        Visitors("127.0.0.1", [text])


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_all_addresses_are_relative_and_a_path_that_stays_is_left_out(model):
    with serving(model) as page:
        port = page.server_address[1]
        for name in ("/", "/page.js", "/easel.js", "/files.js"):
            text = get(port, name)[1]
            assert 'href="/' not in text and 'src="/' not in text and 'ask("/' not in text and 'from "/' not in text
        assert "--origin= and its address in the browser, path included" in get(port, "/paint/page.js")[1]
        assert "sha256-" in ask(page, "GET", "/")[2]["Content-Security-Policy"]
        assert get(port, "/about", Sec_Fetch_Site="cross-site")[0] == 400
        assert get(port, "/", Sec_Fetch_Site="cross-site")[0] == 200
        page.visitors = Visitors("127.0.0.1", ["https://hub.example.org/user/me@x/proxy/absolute/8080/"])
        for before in ("/user/me@x/proxy/absolute/8080", "/user/me%40x/proxy/absolute/8080", ""):
            for name in ("/", "/page.js", "/about", "" if before else "/"):
                assert get(port, before + name)[0] == 200
        assert get(port, "/user/me@x/proxy/absolute/8080x/page.js")[0] == 404


def test_an_absolute_target_and_odd_lines_are_answered(model):
    with serving(model) as page:
        for target, host, status in (
            ("http://localhost/about", "localhost", b"200"),
            ("http://evil.example/about", "localhost", b"400"),
            ("/about", "evil.example", b"400"),
            ("http://[::1/about", "localhost", b"400"),
            ("//evil.example/about", "localhost", b"404"),
        ):
            with socket.create_connection(page.server_address[:2], timeout=300) as client:
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert client.recv(4096).split(b" ")[1] == status


def test_it_is_served_by_ipv6(model):
    try:
        there = listen("::1", 0)
    except ValueError:
        pytest.skip("this machine has no IPv6")
    with there, PageServer([model], there) as page:
        page.timeout = 300
        with socket.create_connection(there.getsockname()[:2], timeout=300) as client:
            client.sendall(b"GET /about HTTP/1.1\r\nHost: [::1]:8080\r\nOrigin: http://[0:0:0:0:0:0:0:1]:8080\r\n\r\n")
            page.handle_request()
            with client.makefile("rb") as sent:
                answer = sent.read()
    assert answer.split(b" ")[1] == b"200" and json.loads(answer.split(b"\r\n\r\n")[1])["models"]
