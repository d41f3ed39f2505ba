"""Plugins of installed packages: found by their entry points, checked and named like those of directories."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lva.errors import ConfigurationError
from lva.host.life.states import State
from lva.host.loading.installed import installed_plugins
from lva.host.loading.load import LoadedPlugin, load_plugins
from lva.settings import Settings
from lva.testing import contract
from tests.support import ServiceProcess, host_settings, running, until, write_plugin

SOURCE = '''
"""Rings."""
from lva import BaseBackgroundPlugin
from acme_lva.words import WORD

class Doorbell(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/doorbell", self.ring)
    async def ring(self, request):
        return WORD
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_modules_left: None) -> Iterator[Path]:
    """A directory for installed packages, on `sys.path`."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    yield directory
    for name in [key for key in sys.modules if key.partition(".")[0] == "acme_lva"]:
        del sys.modules[name]


def install(
    site: Path,
    entries: str = "doorbell = acme_lva.doorbell",
    name: str = "acme-lva",
    group: str = "lva.plugins",
    **modules: str,
) -> Path:
    """Write a distribution as pip would; return its package's directory."""
    package = site / "acme_lva"
    files = {"__init__": "", "doorbell": SOURCE, "words": "WORD = 'ding'\n", **modules}
    for module, source in files.items():
        write_plugin(package, module, source, "")
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[{group}]\n{entries}\n")
    return package


def load(tmp_path: Path, *names: str, **settings: str) -> list[LoadedPlugin]:
    return load_plugins(host_settings(tmp_path, names, **settings))


def refused(tmp_path: Path, *names: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, *names)
    (problem,) = caught.value.problems
    return problem


def test_an_installed_plugin_loads_under_its_real_name(site: Path, tmp_path: Path) -> None:
    package = install(site)
    (plugin,) = load(tmp_path, "doorbell.py")
    assert (plugin.name, plugin.path) == ("doorbell", package / "doorbell.py")
    assert plugin.classes[0].__module__ == plugin.module == "acme_lva.doorbell"
    assert len(plugin.sha256) == 64


@pytest.mark.parametrize("alias", [False, True], ids=["same path", "other path"])
def test_a_file_that_is_reached_twice_is_one_plugin(
    site: Path, tmp_path: Path, alias: bool
) -> None:
    """One file is one plugin, by whatever ways it is found: here by its package and in a directory."""
    package = install(
        site, "acme_lva = acme_lva", __init__=SOURCE.replace("acme_lva.words", ".words")
    )
    directory = tmp_path / "alias" if alias else site
    if alias:
        directory.symlink_to(site)
    settings = Settings(active_plugins=("acme_lva",), plugins_dir=(directory,))
    (plugin,) = load_plugins(settings)
    assert (plugin.path, plugin.module) == (package / "__init__.py", "acme_lva")


def test_the_kit_takes_the_file_of_an_installed_plugin(site: Path) -> None:
    """Its author gives the path; the kit names the line, too, though the module is no one of a directory."""
    source = """
        from lva import BaseBackgroundPlugin
        class Doorbell(BaseBackgroundPlugin):
            async def start(self):
                self.rign()
        """
    package = install(site, "acme_lva = acme_lva", __init__=source)
    (failure,) = contract.check_plugin(package).failures
    assert "AttributeError" in failure.message
    assert (failure.file, failure.line) == (str(package / "__init__.py"), 5)


def test_its_helpers_are_the_same_for_everybody(site: Path, tmp_path: Path) -> None:
    install(site)
    load(tmp_path, "doorbell")
    from acme_lva import words

    assert sys.modules["acme_lva.doorbell"].WORD is words.WORD


def test_looking_for_plugins_runs_none_of_their_code(site: Path, tmp_path: Path) -> None:
    install(site, __init__="raise RuntimeError")
    assert [plugin.name for plugin in installed_plugins()] == ["doorbell"]
    load(tmp_path, "history")


@pytest.mark.slow("a thread is waited for")
async def test_a_thread_that_it_leaves_behind_is_named(site: Path, tmp_path: Path) -> None:
    install(
        site,
        doorbell="""
        import threading, trio
        from lva import BaseBackgroundPlugin
        release = threading.Event()
        class Doorbell(BaseBackgroundPlugin):
            async def start(self):
                self.nursery.start_soon(self.work)
            async def work(self):  # nothing of this file will be on the thread's stack
                await trio.to_thread.run_sync(release.wait, abandon_on_cancel=True)
        """,
    )
    settings = host_settings(tmp_path, ["doorbell"])
    async with running(load_plugins(settings), settings) as host:
        threads = threading.enumerate
        await until(lambda: any(" from acme_lva." in thread.name for thread in threads()))
        try:
            part = await host.receipt_of("doorbell")
        finally:
            sys.modules["acme_lva.doorbell"].release.set()
    assert len(part.leaked_threads) == 1, part


