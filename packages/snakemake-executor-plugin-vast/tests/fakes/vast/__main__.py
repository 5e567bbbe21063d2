"""Play by hand: `python -m fakes.vast --port 8900`, then use VAST_URL and VAST_API_KEY."""

import argparse
import signal

from . import FakeVast, what_is_missing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fakes.vast", description=__doc__)
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--time-scale", type=float, default=1.0, metavar="X")
    parser.add_argument("--balance", type=float, default=100.0, metavar="DOLLARS")
    parser.add_argument("--no-limits", action="store_true", help="no rate limits")
    chosen = parser.parse_args()
    if missing := what_is_missing():
        parser.exit(1, f"{missing}\n")
    with FakeVast(
        chosen.time_scale, balance=chosen.balance, limits=not chosen.no_limits, port=chosen.port
    ) as fake:
        for name, value in fake.environment.items():
            print(f"export {name}={value}")
        print(f"# state: curl {fake.url}/fake/   faults: POST {fake.url}/fake/fault", flush=True)
        stop = {signal.SIGINT, signal.SIGTERM}
        signal.sigwait(stop)


if __name__ == "__main__":
    main()
