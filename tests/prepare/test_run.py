"""A script ends with one sentence and status 2."""

import pytest

from divek_verl.errors import SetupError
from divek_verl.prepare import run_script


def test_wrong_input_ends_with_its_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise SetupError("Do this instead.")

    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: Do this instead.\n"