async def test_it_is_not_reloaded(site: Path, tmp_path: Path) -> None:
    install(site)
    settings = host_settings(tmp_path, ["doorbell"])
    async with running(load_plugins(settings), settings) as host:
        await host.wait_until_running()
        with pytest.raises(ConfigurationError, match="takes a restart of the service"):
            await host.host.changes.reload("doorbell")
        assert host.life("doorbell").state.value is State.RUNNING


@pytest.mark.parametrize("module", ["doorbell", "words", "__init__"])
def test_all_files_of_its_package_are_checked(module: str, site: Path, tmp_path: Path) -> None:
    package = install(site)
    (package / f"{module}.py").chmod(0o666)
    assert f"{package / module}.py: everybody may write it" in refused(tmp_path, "doorbell")


def test_the_directory_it_is_installed_in_is_checked(site: Path, tmp_path: Path) -> None:
    install(site)
    site.chmod(0o777)
    assert f"{site}: everybody may write it" in refused(tmp_path, "doorbell")


def test_what_was_imported_before_is_checked_all_the_same(site: Path, tmp_path: Path) -> None:
    package = install(site)
    import acme_lva.doorbell

    assert acme_lva.doorbell.Doorbell
    (package / "doorbell.py").chmod(0o666)
    assert "everybody may write it" in refused(tmp_path, "doorbell")


def test_there_may_be_anything_among_the_modules(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    monkeypatch.setitem(sys.modules, "made_unimportable", None)
    monkeypatch.setitem(sys.modules, "acme_lva.doorbell", object())
    (plugin,) = load(tmp_path, "doorbell")
    assert plugin.classes == (sys.modules["acme_lva.doorbell"].Doorbell,)


def test_an_error_in_it_is_shown_with_its_line(site: Path, tmp_path: Path) -> None:
    package = install(site, words="WORD = 1 / 0\n")
    problem = refused(tmp_path, "doorbell")
    assert f"{package / 'words.py'}:1: importing it failed with ZeroDivisionError" in problem


def test_a_file_of_the_same_name_is_a_clash(site: Path, tmp_path: Path) -> None:
    package = install(site)
    file = write_plugin(tmp_path / "plugins", "doorbell", SOURCE)
    problem = refused(tmp_path, "doorbell")
    assert (
        f"found twice: {file} and {package / 'doorbell.py'} of the installed package acme-lva 1.2"
        in problem
    )
    assert "uninstall the package" in problem


def test_two_packages_with_one_name_are_a_clash(site: Path, tmp_path: Path) -> None:
    install(site)
    install(site, name="other-lva")
    problem = refused(tmp_path, "doorbell")
    assert "acme-lva 1.2" in problem
    assert "other-lva 1.2" in problem


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("doorbell = acme_lva.doorbell:Doorbell", "must name a module, as in 'acme_lva.doorbell'"),
        ("doorbell = acme lva", "must name a module"),
        (
            "doorbell = acme_lva.doorbel",
            "names the module 'acme_lva.doorbel', which does not exist",
        ),
        ("doorbell = acme_lvaa", "names the module 'acme_lvaa', which does not exist"),
        ("doorbell = acme_lva.words.more", "which does not exist"),
        ("doorbell = math", "is no Python source file"),
        ("doorbell = acme_lva", "no plugin class in it"),
    ],
)
def test_a_broken_entry_is_a_clear_error(
    entries: str, said: str, site: Path, tmp_path: Path
) -> None:
    install(site, entries)
    problem = refused(tmp_path, "doorbell")
    assert problem.startswith("plugin 'doorbell': ")
    assert said in problem


def test_a_broken_entry_of_a_plugin_that_is_not_active_harms_nobody(
    site: Path, tmp_path: Path
) -> None:
    install(site, "doorbell = nowhere\nno entry at all")
    assert [plugin.name for plugin in load(tmp_path, "history")] == ["history"]


def test_a_slip_of_the_pen_is_told_what_is_installed(site: Path, tmp_path: Path) -> None:
    install(site)
    assert "did you mean 'doorbell'?" in refused(tmp_path, "dorbell")


def test_another_group_is_nobodys_business(site: Path, tmp_path: Path) -> None:
    install(site, group="lva.plugins.old")
    assert "no such plugin" in refused(tmp_path, "doorbell")


@pytest.mark.process
def test_the_service_runs_an_installed_plugin(site: Path, tmp_path: Path) -> None:
    install(site)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    with ServiceProcess(tmp_path, ["doorbell"], env={"PYTHONPATH": path}) as service:
        service.wait_until_ready()
        assert service.get("/doorbell").text == "ding"
        assert service.plugin("doorbell")["file"].endswith("acme_lva/doorbell.py")
        assert service.stop() == 0
