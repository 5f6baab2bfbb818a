"""``results.json``: one documented format, written whole, read strictly."""

import json
from pathlib import Path

import pytest

from divek_verl.errors import SetupError
from divek_verl.evaluation.results import Results, read_results, versions, write_results

from .fabricated_results import results


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = write_results(results(), tmp_path)
    assert read_results(path) == read_results(tmp_path) == results()
    assert write_results(read_results(path), tmp_path).read_bytes() == path.read_bytes()


def test_the_schema_describes_every_number_of_a_group() -> None:
    schema = Results.model_json_schema()
    fields = schema["$defs"]["Group"]["properties"]
    plain = {"data_source", "dataset", "side", "per_class"}
    assert all("description" in field for name, field in fields.items() if name not in plain)
    assert all("description" in field for field in schema["$defs"]["Estimate"]["properties"].values())


def test_a_file_obeys_its_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    written = json.loads(write_results(results(), tmp_path).read_text())
    jsonschema.validate(written, Results.model_json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "surprise": 1}, Results.model_json_schema())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "divek-evaluation-0"}'])
def test_another_file_is_refused_in_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(SetupError, match="is no divek-evaluation-2") as error:
        read_results(tmp_path)
    assert "\n" not in str(error.value)


def test_the_versions_are_those_that_are_installed() -> None:
    import numpy

    from divek_verl import __version__

    assert (versions()["numpy"], versions()["divek_verl"]) == (numpy.__version__, __version__)
