"""What all tests share: real data, determinism, hypothesis profiles."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
import torch

# No deadline: the first call of a compiled operation may be slow on a busy machine. In CI the same examples each time.
hypothesis.settings.register_profile("bigreg", deadline=None, max_examples=25)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("bigreg"), derandomize=True, print_blob=True, database=None
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "bigreg")


def _qt() -> bool:
    """Whether Qt and pytest-qt can be loaded: packages may be there whose system libraries are not."""
    os.environ.setdefault("QT_API", "pyside6")
    try:
        for name in ("PySide6.QtWidgets", "PySide6.QtTest", "pytestqt"):
            importlib.import_module(name)
    except ImportError:
        return False
    return True


# What takes longest, most first: begun last, one of them would keep one worker busy when the others have nothing left.
# The trainings are second: while they go on the first file compiles the sweeps of a start, and each sweep that it has
# compiled the other worker finds in the cache.
LONGEST = (
    "pipeline/test_found_or_refused.py",
    "training/test_adversarial_learning.py",
    "training/test_learning.py",
    "pipeline/test_faults.py",
    "engines/test_affine.py",
    "pipeline/schedule/test_cluster_faults.py",
    "pipeline/context/test_masks.py",
    "pipeline/test_channels.py",
    "pipeline/choosing/test_doctor.py",
    "pipeline/tasks/test_preprocess.py",
    "pipeline/results/test_pieces.py",
    "pipeline/tasks/test_pairing.py",
    "pipeline/test_register.py",
    "pipeline/test_remote.py",
    "test_cli.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Where files are distributed over workers, each worker has one core, and the files keep the order given below."""
    if getattr(config.option, "numprocesses", None):
        config.option.loadscopereorder = False  # which would begin last what has few tests, as long as they may be
        # The workers inherit it. Threads of one that wait for those of another take its core while they do.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not torch.cuda.is_available():  # before anything imports Triton
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    place = {here / name: -len(LONGEST) + number for number, name in enumerate(LONGEST)}
    if absent := [str(path) for path in place if not path.is_file()]:
        raise pytest.UsageError(f"LONGEST in {__file__} names files that are not there: {', '.join(absent)}")
    items.sort(key=lambda item: place.get(item.path, 0))


pytest_plugins = ["pytestqt.plugin"] if _qt() else []


@pytest.fixture(autouse=True)
def _clean_themes():
    """In place of napari's, which would load napari in every test of this package."""


@pytest.fixture(autouse=True)
def _disable_qt_warnings():
    """The same."""


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the real volumes: BIGREG_TEST_DATA, else shared/data beside the repository; skips where absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BIGREG_TEST_DATA", beside))
    folder = folder.resolve()
    if not folder.is_dir():
        pytest.skip(f"no real volumes at {folder}; set BIGREG_TEST_DATA to their folder")
    return folder


@pytest.fixture
def one_thread():
    """What is small is quicker on one thread, and on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class S3:
    """A server of the S3 protocol in this process with the bucket `bucket`; the environment leads to it.

    requests    (method, path) of all that came in
    keys        whose they were (access key ids)
    refuse      asked about each of them; where it says so the server is too busy (503)
    """

    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    refuse: Callable[[str, str], bool] | None = None

    def answer(self, app, environ, start_response):
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(request)
        self.keys.add(environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0])
        if self.refuse is not None and self.refuse(*request):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return []
        return app(environ, start_response)


@pytest.fixture(scope="session")
def s3_server():
    pytest.importorskip("moto", reason="needs the extra 'test'")
    import boto3
    from moto.server import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *args):
            pass

    app, state = create_backend_app("s3"), S3()
    server = make_server("127.0.0.1", 0, lambda *request: state.answer(app, *request), True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ENDPOINT_URL": state.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "known-to-few",
        "AWS_SECRET_ACCESS_KEY": "known-to-nobody",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield state
    server.shutdown()


@pytest.fixture
def s3(s3_server):
    """An S3 server that is well."""
    s3_server.requests.clear()
    s3_server.keys.clear()
    s3_server.refuse = None
    yield s3_server
    s3_server.refuse = None
