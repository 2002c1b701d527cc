"""`lookaway fit` stopped by Ctrl-C and by the system: what it leaves, and what the same command comes to."""

import os
import signal
import subprocess
import sys
import time

from fit_cases import arguments, record_of

import lookaway as la


def test_ctrl_c_leaves_the_best_so_far_usable_and_the_same_command_goes_on(
    call, model_folder, answered, loaded, tmp_path, monkeypatch
):
    from lookaway.search.fit.sample_runs import SampleRuns

    whole = ("--methods", "reduction", "--shares", 0.9, "--shares", 0.5, "--shares", 0.2, "--halvings", 0)
    original, count = SampleRuns.outcomes, [0]

    def interrupted(self, policy):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return original(self, policy)

    monkeypatch.setattr(SampleRuns, "outcomes", interrupted)
    status, printed, error = call(*arguments(model_folder, answered, tmp_path / "fit", *whole))
    assert status == 130
    assert "same command goes on" in error
    best = tmp_path / "fit" / "best-so-far"
    assert "best so far (not certified" in " ".join(printed.split())
    assert "**Not certified.**" in (best / "README.md").read_text()
    with la.attach(loaded[0], la.load(best)):
        pass
    monkeypatch.setattr(SampleRuns, "outcomes", original)
    assert call(*arguments(model_folder, answered, tmp_path / "fit", *whole))[0] == 0
    assert not best.exists()
    assert call(*arguments(model_folder, answered, tmp_path / "other", *whole))[0] == 0
    assert record_of(tmp_path / "fit")["chosen"] == record_of(tmp_path / "other")["chosen"]


def test_a_fit_that_was_killed_by_the_system_comes_to_the_same_choice(call, model_folder, answered, tmp_path):
    more = ("--methods", "reduction", "--methods", "second-look", "--shares", 0.1, "--shares", 0.3, "--shares", 0.5,
            "--shares", 0.8, "--halvings", 0)  # fmt: skip
    command = [sys.executable, "-m", "lookaway", *map(str, arguments(model_folder, answered, tmp_path / "fit", *more))]
    journal = tmp_path / "fit" / "trials.journal"
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        for _ in range(6000):
            if journal.exists() and journal.read_text().count('"same"') >= 2:  # the full model and one trial are done
                break
            if process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert journal.read_text().count('"same"') >= 2
    assert call(*arguments(model_folder, answered, tmp_path / "fit", *more))[0] == 0
    assert call(*arguments(model_folder, answered, tmp_path / "other", *more))[0] == 0
    first, second = record_of(tmp_path / "fit"), record_of(tmp_path / "other")
    assert first["chosen"] == second["chosen"]
    assert first["certificate"] == second["certificate"]
