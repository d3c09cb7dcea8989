"""The cache folder, and what becomes of everything without one."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs import ALEXNET, ONE_THREAD, records

from alexnet.cli import main
from alexnet.pca.compute import compute_stats
from alexnet.pca.stats import RgbStats
from alexnet.pipeline import cache
from alexnet.pipeline.cache import cache_folder, cache_problem, can_keep, needed_cache
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import UserError
from alexnet.pipeline.machine import doctor
from alexnet.pipeline.synthetic.generate import generated_dataset
from alexnet.train.config import Config
from alexnet.train.resume import choose_run_dir
from alexnet.train.treatment import stats_for_training

pytestmark = pytest.mark.usefixtures("quiet_machine")

UNKNOWN_UID = "12345"
# Another user, without rights to write. It may read everything, since Python may be in root's own folders.
AS_UNKNOWN = (
    f"setpriv --reuid {UNKNOWN_UID} --regid {UNKNOWN_UID} --clear-groups "
    "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
).split()
NO_HOME = "There is no home folder to keep a cache in"


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ALEXNET_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/")
    cache._warn_once.cache_clear()
    yield
    cache._warn_once.cache_clear()


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that can be read only; root may write anywhere, so the answer is made up."""
    folder, access = tmp_path / "shared", os.access
    folder.mkdir()
    monkeypatch.setenv("ALEXNET_CACHE", str(folder))
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    return folder


def test_it_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ALEXNET_CACHE")
    assert cache_folder() == tmp_path / "xdg/alexnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache/alexnet"
    assert cache_problem() == ""


def test_without_a_home_there_is_none(no_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (cache_folder(), cache_problem()) == (None, NO_HOME)

    def unknown_uid() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown_uid)
    assert (cache_folder(), cache_problem()) == (None, NO_HOME)


@pytest.mark.parametrize("place", ["file", "file/below", "closed/below"])
def test_where_it_cannot_be_made_there_is_none(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / place))
    assert cache_problem() == f"The cache folder {tmp_path / place} cannot be written"
    with pytest.raises(UserError, match=f"{place} cannot be written. It is needed. Set ALEXNET_CACHE to"):
        needed_cache("It is needed.")


def test_the_note_comes_once(no_home: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert [can_keep(), can_keep()] == [False, False]
    note = f"{NO_HOME}, so nothing is kept for next time. Set ALEXNET_CACHE to a writable folder."
    assert [record.getMessage() for record in caplog.records] == [note]


def test_lists_of_images_are_made_anew(
    no_home: None, colour_tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("alexnet.pipeline.dataset.open.CACHE_FROM_IMAGES", 1)
    with caplog.at_level(logging.WARNING):
        fingerprints = {open_dataset(colour_tree, "train").fingerprint for _ in range(2)}
    assert len(fingerprints) == 1
    assert caplog.text.count(NO_HOME) == 1


def test_what_others_have_kept_is_read(
    colour_tree: Path, tmp_path: Path, read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics in a folder that only an administrator writes serve all the ranks of a mesh."""
    dataset = open_dataset(colour_tree, "train")
    ours = compute_stats(dataset, work_dir=None, settings=ONE_THREAD)
    ours.save(read_only / "stats" / f"{dataset.fingerprint}-centre.json")
    found = stats_for_training(Config(), dataset, None, lambda: pytest.fail("computed again"), num_ranks=2)
    assert found is not None
    assert found.fingerprint == ours.fingerprint
    assert [path.name for path in read_only.iterdir()] == ["stats"]


def test_statistics_of_one_process_need_none(read_only: Path, colour_tree: Path) -> None:
    """A pass that keeps no state gives what one gives that does."""
    dataset = open_dataset(colour_tree, "train")
    found = stats_for_training(
        Config(), dataset, None, lambda: compute_stats(dataset, work_dir=None, settings=ONE_THREAD)
    )
    kept = compute_stats(dataset, work_dir=read_only, settings=ONE_THREAD)
    assert found is not None
    assert found.to_dict() == kept.to_dict()


def refused(run: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    return str(caught.value)


def test_what_cannot_do_without_says_so_first(no_home: None, colour_tree: Path) -> None:
    dataset, advice = open_dataset(colour_tree, "train"), "Set ALEXNET_CACHE to a writable folder."

    def compute() -> RgbStats:
        raise AssertionError("hours of work for nothing")

    message = refused(lambda: stats_for_training(Config(), dataset, None, compute, num_ranks=2))
    assert message.startswith(f"{NO_HOME}. Ranks find the statistics there, unless --stats FILE")
    assert message.endswith(advice)
    message = refused(lambda: generated_dataset(3))
    assert message == f"{NO_HOME}. The JPEGs generated when no DATA is given go there. {advice}"
    result = CliRunner().invoke(main, ["pca-stats", "no/such/folder"])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {NO_HOME}. Without --out FILE, the statistics go there. {advice}\n"


@pytest.mark.parametrize("named", ["step-00000003.npz", "./step-00000003.npz", "../checkpoints/step-00000003.npz"])
def test_a_checkpoint_belongs_to_its_run(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run/checkpoints")
    assert choose_run_dir(None, named, None).resolve() == tmp_path / "run"


def test_what_must_be_written_needs_more_than_reading(read_only: Path) -> None:
    assert cache_folder() == read_only
    assert refused(lambda: needed_cache("It is needed.")).startswith(f"The cache folder {read_only} cannot be written.")


def test_the_doctor_says_so(no_home: None) -> None:
    finding = doctor._examine("cache folder", doctor.PROBES["cache folder"])
    assert (finding.status, finding.found) == ("missing", NO_HOME)
    assert "ALEXNET_CACHE" in finding.remedy


def test_results_that_cannot_be_written_are_refused_before_the_work(read_only: Path) -> None:
    for option in ("--out", "--plot"):
        result = CliRunner().invoke(main, ["pca-stats", "no/such/folder", option, str(read_only / "new/stats.png")])
        assert result.exit_code == 2
        assert f"the folder of '{read_only}/new/stats.png' is not writable." in result.stderr
    with pytest.raises(UserError, match=r"The run folder .* is not writable. Choose another with --run DIR."):
        choose_run_dir(read_only / "run", None, None)


def test_training_as_a_user_that_the_system_does_not_know(colour_tree: Path) -> None:
    """As in a container that is started with a number for a user."""
    if shutil.which("setpriv") is None or subprocess.run([*AS_UNKNOWN, "true"], capture_output=True).returncode:
        pytest.skip("only root can become another user, with setpriv")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "ALEXNET_CACHE", "XDG_CACHE_HOME", "USER", "LOGNAME")
    }
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        shutil.copytree(colour_tree, tree := Path(folder) / "data")
        tree.chmod(0o755)
        os.chown(folder, int(UNKNOWN_UID), -1)
        options = "--width 0.02 --batch-size 8 --epochs 1 --threads 1 --device cpu".split()
        command = [*AS_UNKNOWN, *ALEXNET, "train", str(tree), "--run", f"{folder}/run", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(NO_HOME) == done.stderr.count("ALEXNET_CACHE") == 1
        assert records(Path(folder) / "run")[-1]["kind"] == "val"
