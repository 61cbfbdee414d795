from ludus.envs.installed import is_installed


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    """Numba's files of `umap` outlast its removal."""
    (tmp_path / "leftover_of_a_package" / "__pycache__").mkdir(parents=True)
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "__init__.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [is_installed(name) for name in ("leftover_of_a_package", "a_package", "no_such_one")]
    assert found == [False, True, False]
