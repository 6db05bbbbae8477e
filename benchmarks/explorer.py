"""The explorer in headless Chromium: time from a slider's move to the changed figure, time to the first figure, memory of the server.

    python benchmarks/explorer.py [--moves 20] [--query curves=besiroglu2024]

A move is a key press on a slider; its time runs in the browser, from the key's event to the frame after the penalty figure is drawn.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from scaling.output import say, table
from tests.scaling.browser import ARGUMENTS, chromium

SLIDERS = ("structure", "data", "flops", "unique_tokens", "overtraining")
WATCH = """() => {
  window.moves = [];
  let pressed = null;
  document.addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
  document.querySelector("#figure-penalty .js-plotly-plot").on("plotly_afterplot", () => {
    const start = pressed;
    if (start !== null) {
      pressed = null;
      requestAnimationFrame(() => setTimeout(() => window.moves.push(performance.now() - start), 0));
    }
  });
}"""


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20, help="of each slider")
    parser.add_argument("--query", default="")
    chosen = parser.parse_args()
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("isoloss")), "explore", "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+/", server.stdout.readline())
        assert found, "the server did not start"
        listening = time.perf_counter() - started
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(f"{found[0]}?{chosen.query}")
            page.wait_for_selector("#figure-penalty .js-plotly-plot")
            first = time.perf_counter() - started
            page.wait_for_function(
                "() => document.querySelector('#reading').textContent && document.querySelector('#figure-cost .js-plotly-plot')"
            )
            page.evaluate(WATCH)
            rows, every = [], []
            before = _cpu_seconds(server.pid)
            for name in SLIDERS:
                page.focus(f'input[type=range][id*="\\"{name}\\""]')
                for place in range(chosen.moves):
                    page.keyboard.press("ArrowLeft" if place < chosen.moves // 2 else "ArrowRight")
                    page.wait_for_function(f"window.moves.length > {place}", polling=5)
                times = np.array(page.evaluate("window.moves"))
                page.evaluate("window.moves.length = 0")
                every.extend(times)
                rows.append(
                    {"slider": name, "moves": len(times), "median, ms": np.median(times), "95th percentile, ms": np.quantile(times, 0.95)}
                )
            rows.append(
                {"slider": "all", "moves": len(every), "median, ms": np.median(every), "95th percentile, ms": np.quantile(every, 0.95)}
            )
            used = [(after - start) / len(every) * 1e3 for start, after in zip(before, _cpu_seconds(server.pid), strict=True)]
            browser.close()
        table(
            [{key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()} for row in rows],
            "a slider's move to the changed figure",
        )
        say(
            f"server listens after {listening:.1f} s, first figure after {first:.1f} s (compiled programs kept from an earlier start are used)"
        )
        say(f"CPU time a move, which other work on the machine does not change: server {used[0]:.0f} ms, browser {used[1]:.0f} ms")
        say(f"memory of the server: {_memory(server.pid):.0f} MB resident")
    finally:
        server.terminate()
        server.wait()


def _cpu_seconds(server: int) -> tuple[float, float]:
    """CPU seconds so far of the server, and of all other processes that this one started (the browser's)."""
    parents, times = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(folder.name)
        parents[pid], times[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    own = {os.getpid()}
    for _ in range(10):  # generations
        own |= {pid for pid, parent in parents.items() if parent in own}
    return times[server], sum(times[pid] for pid in own - {server, os.getpid()})


def _memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1e3 if found else float("nan")


if __name__ == "__main__":
    main()
