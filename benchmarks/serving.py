"""Loads a web service: measures latency, clients that leave, uploads that stall, and SIGTERM.

    python -m benchmarks.serving runs/flickr8k photos
    python -m benchmarks.serving runs/flickr8k photos --service old_service.py

Starts the service with uvicorn on a free port of 127.0.0.1, and posts the files of a folder to
/caption. Memory is read from /proc, so it needs Linux; and two cores, one of them for the clients. It
takes up to two minutes. Prints the rows of docs/explain/benchmarks.md, with the numbers of responses
by status.
"""

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
START, ANSWER = 60.0, 60.0  # time limits in seconds of the first response, and of others
CLIENTS, SECONDS = (1, 8, 32), 10.0  # numbers of clients, and seconds of load for each
LEAVING, STALLED, LIVE = 200, 40, 100
PAUSE = 0.5  # seconds until requests have reached the service
STALL = 40.0  # seconds for which stalled uploads are watched
LENGTH, SENT = 19_500_000, 19_000_000  # bytes of a stalled upload: announced, sent


class Service:
    """A service in a child process. It inherits a listening socket, so that requests may arrive
    before it is ready.
    """

    def __init__(self, file: Path, run: Path) -> None:
        listening = socket.create_server((HOST, 0), backlog=1024)
        self.port: int = listening.getsockname()[1]
        quiet = ["--log-level", "critical", "--no-access-log"]
        app = f"{file.stem}:app"
        command = [sys.executable, "-m", "uvicorn", app, "--fd", str(listening.fileno()), *quiet]
        paths = os.pathsep.join([str(file.parent.resolve()), str(ROOT)])
        variables = {"RUN": str(run.resolve()), "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=os.environ | variables, pass_fds=[listening.fileno()]
        )
        listening.close()

    @property
    def megabytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text().split()
        return int(status[status.index("VmRSS:") + 1]) / 1000

    async def send(self, content: bytes, length: int | None = None) -> "Connection":
        connection = await asyncio.open_connection(HOST, self.port)
        connection[1].write(request(content, length))
        return connection


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(content: bytes, length: int | None = None) -> bytes:
    head = f"POST /caption HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length or len(content)}"
    return head.encode() + b"\r\n\r\n" + content


async def status(connection: Connection) -> str:
    """The status of a response, which is read to its end; or ``closed``."""
    try:
        head = (await connection[0].readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        await connection[0].readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return "closed"
    return head.split()[1].decode()


async def load(service: Service, pictures: Sequence[bytes], clients: int) -> None:
    """Measure clients that each send a picture as soon as the last one is answered."""
    times: list[float] = []
    statuses = Counter[str]()
    start = time.perf_counter()

    async def client(number: int) -> None:
        connection = await asyncio.open_connection(HOST, service.port)
        while (sent := time.perf_counter()) < start + SECONDS:
            connection[1].write(request(pictures[number % len(pictures)]))
            response = await asyncio.wait_for(status(connection), ANSWER)
            statuses[response] += 1
            if response == "closed":
                break
            times.append(time.perf_counter() - sent)
            number += clients
        connection[1].close()

    await asyncio.gather(*map(client, range(clients)))
    seconds = time.perf_counter() - start
    percentiles = statistics.quantiles(times, n=100)
    title = f"{clients} client{'s' if clients > 1 else ''}"
    print_row(f"{title}: answers a second", len(times) / seconds, counts_text(statuses))
    print_row(f"{title}: median", percentiles[49] * 1000, "ms")
    print_row(f"{title}: 99th percentile", percentiles[98] * 1000, "ms")
    print_row(f"memory with {title}", service.megabytes, "MB")


async def leaving(service: Service, picture: bytes) -> None:
    """Measure how long a client retries until it is served, after many others have left."""
    connections = [await service.send(picture) for _ in range(LEAVING)]
    await asyncio.sleep(PAUSE)
    close(connections)
    start, statuses = time.perf_counter(), Counter[str]()
    while not statuses["200"]:
        connection = await service.send(picture)
        statuses[await asyncio.wait_for(status(connection), ANSWER)] += 1
        close([connection])
    seconds = time.perf_counter() - start
    print_row(
        f"a caption after {LEAVING} clients have left", seconds, f"s ({counts_text(statuses)})"
    )


async def stalled(service: Service) -> None:
    """Measure the memory of uploads that never finish, and when the service ends them."""
    connections = [await service.send(bytes(SENT), LENGTH) for _ in range(STALLED)]
    start = time.perf_counter()
    answers = [asyncio.create_task(status(connection)) for connection in connections]
    await asyncio.sleep(4 * PAUSE)
    print_row(f"memory with {STALLED} uploads that stall", service.megabytes, "MB")
    _, pending = await asyncio.wait(answers, timeout=start + STALL - time.perf_counter())
    statuses = Counter(task.result() for task in answers if task.done())
    seconds, rest = time.perf_counter() - start, f"; {len(pending)} still stall" if pending else ""
    unit = f"s ({counts_text(statuses)}{rest})"
    print_row("time until stalled uploads are ended", seconds, unit)
    close(connections)
    await asyncio.gather(*answers)


async def terminated(service: Service, picture: bytes) -> None:
    """Measure how long the service takes to exit with many open requests, and their statuses."""
    connections = [await service.send(picture) for _ in range(LIVE)]
    answers = asyncio.gather(*map(status, connections))
    await asyncio.sleep(PAUSE)
    start = time.perf_counter()
    service.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(service.process.wait, ANSWER)
    seconds = time.perf_counter() - start
    unit = f"s ({counts_text(Counter(await answers))})"
    print_row(f"exit at SIGTERM with {LIVE} requests", seconds, unit)
    close(connections)


def close(connections: Sequence[Connection]) -> None:
    for _, writer in connections:
        writer.transport.abort()


def counts_text(statuses: Counter[str]) -> str:
    return "; ".join(f"{count} x {code}" for code, count in sorted(statuses.items()))


def print_row(title: str, value: float, unit: str) -> None:
    print(f'"{title}",{value:.3g},{unit}', flush=True)


async def measure(service: Service, pictures: Sequence[bytes]) -> None:
    first = await service.send(pictures[0])
    await asyncio.wait_for(status(first), START)
    close([first])
    for clients in CLIENTS:
        await load(service, pictures, clients)
    await leaving(service, pictures[0])
    await stalled(service)
    await terminated(service, pictures[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, help="a folder of picture files")
    parser.add_argument("--service", type=Path, default=ROOT / "docs" / "howto" / "service.py")
    arguments = parser.parse_args()
    pictures = [
        path.read_bytes() for path in sorted(arguments.pictures.iterdir()) if path.is_file()
    ]
    service = Service(arguments.service, arguments.run)
    try:
        asyncio.run(measure(service, pictures))
    finally:
        service.process.kill()
        service.process.wait()


if __name__ == "__main__":
    main()
