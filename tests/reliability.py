"""Print the table of attacks and faults on docs/reliability.md: how many of each kind are tried, and how many survive.

python tests/reliability.py                 # all kinds
python tests/reliability.py pickles cache   # some

A case is one test of the suite, with one file, path, argument or fault that is meant to do harm. It survives if the
test passes: one clear error, or the right result, without harm. The exit code is 1 if one does not.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Kind:
    """One kind of attack or fault: what it does, and the tests (a file, or FILE::TEST) whose cases try it."""

    what: str
    tests: tuple[str, ...]


_HOSTILE, _PATHS, _SIZES = "test_hostile_files.py", "test_repo_paths.py", "test_config_sizes.py"
_CACHE, _FAULTS, _COMMAND = "test_converted_cache.py", "test_cache_faults.py", "test_cache_command.py"
_CORPUS = "test_corpus.py"
KINDS = {
    "code": Kind(
        "code of a repo, and classes that its files name",
        (
            f"{_HOSTILE}::test_a_tokenizer_class_that_is_none_is_never_looked_up",
            "test_torch_file.py::test_a_pickle_is_not_unpickled",
        ),
    ),
    "pickles": Kind(
        "`.bin` files: pickles that build other objects, nest or claim sizes; cut, changed and compressed files",
        (
            "test_torch_file.py::test_a_hostile_pickle_ends_in_a_short_error",
            "test_torch_file.py::test_every_way_to_cut_a_file_short_is_an_error",
            "test_torch_file.py::test_bytes_that_changed_are_an_error_or_other_values_of_the_same_shape",
            "test_torch_file.py::test_a_compressed_entry_is_refused_unread",
            "test_torch_file.py::test_two_storages_of_one_key_are_refused",
        ),
    ),
    "safetensors": Kind(
        "safetensors files that the safetensors library refuses",
        (
            f"{_HOSTILE}::test_what_the_safetensors_library_refuses_is_refused",
            f"{_HOSTILE}::test_a_file_of_torch_is_no_safetensors_file",
        ),
    ),
    "graphs": Kind(
        "graphs of traced models: indices past an end in reads and writes, arguments that end a process, sizes",
        ("test_traced_bounds.py", "test_traced_files.py"),
    ),
    "tables": Kind(
        "static embeddings whose mapping or weights do not fit their table",
        ("test_st_modules.py::test_a_table_of_static_embeddings_is_checked",),
    ),
    "paths": Kind(
        "paths and names in a repo's files that lead elsewhere; links, pipes and devices in its folders", (_PATHS,)
    ),
    "sizes": Kind("sizes in config.json that the tensors do not have", (_SIZES,)),
    "json": Kind(
        "JSON nested a hundred thousand deep, and fields with wrong values",
        (f"{_HOSTILE}::test_json_of_a_hundred_thousand_brackets_is_an_error", "test_json_fields.py"),
    ),
    "tokenizers": Kind(
        "tokenizer files with absurd ids",
        (f"{_HOSTILE}::test_an_absurd_token_id_is_refused_before_a_tokenizer_is_built",),
    ),
    "adapters": Kind(
        "adapters: patterns that never end, sums that do not fit, circles, no tensors",
        (
            f"{_HOSTILE}::test_an_adapter_config_is_bounded",
            f"{_HOSTILE}::test_factors_without_a_common_rank_are_refused",
            f"{_HOSTILE}::test_an_adapter_without_tensors_and_a_circle_of_adapters_are_refused",
            "test_adapters.py::test_tensors_that_have_nowhere_to_go_are_named",
        ),
    ),
    "folders": Kind(
        "broken, incomplete and contradictory model folders; names that are no model",
        (
            "test_errors.py::test_a_bad_folder_is_one_clear_error_and_leaves_nothing",
            "test_errors.py::test_a_name_that_is_no_repo_is_one_clear_error",
            "test_errors.py::test_a_name_of_another_type_is_a_type_error",
        ),
    ),
    "calls": Kind("calls with impossible arguments", ("test_errors.py::test_a_bad_call_is_one_clear_error",)),
    "cache": Kind(
        "the cache: damaged and added files, changed sources, killed conversions, models removed while they are in use",
        (
            f"{_CACHE}::test_a_broken_converted_folder_is_made_again",
            f"{_CACHE}::test_a_source_that_changes_during_its_conversion_is_an_error",
            f"{_CACHE}::test_what_killed_conversions_left_is_removed_and_work_in_progress_is_not",
            f"{_CACHE}::test_a_conversion_that_fails_midway_leaves_nothing",
            f"{_CACHE}::test_a_local_folders_place_changes_with_its_files",
            f"{_CACHE}::test_a_model_of_a_converted_folder_that_changes_is_not_copied_as_another",
            f"{_FAULTS}::test_a_file_that_is_not_of_the_conversion_makes_it_again",
            f"{_FAULTS}::test_a_converted_folder_that_is_cut_while_it_is_read_is_an_error",
            f"{_FAULTS}::test_metadata_that_changed_by_a_word_makes_it_again",
            f"{_FAULTS}::test_a_weight_that_changed_between_samples_is_found_by_reading_every_byte",
            f"{_FAULTS}::test_names_in_metadata_stay_in_the_folder_and_name_plain_files",
            f"{_FAULTS}::test_a_conversion_killed_between_its_two_renames_is_finished",
            f"{_FAULTS}::test_the_steps_of_a_calibration_are_kept_only_if_they_can_be",
            f"{_COMMAND}::test_verify_reads_every_byte_and_says_what_decayed",
            f"{_COMMAND}::test_prune_takes_what_no_load_finds_and_nothing_else",
            f"{_COMMAND}::test_a_model_that_is_loaded_is_not_removed",
            f"{_COMMAND}::test_a_model_that_is_being_converted_is_not_removed",
            f"{_COMMAND}::test_a_load_after_a_removal_has_a_lock_of_its_own",
        ),
    ),
    "disk": Kind(
        "disks that are full or read-only, and caches and models at odd or impossible paths",
        (
            f"{_CACHE}::test_a_full_disk_names_the_cache",
            f"{_CACHE}::test_a_cache_that_is_a_file_is_named",
            f"{_FAULTS}::test_a_save_onto_a_full_disk_names_the_folder_and_changes_nothing",
            f"{_FAULTS}::test_odd_names_are_names",
            f"{_FAULTS}::test_a_relative_cache_and_one_at_the_end_of_a_link_stay_where_they_are",
            f"{_FAULTS}::test_a_cache_that_cannot_be_is_one_short_error",
            f"{_FAULTS}::test_without_a_home_folder_the_cache_must_be_named",
            f"{_FAULTS}::test_a_model_at_a_path_that_is_not_utf8_is_named_before_anything_is_read",
            f"{_FAULTS}::test_zero_change_mode_without_a_cache_runs_on_torch_with_one_warning",
            f"{_COMMAND}::test_a_cache_that_cannot_be_written_has_no_locks_and_loads",
            f"{_CORPUS}::test_a_full_disk_says_so_and_the_work_continues",
            f"{_CORPUS}::test_a_path_that_cannot_be_written_is_refused_at_once",
            f"{_CORPUS}::test_what_a_crash_wrote_behind_the_record_is_cut_off",
            f"{_CORPUS}::test_vectors_that_were_lost_are_a_clear_error",
            f"{_CORPUS}::test_a_record_that_cannot_be_read_is_a_clear_error",
        ),
    ),
    "network": Kind(
        "the network: offline, not in the Hub's cache, no connection; repos that are gated, private or gone",
        (
            f"{_CACHE}::test_what_the_hub_cache_lacks_is_an_error_offline",
            "test_from_pretrained.py::test_what_the_hub_refuses_is_an_os_error",
            "test_from_pretrained.py::test_offline_and_not_cached_is_an_os_error",
        ),
    ),
}


def run(tests: list[str]) -> dict[str, list[bool]]:
    """Run tests and return, for each FILE and FILE::TEST, whether each of its cases passed."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not integrations", "-p", "no:cacheprovider"]
        named = [f"tests/{test}" for test in tests]
        subprocess.run([*command, f"--junit-xml={report}", *named], cwd=ROOT, stdout=sys.stderr)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found: dict[str, list[bool]] = {}
    for case in cases:
        file, function = f"{case.get('classname', '').rpartition('.')[2]}.py", case.get("name", "").partition("[")[0]
        passed = not any(part.tag in ("failure", "error", "skipped") for part in case)
        for name in (file, f"{file}::{function}"):
            found.setdefault(name, []).append(passed)
    return found


def main(names: list[str]) -> int:
    """Print the table of the kinds that are named, or of all."""
    kinds = {name: KINDS[name] for name in names or KINDS}
    found = run([test for kind in kinds.values() for test in kind.tests])
    print("| kind | what was tried | tried | survived |\n| --- | --- | ---: | ---: |")
    every: list[bool] = []
    for name, kind in kinds.items():
        cases = [passed for test in kind.tests for passed in found.get(test, [])]
        print(f"| {name} | {kind.what} | {len(cases):,} | {sum(cases):,} |")
        every += cases
    print(f"| **all** | | {len(every):,} | {sum(every):,} |")
    return int(not every or not all(every))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
