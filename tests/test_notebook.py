"""Progress in a notebook: a real kernel, and the messages that its page would show."""

from __future__ import annotations

import queue
import sys

import pytest

jupyter_client = pytest.importorskip("jupyter_client", reason="needs ipykernel")
pytest.importorskip("ipykernel", reason="needs ipykernel")
pytest.importorskip("ipywidgets", reason="needs ipywidgets")

CELL = """
{hidden}
from bigreg.display import shown
with shown(True, "run.zarr") as told:
    told.plan([("a", "estimate", 2), ("b", "stitch", 1)])
    for name, title, blocks in (("a", "estimate", 2), ("b", "stitch", 1)):
        told.stage(name, title, blocks, 0)
        for index in range(blocks):
            told.block(name, 2, (index, 0, 0))
            told.bars.refresh()
        told.finish(name)
"""
HIDDEN = "import bigreg.display; bigreg.display.find_spec = lambda name: None"


@pytest.fixture(scope="module")
def kernel():
    manager = jupyter_client.KernelManager(
        kernel_cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    )
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=240)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def shown_by(client, code) -> list[dict]:
    """The contents of all messages with something to show, in order."""
    asked = client.execute(code)
    found = []
    while True:
        try:
            message = client.get_iopub_msg(timeout=240)
        except queue.Empty:
            pytest.fail("the kernel does not answer")
        if message["parent_header"].get("msg_id") != asked:
            continue
        content = message["content"]
        if message["msg_type"] == "error":
            pytest.fail("\n".join(content["traceback"]))
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return found
        if message["msg_type"] == "display_data":
            found.append(content["data"])
        elif message["msg_type"] == "stream":
            found.append({"text/plain": content["text"]})


def test_a_notebook_has_a_bar_that_fills(kernel):
    found = shown_by(kernel, CELL.format(hidden=""))
    assert "application/vnd.jupyter.widget-view+json" in found[0]
    pages = [data["text/html"] for data in found if "text/html" in data]
    counts = [next((n for n in range(4) if f"{n}/3" in page), None) for page in pages]
    known = [count for count in counts if count is not None]
    assert known == sorted(known) and known[-1] == 3 and len(set(known)) > 2
    assert any("━" in page for page in pages) and any("estimate" in page for page in pages)


def test_a_notebook_without_widgets_has_a_line_for_each_stage(kernel):
    found = shown_by(kernel, CELL.format(hidden=HIDDEN))
    text = "".join(data.get("text/plain", "") for data in found)
    assert "estimate: 2 blocks, " in text and "stitch: 1 block, " in text
    assert not any("widget" in kind for data in found for kind in data)
