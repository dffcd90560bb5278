"""The benchmarks run where there is no /proc, as on macOS, and keep what they have measured when a task fails."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as program
from benchmarks import peak, report
from benchmarks.tasks import Result, Settings


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing below /proc be read."""
    read = Path.read_text

    def read_text(path: Path, *args: str, **options: str) -> str:
        if path.is_relative_to("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.usefixtures("without_proc")
def test_peak_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10 < peak.peak_mib() < 1e6
    monkeypatch.setattr(peak.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 * 2**20))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak.peak_mib() == 300


@pytest.mark.usefixtures("without_proc")
def test_a_task_that_fails_is_named_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def works(settings: Settings) -> Iterator[Result]:
        yield Result("encode", "mlx_hf_bridge float32", 12.0, "texts/s", 1.5, (1.4, 1.6))

    def fails(settings: Settings) -> Iterator[Result]:
        yield Result("encode more", "mlx_hf_bridge float32", 3.0, "texts/s", 1.1, (1.0, 1.2))
        # What the first task has found is on disk by now.
        assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == 1
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr(program, "TASKS", {"works": works, "fails": fails})
    monkeypatch.setattr(program, "encoders", lambda model: ({}, {}))
    machine = {"system": "s", "device": "d", "cores": 2, "backend": "metal", "speeds": {"float32": 1.0}, "versions": {}}
    monkeypatch.setattr(program, "machine_info", lambda: machine)
    monkeypatch.setattr(report, "draw", lambda path, results: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--model", "m", "--only", "works,fails", "--output", str(tmp_path)])
    program.main()
    found = json.loads((tmp_path / "results.json").read_text())
    assert [result["task"] for result in found["results"]] == ["encode", "encode more"]
    assert "task fails" in (tmp_path / "results.md").read_text()
    assert "-- fails: 0 s, failed: FileNotFoundError" in capsys.readouterr().out
