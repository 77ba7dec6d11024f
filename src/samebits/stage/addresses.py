"""Where the first machine of a training listens, and how the others get there."""

import socket
from dataclasses import dataclass
from datetime import timedelta

import psutil
from torch.distributed import Store, TCPStore
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from samebits.errors import UserError, printable

ANSWER_SECONDS = 10.0
STORE_TIMEOUT = timedelta(seconds=30)


class LostError(UserError):
    """The first machine does not answer, or no longer."""


@dataclass(frozen=True)
class Address:
    """Where the first machine listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str, what: str) -> Address:
    """Return the address HOST:PORT. Raises UserError, which names it as `what`, if it is none."""
    try:
        host, port = parse_rendezvous_endpoint(text, default_port=0)
        host.encode("idna")  # as sockets do: they raise no OSError for a name such as a..b
    except ValueError:
        port = 0
    if port < 1:
        raise UserError(f"{what} is {printable(text)!r}: must be HOST:PORT, such as 192.168.1.10:29400")
    return Address(host, port)


def listen(address: Address) -> tuple[Store, str]:
    """Return a store that this machine holds at `address` alone, and the name of the network interface.

    Raises UserError if the port is in use or the host is not this machine.
    """
    try:
        family, *_, resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        server = socket.create_server(resolved[:2], family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen at {address} ({str(error.strerror).partition(' (')[0]}): SAMEBITS_LISTEN must name an address of this machine and a free port"
        ) from None
    interface = _interface(server.getsockname()[0])
    store = TCPStore(
        address.host,
        address.port,
        is_master=True,
        timeout=STORE_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=server.detach(),  # TCPStore itself would listen on every interface
    )
    return store, interface


def find(address: Address) -> str:
    """Return the name of the network interface that leads to `address`. Raises LostError if nobody listens there."""
    try:
        with socket.create_connection((address.host, address.port), timeout=ANSWER_SECONDS) as connection:
            return _interface(connection.getsockname()[0])
    except ConnectionRefusedError:
        reason = (
            "no training listens there, or not yet: start it with SAMEBITS_LISTEN on the first machine, or use --wait"
        )
    except TimeoutError:
        reason = f"nothing answers within {ANSWER_SECONDS:.0f} seconds: is the address right, and does a firewall let it through?"
    except socket.gaierror:
        reason = "this name is not known here"
    except OSError as error:
        reason = str(error.strerror)
    raise LostError(f"{address}: {reason}")


def _interface(ip: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == ip for each in addresses):
            return name
    raise UserError(f"{ip} is not the address of one network interface: name the one that the other machines reach")
